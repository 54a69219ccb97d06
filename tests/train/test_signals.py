"""Signals. Contract: the first is a request to stop, a second Ctrl-C interrupts at once, and under torchrun none does."""

import signal
import threading
from collections.abc import Iterator

import pytest

from zipasr.train.signals import stop_request


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Let Ctrl-C interrupt, even where these tests run in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_first_signal_is_a_request_and_a_second_interrupts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    before = signal.getsignal(signal.SIGINT)
    with stop_request() as request:
        assert not request
        signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again stops at once" in capfd.readouterr().err


def test_agent_of_torchrun_may_repeat_it(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with stop_request() as request:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(number)
        assert request.signal == signal.SIGTERM
    assert capfd.readouterr().err.count("a checkpoint is saved") == 1


def test_other_threads_have_no_signals() -> None:
    seen = []

    def work() -> None:
        with stop_request() as request:
            seen.append(bool(request))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
