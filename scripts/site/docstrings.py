"""How the API reference reads our docstrings: an extension of griffe, which reads them from the source without importing it.

The house form is Google's, written tightly: sections follow each other without blank lines, `Source:` is a section, one line
may describe several arguments, and indented blocks are layouts. Griffe expects the looser form.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import griffe

SECTION = re.compile(r"(Args|Returns|Yields|Raises|Source):(.*)")
TAG = re.compile(r"(`+.*?`+)|<(?=[a-z/])", re.DOTALL)
SECOND_ARGUMENT = re.compile(r"(?<=\S) {2,}(?=\w+: )")
ARGUMENTS = re.compile(r"(\w+(?:, \w+)+): (.*)")


def _is_section(match: re.Match[str] | None) -> bool:
    """`Args:` and its like stand alone in their line; `Source:` is followed by the source."""
    return match is not None and (match[1] == "Source" or not match[2].strip())


def _arguments(lines: list[str]) -> Iterator[str]:
    """The lines of `Args:`, with one argument in each entry."""
    for line in lines:
        for part in SECOND_ARGUMENT.split(line):
            entry = part if part.startswith(" ") else "    " + part
            several = ARGUMENTS.fullmatch(entry.strip()) if re.match(r" {4}\S", entry) else None
            names = several[1].split(", ") if several else []
            yield from ([f"    {name}: {several[2]}" for name in names] if several else [entry])


def loosened(text: str) -> str:
    """A docstring in the form that griffe parses: sections after blank lines, one argument per entry, `Source:` as text."""
    lines = TAG.sub(lambda tag: tag[1] or "&lt;", text).splitlines()  # </s> is a symbol, not HTML
    starts = [i for i, line in enumerate(lines) if _is_section(SECTION.match(line))]
    ends = [*starts, len(lines)]
    done = lines[: ends[0]]
    for start, end in pairwise(ends):
        name, body = lines[start].split(":")[0], lines[start + 1 : end]
        if name == "Args":
            body = list(_arguments(body))
        if name == "Source":
            body = [f"**Source:**{lines[start].removeprefix('Source:')}", *(line.strip() for line in body)]
        else:
            body = [lines[start], *body]
        done += body if not done or not done[-1].strip() else ["", *body]
    return "\n".join(done)


def _is_internal(member: griffe.Object) -> bool:
    """Whether a method sets this attribute and nothing describes it; fields of a class are declared without a value."""
    is_set_by_method = member.is_attribute and member.labels & {"instance-attribute", "class-attribute"} == {
        "instance-attribute"
    }
    return is_set_by_method and not member.has_docstring and getattr(member, "value", None) is not None


def _prepare(node: griffe.Object) -> None:
    """Rewrite the docstrings of a module or class and of all that is in it, and drop attributes that are internal."""
    if node.docstring:
        node.docstring.value = loosened(node.docstring.value)
    for name, member in list(node.members.items()):
        if member.is_alias:
            continue
        if _is_internal(member):
            del node.members[name]
        else:
            _prepare(member)


class HouseDocstrings(griffe.Extension):
    """Rewrites every docstring of a package before it is parsed."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called by griffe once the package is read."""
        _prepare(pkg)
