"""The one thread that computes: recordings (samples,) in, transcripts out, those that wait at the same time in one batch.

It takes what is there whenever it becomes free, so a request never waits for a batch to fill. Turns alternate: a chunk of
all live streams, then a batch of recordings, which is kept short while there are streams. Pieces of long recordings fill
what room the short ones leave, and at least one goes on in every turn.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Protocol

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.recognizer import Recognizer
from zipasr.serve.limits import ServerBusy
from zipasr.serve.metrics import Metrics
from zipasr.transcript import Transcript

Hotwords = tuple[str, ...] | None
"""Phrases of one request; None: those of the recogniser."""
_BATCH_S, _BATCH_BESIDE_STREAMS_S = 60.0, 10.0
# As much as a recogniser computes at once on a CPU; beside streams about a chunk's wait on two cores. The first always fits.


class LiveWork(Protocol):
    """Streams, as the thread sees them."""

    def step(self) -> bool:
        """Compute what is there; return whether there are streams at all."""
        ...

    def has_work(self) -> bool:
        """Whether `step` would find something to do."""
        ...


class Job:
    """A recording, or a piece of one, that waits."""

    def __init__(self, samples: np.ndarray, hotwords: Hotwords) -> None:
        self.samples, self.hotwords = samples, hotwords
        self.future: Future[Transcript] = Future()
        self.since_s = time.monotonic()

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / SAMPLE_RATE_HZ


class BatchingWorker:
    """The thread and what waits for it. `submit` and `transcribe_pieces` may be called from any thread."""

    def __init__(self, recognizer: Recognizer, metrics: Metrics, *, max_waiting: int) -> None:
        """Make it; `start` it before use.

        Args:
            recognizer: what computes, from now on for this thread alone.
            metrics: what is counted.
            max_waiting: recordings that may wait.
        """
        self.recognizer, self.metrics, self.max_waiting = recognizer, metrics, max_waiting
        self.live: LiveWork | None = None
        self._short: deque[Job] = deque()
        self._pieces: deque[Job] = deque()
        self._wakes = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="zipasr-recognizer", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether it computes; only a bug of ours can end it before `stop`."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after its turn; what still waits is cancelled."""
        with self._wakes:
            self._is_stopping = True
            self._wakes.notify_all()
        self._thread.join()
        for job in (*self._short, *self._pieces):
            job.future.cancel()

    def wake(self) -> None:
        """Say that a stream has something to do."""
        with self._wakes:
            self._wakes.notify_all()

    def submit(self, samples: np.ndarray, hotwords: Hotwords = None) -> "Future[Transcript]":
        """Line up a recording that is transcribed whole; cancel the future to give its place away.

        Raises:
            ServerBusy: too many wait.
        """
        with self._wakes:
            if self._is_stopping:
                raise ServerBusy("The server is about to stop; please try again in a moment.")
            self._short = deque(job for job in self._short if not job.future.cancelled())
            if len(self._short) >= self.max_waiting:
                raise ServerBusy(
                    f"{len(self._short)} recordings wait to be transcribed, all there may be; please retry later."
                )
            job = Job(samples, hotwords)
            self._short.append(job)
            self._wakes.notify_all()
        self._count_waiting()
        return job.future

    def transcribe_pieces(
        self,
        pieces: Sequence[np.ndarray],
        hotwords: Hotwords,
        is_given_up: Callable[[], bool],
        on_piece: Callable[[float], None],
    ) -> Iterator[Transcript]:
        """Transcribe pieces of a recording that has been admitted, and wait for them; not for the event loop's thread.

        Args:
            pieces: each (samples,).
            hotwords: see `submit`.
            is_given_up: asked several times a second whether nobody waits for them any more.
            on_piece: called with the seconds of each piece that is done.
        Yields:
            The transcript of each piece, in order, when it is done.
        Raises:
            CancelledError: it was given up, or the worker stops.
        """
        jobs = [Job(samples, hotwords) for samples in pieces]
        with self._wakes:
            self._pieces.extend(jobs)
            self._wakes.notify_all()
        try:
            for job in jobs:
                transcript = self._awaited(job, is_given_up)
                on_piece(job.duration_s)
                yield transcript
        finally:
            for job in jobs:
                job.future.cancel()

    def _awaited(self, job: Job, is_given_up: Callable[[], bool]) -> Transcript:
        while not (is_given_up() or self._is_stopping):
            if wait([job.future], timeout=0.2).done:
                return job.future.result()
        raise CancelledError

    def _count_waiting(self) -> None:
        self.metrics.waiting.set(len(self._short) + len(self._pieces))

    def _run(self) -> None:
        while True:
            with self._wakes:
                self._wakes.wait_for(lambda: self._is_stopping or self._short or self._pieces or self._has_live_work())
                if self._is_stopping:
                    return
            has_streams = self.live.step() if self.live is not None else False
            batch = self._next_batch(_BATCH_BESIDE_STREAMS_S if has_streams else _BATCH_S)
            if batch:
                self._compute(batch)
            self._count_waiting()

    def _has_live_work(self) -> bool:
        return self.live is not None and self.live.has_work()

    def _next_batch(self, max_s: float) -> list[Job]:
        """The oldest recording or piece and those after it that share its hotwords and fit."""
        with self._wakes:
            for queue in (self._short, self._pieces):
                while queue and queue[0].future.cancelled():
                    queue.popleft()
            batch: list[Job] = []
            if self._pieces and self._short:  # neither kind keeps the other waiting
                first = min(self._pieces[0], self._short[0], key=lambda job: job.since_s)
                self._take((self._pieces if first is self._pieces[0] else self._short), batch, max_s, first.hotwords, 1)
            for queue in (self._short, self._pieces):
                if queue:
                    hotwords = batch[0].hotwords if batch else queue[0].hotwords
                    self._take(queue, batch, max_s, hotwords, len(queue))
        return batch

    def _take(self, queue: "deque[Job]", batch: list[Job], max_s: float, hotwords: Hotwords, max_num: int) -> None:
        """Move jobs from a queue to a batch, in order, as long as they fit."""
        for _ in range(max_num):
            if not queue or queue[0].hotwords != hotwords:
                return
            if batch and sum(job.duration_s for job in batch) + queue[0].duration_s > max_s:
                return
            job = queue.popleft()
            if job.future.set_running_or_notify_cancel():
                batch.append(job)

    def _compute(self, batch: Sequence[Job]) -> None:
        """Transcribe a batch; one that fails spoils no other."""
        for job in batch:
            self.metrics.wait_s.observe(time.monotonic() - job.since_s)
        if not self._has_answered(batch) and len(batch) > 1:
            for job in batch:
                self._has_answered([job])

    def _has_answered(self, batch: Sequence[Job]) -> bool:
        """Transcribe a batch; where that fails a single recording is told why, and several are told nothing yet."""
        started_s = time.monotonic()
        try:
            transcripts = self.recognizer.transcribe_many([job.samples for job in batch], hotwords=batch[0].hotwords)
        except Exception as error:  # whatever it is, it belongs to whoever waits, and the thread goes on
            if len(batch) == 1:  # without what led to it, which keeps the batch and with it the future that keeps the error
                batch[0].future.set_exception(error.with_traceback(None))
            return False
        finally:
            self.metrics.busy_s.inc(time.monotonic() - started_s)
        self.metrics.batch_size.labels("recordings").observe(len(batch))
        for job, transcript in zip(batch, transcripts, strict=True):
            self.metrics.audio_s.inc(job.duration_s)
            job.future.set_result(transcript)
        return True
