"""Run: files transcribed in several processes are interrupted; only these processes are ended."""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import pytest

from tests.tiny_model import tiny_recognizer
from tests.watchdog import WATCHDOG_S
from zipasr.recognizer import FileResult, Recognizer, transcribe_in_processes
from zipasr.transcript import Transcript


def transcribe(_: Recognizer, path: str) -> Iterator[FileResult]:
    """The result of a file; one that is "slow" takes as long as nobody waits."""
    if path == "slow":
        time.sleep(10 * WATCHDOG_S)
    yield FileResult(path, Transcript(path))


@pytest.fixture
def bystander() -> Iterator[BaseProcess]:
    """A process that the caller started for something else."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(10 * WATCHDOG_S,), daemon=True)
    process.start()
    yield process
    process.terminate()
    process.join(WATCHDOG_S)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each pool that is shut down is told to wait for its files; it never does."""
    told, shutdown = list[bool](), ProcessPoolExecutor.shutdown

    def record(self: ProcessPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        told.append(wait)
        shutdown(self, wait=False, cancel_futures=cancel_futures)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", record)
    return told


def ended(processes: set[BaseProcess]) -> bool:
    """Whether they end; not `is_alive`, which is wrong for a moment where the thread of the pool joins a process first."""
    return all(wait([process.sentinel], WATCHDOG_S) for process in processes)


def test_a_closed_iterator_ends_only_its_own_processes(bystander: BaseProcess, waits: list[bool]) -> None:
    before = set(multiprocessing.active_children())
    results = transcribe_in_processes(["fast", "slow", "slow"], num_jobs=2, load=tiny_recognizer, transcribe=transcribe)
    assert next(results).path == "fast"
    started = set(multiprocessing.active_children())
    results.close()  # type: ignore[attr-defined]
    assert waits == [False] and len(started - before) == 2
    assert ended(started - before) and bystander.is_alive()


def test_an_interruption_does_not_wait_for_the_last_file(waits: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    before, started = set(multiprocessing.active_children()), set[BaseProcess]()

    def interrupt(_: Future[object], timeout: float | None = None) -> None:
        started.update(multiprocessing.active_children())
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(transcribe_in_processes(["slow"], num_jobs=2, load=tiny_recognizer, transcribe=transcribe))
    assert waits == [False] and len(started - before) == 1 and ended(started - before)
