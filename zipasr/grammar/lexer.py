"""The symbols of a JSGF grammar: text -> words, names of rules, weights, tags and signs, with their places."""

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from zipasr.errors import ConfigError
from zipasr.grammar.place import Place, Source

HEADER = re.compile(r"\s*#JSGF\s+V1\.0(?:[ \t]+[\w.:-]+){0,2}[ \t]*;")
"""The first line: version, encoding, language."""

Kind = Literal["word", "quoted", "name", "weight", "tag", "sign", "end"]
_SYMBOL = re.compile(
    r"""(?P<blank>\s+|//[^\n\r]*|/\*.*?\*/)
    |(?P<name><[^<>\n\r]*>)
    |(?P<weight>/\s*[-+\d.][^/\n\r]*/)
    |(?P<tag>\{(?:[^\\{}]|\\.)*\})
    |(?P<quoted>"(?:[^\\"\n\r]|\\.)*")
    |(?P<sign>[;=|*+()[\]])
    |(?P<word>(?!/)(?:[^\s;=|*+<>()[\]{}"\\/]|\\\S|/(?![/*]))+)""",
    re.VERBOSE | re.DOTALL,
)
_UNFINISHED = {
    "<": "the name of a rule must end with > in its line",
    "{": "a tag must end with }",
    '"': 'a quotation must end with " in its line',
    "/": "a weight must end with / in its line, and a comment with */",
    "}": "a tag must start with {",
    ">": "the name of a rule must start with <",
    "\\": "a \\ must be before a character",
}


class Symbol(NamedTuple):
    """A symbol of a grammar."""

    kind: Kind
    text: str
    """A word or sign, or what is between " and ", < and >, / and / or { and }; words and tags without escapes."""
    place: Place

    def __str__(self) -> str:
        shown = {"name": "<{}>", "weight": "/{}/", "tag": "{{{}}}", "quoted": '"{}"', "end": "the end of the file"}
        return shown.get(self.kind, "{}").format(self.text)


def symbols_of(source: Source) -> Iterator[Symbol]:
    """Yield the symbols of a grammar behind its header, and one of the kind "end".

    Raises:
        ConfigError: the header is missing, or a name, a tag, a quotation or a comment has no end.
    """
    header = HEADER.match(source.text)
    if header is None:
        raise ConfigError(
            f"{source.place(0)}: a JSGF grammar must start with #JSGF V1.0; but this one does not; add the line"
        )
    offset = header.end()
    while offset < len(source.text):
        found = _SYMBOL.match(source.text, offset)
        if found is None:
            sign = source.text[offset]
            raise ConfigError(f"{source.place(offset)}: {_UNFINISHED[sign]}, but this one does not")
        kind, text = found.lastgroup, found[0]
        if kind != "blank":
            yield Symbol(kind, _inner(kind, text), source.place(offset))  # type: ignore[arg-type]
        offset = found.end()
    yield Symbol("end", "", source.place(len(source.text)))


def _inner(kind: str | None, text: str) -> str:
    """A symbol without its signs and escapes."""
    inner = text if kind in ("word", "sign") else text[1:-1]
    return inner.strip() if kind in ("name", "weight") else re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL)


def weight_of(text: str, place: Place) -> float:
    """The number of a weight.

    Raises:
        ConfigError: it is not a finite number from 0.
    """
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ConfigError(f"{place}: a weight must be a finite number from 0, but is {text}; write /2.5/ before the words")
    return weight
