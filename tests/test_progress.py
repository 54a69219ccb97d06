"""Progress. Contract: occasional plain lines if stderr is not a terminal, a bar if it is one, nothing if quiet."""

import io
import sys

import pytest

from zipasr.progress import LINE_INTERVAL_S, Progress, quiet, track, write_line


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def count(num_steps: int, step_s: float, **options: object) -> None:
    clock = Clock()
    with Progress("train", unit="batches", clock=clock, **options) as progress:  # type: ignore[arg-type]
        for _ in range(num_steps):
            clock.now_s += step_s
            progress.update()


def test_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    count(200, LINE_INTERVAL_S / 60, total=300, done=100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "train: 160 of 300 batches (53%), 00:30 elapsed, 01:10 left",
        "train: 220 of 300 batches (73%), 01:00 elapsed, 00:40 left",
        "train: 280 of 300 batches (93%), 01:30 elapsed, 00:10 left",
    ]
    assert "\r" not in captured.err


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    count(100, LINE_INTERVAL_S / 101)
    assert list(track("abc", "prepare", unit="files")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_unknown_total_note_and_scale(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("index", unit="bytes", clock=clock) as progress:
        progress.note("loss 0.50")
        clock.now_s += LINE_INTERVAL_S
        progress.set_done(2_500_000)
    progress.update()
    assert capsys.readouterr().err == "index: 2.50M bytes, 00:30 elapsed, loss 0.50\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(track(range(3), "prepare", unit="files", is_kept=True)) == [0, 1, 2]
    assert "\r" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_quiet_shows_errors_alone(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with quiet():
        count(10, LINE_INTERVAL_S)
        write_line("a note")
        write_line("an error", is_error=True)
    assert stream.getvalue() == "an error\n"
    write_line("a note")
    assert stream.getvalue() == "an error\na note\n"


def test_a_closed_stderr_takes_no_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    write_line("a note")
    write_line("an error", is_error=True)
    assert capsys.readouterr().out == ""


def test_hidden_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    count(10, LINE_INTERVAL_S, is_hidden=True)
    assert capsys.readouterr().err == ""
