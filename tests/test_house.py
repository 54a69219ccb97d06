"""Contract: the caps of the house hold in `zipasr/`: size of files and functions, number of parameters, nesting, and the
form of error messages.

A place that exceeds a cap says so in a comment that starts `Differs:` and names the cap: "lines", "parameters" or "nesting".
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import zipasr

PACKAGE = Path(zipasr.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES, HARD_FILE_LINES = 400, 600
MAX_FUNCTION_LINES, HARD_FUNCTION_LINES = 60, 100
MAX_PARAMETERS = 8
MAX_NESTING = 3

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """A place over a cap."""

    cap: str
    place: str
    detail: str


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def says_differs(lines: list[str], word: str) -> bool:
    """Whether a comment or docstring in the lines says `Differs:` about `word`."""
    return any("Differs:" in line and word in " ".join(lines[i : i + 2]) for i, line in enumerate(lines))


def lines_of(function: Function, lines: list[str]) -> list[str]:
    """The lines of a function and the comments directly above it."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)]) - 1
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    assert function.end_lineno is not None
    return lines[first : function.end_lineno]


def num_parameters(function: Function) -> int:
    """The number of parameters that a caller can give; `self`, `cls` and the `ctx` of autograd do not count."""
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return sum(name not in ("self", "cls", "ctx") for name in names)


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Levels of nested if, for, while, try and match.

    An `elif` is on the level of its `if`. A `with` neither branches nor repeats and adds no level. Inner functions count by
    themselves.
    """
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        is_level = isinstance(child, ast.If | ast.For | ast.AsyncFor | ast.While | ast.Try | ast.Match)
        deepest = max(deepest, nesting(child, depth + (is_level and not is_elif)))
    return deepest


def message_of(node: ast.expr) -> str | None:
    """The text of a message with {} for each value; None if it is not written in the raise statement."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def messages(tree: ast.AST) -> Iterator[str]:
    """The messages of every ValueError and ConfigError that is raised."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            is_ours = node.exc.func.id in ("ValueError", "ConfigError")
            text = message_of(node.exc.args[0]) if is_ours and node.exc.args else None
            if text is not None:
                yield text


def wrong_form(message: str) -> str | None:
    """What is wrong with a message; the form is "`x` must be ..., but is ...; cure"."""
    if re.match(r"[Ee]xpected\b", message):
        return "starts with 'expected' instead of 'x must be ..., but is ...'"
    if re.search(r"\bmust\b", message) and not re.search(r"\b(but|and this one)\b", message):
        return "says what must be, but not what is"
    return None


def findings_in(path: Path) -> Iterator[Finding]:
    """Everything in a file that exceeds a cap."""
    text = path.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    is_marked = says_differs([line for line in lines if line.startswith("# ")], "lines")
    if len(lines) > (HARD_FILE_LINES if is_marked else MAX_FILE_LINES):
        yield Finding("file lines", path.name, str(len(lines)))
    for function in functions(tree):
        place, own = f"{path.name}::{function.name}", lines_of(function, lines)
        assert function.end_lineno is not None
        size = function.end_lineno - function.lineno + 1
        if size > (HARD_FUNCTION_LINES if says_differs(own, "lines") else MAX_FUNCTION_LINES):
            yield Finding("function lines", place, str(size))
        if num_parameters(function) > MAX_PARAMETERS and not says_differs(own, "parameters"):
            yield Finding("parameters", place, str(num_parameters(function)))
        if nesting(function) > MAX_NESTING and not says_differs(own, "nesting"):
            yield Finding("nesting", place, str(nesting(function)))
    for message in messages(tree):
        if wrong := wrong_form(message):
            yield Finding("error form", path.name, f"{message[:60]!r} {wrong}")


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return [finding for path in FILES for finding in findings_in(path)]


def test_caps_hold(found: list[Finding]) -> None:
    assert found == [], "shorten these, or say why not in a comment that starts `Differs:`"


LOOPS = "def f():\n for a in b:\n  while a:\n   if a:\n    try:\n     a()\n    finally:\n     a()\n"
MANY = "def f(self, a, b, c, d, e, f, g, h, *, i):\n pass\n"


@pytest.mark.parametrize(
    ("code", "caps"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["file lines"]),
        ("# Differs: longer than 400 lines, for a reason.\n" + "x = 1\n" * 599, []),
        ("# Differs: longer than 400 lines, for a reason.\n" + "x = 1\n" * 600, ["file lines"]),
        ("def f():\n" + " x = 1\n" * 59, []),
        ("def f():\n" + " x = 1\n" * 60, ["function lines"]),
        ("# Differs: longer than 60 lines, for a reason.\ndef f():\n" + " x = 1\n" * 99, []),
        ("# Differs: longer than 60 lines, for a reason.\ndef f():\n" + " x = 1\n" * 100, ["function lines"]),
        (MANY, ["parameters"]),
        ("# Differs: nine parameters, for a reason.\n" + MANY, []),
        (MANY.replace(", *, i", ""), []),
        (LOOPS, ["nesting"]),
        (LOOPS.replace("while a", "with a"), []),
        ("def f():\n if a:\n  pass\n elif b:\n  pass\n elif c:\n  pass\n elif d:\n  pass\n", []),
        ("raise ValueError(f'Expected 1, got {x}')", ["error form"]),
        ("raise ConfigError('x must be 1')", ["error form"]),
        ("raise ValueError(f'x must be 1, but is {x}; count again')", []),
        ("raise DataError('expected 1')", []),
    ],
)
def test_what_is_over_is_found(tmp_path: Path, code: str, caps: list[str]) -> None:
    path = tmp_path / "code.py"
    path.write_text(code)
    assert [finding.cap for finding in findings_in(path)] == caps
