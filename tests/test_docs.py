"""Contract: the code blocks of docs/*.md, README.md and the other pages beside it are true of this version.

How to mark a block: its info string states its kind and what is tested.

- `python run`: a complete program, run here by itself in an empty folder. So is all Python of docs/research.md.
- `python`: part of a program. It must compile, and what it imports from zipasr must exist.
- `bash`: commands. The arguments of every `zipasr VERB ...` are parsed, not run; a word in capitals stands for any value.
- `json`: must be JSON. `text`: anything else, such as output, layouts and files.

README.md has no `python run`: tests/test_readme.py runs all its blocks, in order.
"""

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REPOSITORY
from zipasr.cli.command import _parser

MARKS = ("python run", "python", "bash", "json", "text")
FILES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced code block."""

    place: str
    """File and line of its opening fence."""
    mark: str
    """Its info string."""
    content: str


def blocks_of(path: Path) -> Iterator[Block]:
    """The fenced code blocks of a Markdown file, in order."""
    fence, content, start, mark = "", [], 0, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        found = re.match(r" *(`{3,}|~{3,})(.*)", line)
        if not fence and found:
            fence, mark = found[1], found[2].strip()
            content, start = [], number
        elif fence and found and found[1].startswith(fence) and not found[2].strip():
            yield Block(f"{path.name}:{start}", mark, "".join(content))
            fence = ""
        elif fence:
            content.append(line)
    assert not fence, f"{path.name}:{start}: the block has no end"


BLOCKS = [block for path in FILES for block in blocks_of(path)]


def marked(*marks: str) -> pytest.MarkDecorator:
    """Parametrize a test with the blocks that have these marks."""
    chosen = [block for block in BLOCKS if block.mark in marks]
    return pytest.mark.parametrize("block", chosen, ids=[block.place for block in chosen])


def commands_of(script: str) -> Iterator[list[str]]:
    """The arguments of each `zipasr ...` or `... -m zipasr ...` in a shell script."""
    for line in re.sub(r"\\\n", " ", script).splitlines():
        words = shlex.shlex(
            re.sub(r"<\([^)]*\)", "PIPE", line.strip().removeprefix("$ ")), posix=True, punctuation_chars=True
        )
        words.whitespace_split = True
        commands: list[list[str]] = [[]]
        for word in words:
            if set(word) <= set("();<>|&"):
                commands.append([])
            else:
                commands[-1].append(word)
        for command in commands:
            if command[:1] == ["zipasr"]:
                yield command[1:]
            elif "zipasr" in command and command[command.index("zipasr") - 1] == "-m":
                yield command[command.index("zipasr") + 1 :]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The parsed arguments of `zipasr`, without running anything; raises SystemExit if they are wrong."""
    arguments = ["1" if re.fullmatch(r"[A-Z_]+", argument) else argument for argument in arguments]
    return _parser(arguments).parse_args(arguments)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_block_is_marked(path: Path) -> None:
    for block in blocks_of(path):
        assert block.mark in MARKS, f"{block.place}: {block.mark!r} must be one of {MARKS}; see tests/test_docs.py"
        if path.name == "README.md":
            assert block.mark != "python run", f"{block.place}: mark it `python`; tests/test_readme.py runs it"
        if path.name == "research.md":
            assert block.mark != "python", f"{block.place}: mark it `python run`; all blocks of this page are run"


@marked("python run")
def test_program_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.content, block.place, "exec"), {"__name__": "__main__"})


@marked("python")
def test_python_compiles_and_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.content, filename=block.place)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "zipasr":
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "zipasr":
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{block.place}: {node.module} has no {', '.join(missing)}"


@marked("bash")
def test_commands_are_those_of_the_command_line(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in commands_of(block.content):
        try:
            parse(arguments)
        except SystemExit as stop:
            if stop.code != 0:  # 0: --help or --version
                pytest.fail(f"{block.place}: zipasr {shlex.join(arguments)}\n{capsys.readouterr().err}")


@marked("json")
def test_json_is_json(block: Block) -> None:
    for line in block.content.splitlines():
        json.loads(line)


def test_commands_are_found_wherever_they_stand() -> None:
    script = (
        "pip install 'zipasr[onnx]'\n"
        "zipasr transcribe exp/mine a.wav  # the text; zipasr nothing\n"
        "torchrun --nproc-per-node 4 -m zipasr train librispeech:medium \\\n    --out exp/a\n"
        "ffmpeg -i x -f wav - | zipasr transcribe exp/mine - && zipasr plot exp/mine > log\n"
        "zipasr transcribe exp/mine <(curl -s https://example.org/a.mp3)\n"
        'zipasr train data --set \'mix=[{"data": "data/old", "share": 0.5}]\' --out exp/both\n'
    )
    assert list(commands_of(script)) == [
        ["transcribe", "exp/mine", "a.wav"],
        ["train", "librispeech:medium", "--out", "exp/a"],
        ["transcribe", "exp/mine", "-"],
        ["plot", "exp/mine"],
        ["transcribe", "exp/mine", "PIPE"],
        ["train", "data", "--set", 'mix=[{"data": "data/old", "share": 0.5}]', "--out", "exp/both"],
    ]


@pytest.mark.parametrize(
    "arguments",
    [["transcribe", "exp/mine", "--subtitles"], ["listen", "exp/mine"], ["plot"], ["export", "DIR", "--chunk", "x"]],
)
def test_wrong_commands_are_noticed(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2


def test_placeholders_stand_for_values() -> None:
    parsed = parse(["export", "DIR", "--out", "OUT", "--chunk-ms", "N"])
    assert (parsed.out, parsed.chunk_ms) == ("1", 1)
