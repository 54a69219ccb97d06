"""Contract: what the help shows first: the usage, a command that works as an example, and what to do without a verb."""

import argparse
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from zipasr.cli import command, main
from zipasr.cli.command import _parser

SCREEN_LINES, SCREEN_COLUMNS = 24, 80


class Help(NamedTuple):
    """The parser of a verb and its help on a terminal of 80 columns."""

    verb: str
    parser: argparse.ArgumentParser
    lines: list[str]


@pytest.fixture(params=command.VERBS)
def shown(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Help:
    monkeypatch.setenv("COLUMNS", str(SCREEN_COLUMNS))
    assert main([request.param, "--help"]) == 0
    return Help(request.param, verb_parser(request.param), capsys.readouterr().out.splitlines())


def verb_parser(verb: str) -> argparse.ArgumentParser:
    (subparsers,) = (action for action in _parser([verb])._actions if isinstance(action, argparse._SubParsersAction))
    return subparsers.choices[verb]


def examples_in(lines: list[str]) -> list[list[str]]:
    """The words of each example."""
    return [shlex.split(line.removeprefix("example: ")) for line in lines if line.startswith("example: ")]


def usage_of(lines: list[str]) -> str:
    """The usage, on one line."""
    end = next(i for i, line in enumerate(lines) if not line or line.startswith("example: "))
    return " ".join(" ".join(lines[:end]).split())


def test_first_screen_has_one_example_that_parses(shown: Help) -> None:
    (words,) = examples_in(shown.lines[:SCREEN_LINES])
    assert words[:2] == ["zipasr", shown.verb]
    args = _parser(words[1:]).parse_args(words[1:])
    assert args.verb == shown.verb
    assert callable(args.run)


def test_no_line_is_wider_than_the_terminal(shown: Help) -> None:
    assert [line for line in shown.lines if len(line) > SCREEN_COLUMNS] == []


def test_usage_names_what_must_be_given_and_no_other_flag(shown: Help) -> None:
    usage = usage_of(shown.lines)
    groups = [group for group in shown.parser._mutually_exclusive_groups if group.required]
    needed = [action for action in shown.parser._actions if action.required]
    needed += [action for group in groups for action in group._group_actions]
    required = {action.option_strings[-1] for action in needed if action.option_strings}
    positional = [action for action in shown.parser._actions if not action.option_strings]
    assert usage.startswith(f"usage: zipasr {shown.verb} ")
    assert usage.endswith(" [options]")
    for action in positional:
        assert re.search(rf"\b{action.metavar}\b", usage), f"{action.metavar} is missing in: {usage}"
    assert required <= set(re.findall(r"--[a-z-]+", usage))
    assert set(re.findall(r"--[a-z-]+", usage)) <= required | {"--all"}, "`profile` takes --all instead of a name"


def test_every_argument_is_explained(shown: Help) -> None:
    assert shown.parser.description
    assert [action.dest for action in shown.parser._actions if not action.help] == []


def test_example_stands_beside_an_error(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "data/mine"]) == 2
    error = capsys.readouterr().err
    assert examples_in(error.splitlines())[0][:2] == ["zipasr", "train"]
    assert "--out" in error.splitlines()[-1]


def commands_in(text: str) -> Iterator[list[str]]:
    """The arguments of each indented command."""
    return (shlex.split(line)[1:] for line in text.splitlines() if line.startswith("  zipasr "))


@pytest.mark.parametrize(("flag", "hint"), [("--serch", "did you mean --search?"), ("--xyzzy", "zipasr transcribe --help")])
def test_an_unknown_flag_is_met_by_the_usage_of_the_verb(flag: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["transcribe", "exp/mine", "a.wav", flag]) == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: zipasr transcribe DIR") and flag in error and hint in error


def test_without_arguments_it_says_what_to_do_first(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert len(output.splitlines()) <= 12
    assert max(map(len, output.splitlines())) <= SCREEN_COLUMNS
    commands = list(commands_in(output))
    for words in commands:
        _parser(words).parse_args(words)
    assert [words[0] for words in commands] == ["prepare", "train", "transcribe", "transcribe", "prepare", "train"]
    for prepare, train in (commands[0:2], commands[4:6]):  # what one writes, the next one reads
        data = prepare[prepare.index("--out") + 1]
        assert train[1] == data or data == "data/prompts", "the recipes of prompts read data/prompts"
    assert commands[2][1] == commands[1][commands[1].index("--out") + 1]


def test_help_of_the_command_has_an_example(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    (words,) = examples_in(output.splitlines()[:SCREEN_LINES])
    _parser(words[1:]).parse_args(words[1:])
    assert [verb for verb in command.VERBS if verb not in output] == []
