"""Files transcribed by several processes at once, each with a recognizer of its own -> results in the order of the files."""

import collections
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

from zipasr.errors import ConfigError, ZipasrError
from zipasr.recognizer.files import FileResult
from zipasr.recognizer.recognizer import Recognizer

TranscribeFile = Callable[[Recognizer, str], Iterator[FileResult]]
_FILES_AHEAD = 4
"""Files per process that are transcribed or wait for it. More would only hold results while a long file is first."""

_load: Callable[[], Recognizer] | None = None
"""Gives the recognizer of this process, if it is one of `transcribe_in_processes`."""


def threads_per_job(num_jobs: int, num_threads: int, *, flag: str = "--jobs") -> int:
    """The threads of each of some jobs that together use at most `num_threads`.

    Raises:
        ConfigError: `num_jobs` is not from 1 to `num_threads`; the message names the flag.
    """
    if not 1 <= num_jobs <= num_threads:
        raise ConfigError(
            f"{flag} must be from 1 to the number of threads, {num_threads}, but is {num_jobs}; give more with --threads"
        )
    return num_threads // num_jobs


def transcribe_in_processes(
    paths: Sequence[str], *, num_jobs: int, load: Callable[[], Recognizer], transcribe: TranscribeFile
) -> Iterator[FileResult]:
    """The results of files in their order, several being transcribed at once.

    Args:
        load: loads the recognizer of a process; like `transcribe`, it must be possible to pickle it.
        transcribe: the results of one file, such as a partial of `Recognizer.transcribe_files` for a list of one.
    Raises:
        ZipasrError: a process was ended; results that came before are good.
    """
    # Spawned, not forked: a process that is forked after PyTorch has computed may wait forever for threads it does not have.
    pool = ProcessPoolExecutor(
        min(num_jobs, len(paths)), multiprocessing.get_context("spawn"), initializer=_start, initargs=(load,)
    )
    waiting: collections.deque[Future[list[FileResult]]] = collections.deque()
    todo = iter(paths)
    try:
        while True:
            while len(waiting) < _FILES_AHEAD * num_jobs and (path := next(todo, None)) is not None:
                waiting.append(pool.submit(_transcribe, transcribe, path))
            if not waiting:
                return
            results = waiting[0].result()  # it waits until it is here, for what an interruption must end
            waiting.popleft()
            yield from results
    except BrokenProcessPool as error:
        raise ZipasrError(
            f"{num_jobs} processes must fit into memory, each with the model, but one was ended; use fewer --jobs"
        ) from error
    finally:
        # Python 3.14 has terminate_workers(); `active_children` would have those of the caller, too.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=not waiting, cancel_futures=True)
        if waiting:  # interrupted, or a process died
            for process in processes:
                process.terminate()


def _start(load: Callable[[], Recognizer]) -> None:
    """Prepare a new process: it loads the recognizer with its first file, and ends when the user or its parent does."""
    global _load
    _load = lru_cache(1)(load)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only processes of a pool are started here"
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _transcribe(transcribe: TranscribeFile, path: str) -> list[FileResult]:
    assert _load is not None, "only processes of a pool transcribe here"
    return list(transcribe(_load(), path))
