"""Contract of the command line: verbs, exit codes, one-line errors, and a fast --help."""

import argparse
import errno
import importlib
import os
import subprocess
import sys

import pytest

import zipasr
from tests.watchdog import WATCHDOG_S
from zipasr.cli import command, main
from zipasr.errors import AudioError, ConfigError


@pytest.fixture
def failing_verb(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException | int]:
    """A verb `fail` that raises or returns the value stored as "outcome"."""
    outcome: dict[str, BaseException | int] = {}

    class Module:
        @staticmethod
        def add_parser(subparsers: argparse._SubParsersAction) -> None:
            subparsers.add_parser("fail").set_defaults(run=Module.run)

        @staticmethod
        def run(args: argparse.Namespace) -> int:
            if isinstance(outcome["outcome"], BaseException):
                raise outcome["outcome"]
            return outcome["outcome"]

    original = importlib.import_module
    monkeypatch.setattr(command, "VERBS", ("fail",))
    monkeypatch.setattr(
        command.importlib, "import_module", lambda name: Module if name == "zipasr.cli.fail" else original(name)
    )
    return outcome


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (AudioError("Expected this,\n  got that."), 1, "zipasr: error: Expected this, got that.\n"),
        (ConfigError("beam must be 1"), 2, "zipasr: error: beam must be 1\n"),
        (KeyboardInterrupt(), 130, "zipasr: interrupted\n"),
    ],
)
def test_exit_codes(failing_verb: dict, capsys: pytest.CaptureFixture, outcome, code: int, message: str) -> None:
    failing_verb["outcome"] = outcome
    assert main(["fail"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == message


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_an_error_keeps_its_exit_code_without_a_stream(
    name: str, failing_verb: dict, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has None for a stream that was closed before it started, as by `>&-`."""
    failing_verb["outcome"] = ConfigError("beam must be 1")
    with monkeypatch.context() as patch:
        patch.setattr(sys, name, None)
        assert main(["fail"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ("zipasr: error: beam must be 1\n" if name == "stdout" else "")


def test_a_bug_prints_a_traceback(failing_verb: dict, capsys: pytest.CaptureFixture) -> None:
    failing_verb["outcome"] = ZeroDivisionError("division by zero")
    assert main(["fail"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("zipasr: error: unexpected ZeroDivisionError: division by zero; this is a bug, please report it\n")


@pytest.mark.parametrize("argv", [["--quiet"], ["nonsense"], ["evaluate"], ["evaluate", "a", "b", "--search", "guess"]])
def test_misuse_exits_2(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(argv) == 2
    assert "usage: zipasr" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["transcribe", "m", ""], ["transcribe", "m", "a.wav", ""], ["train", "", "--out", "o"]])
def test_empty_arguments_are_refused(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    """They come from unset variables of a shell, and would mean this folder."""
    assert main(argv) == 2
    name = "recipe" if "train" in argv else "audio"
    assert f"{name} must have a value, but is empty; give one or leave it out" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"zipasr {zipasr.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from zipasr.cli import main; code = main(['--help']); "
        "heavy = {'torch', 'numpy', 'av', 'lhotse', 'sentencepiece'} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(code or len(heavy))"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = os.times()
    # It takes 0.1 s of processor time, which other programs do not increase; the bound only detects that torch is loaded.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5.0
    for verb in command.VERBS:
        assert verb in done.stdout


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "zipasr"], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("zipasr ")


def test_a_closed_pipe_prints_no_traceback() -> None:
    code = (
        "import sys, zipasr.cli.command as c; import types; "
        "run = lambda args: [print('x' * 1000, flush=True) for _ in range(1000)] and 0; "
        "add = lambda s: s.add_parser('talk').set_defaults(run=run); "
        "sys.modules['zipasr.cli.talk'] = types.SimpleNamespace(add_parser=add); c.VERBS = ('talk',); "
        "sys.exit(c.main(['talk']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=WATCHDOG_S) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("argv", [[], ["--version"], ["--help"], ["inspect", "--help"]])
def test_full_disk_of_stdout_is_reported(argv: list[str]) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zipasr", *argv], check=False, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode != 0
    assert os.strerror(errno.ENOSPC) in done.stderr
