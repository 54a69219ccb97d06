"""The threads that run the model: recordings (samples,) in, transcripts out; waiting recordings share a batch.

A thread takes what is waiting as soon as it is idle, so a recording never waits for a batch to fill; live streams wait for
each other where that saves time (gathering.py). It alternates between one chunk of all its live streams and one batch of
recordings, which is kept short while there are streams. Pieces of long recordings fill the space that short ones leave in a
batch; the older job goes first. Long recordings take turns, a piece of each. Several threads share the recordings, and each
has live streams of its own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.recognizer import Recognizer
from zipasr.search.graph import LoadedGraph
from zipasr.serve.limits import ServerBusy
from zipasr.serve.live import LiveStreams
from zipasr.serve.metrics import Metrics
from zipasr.transcript import Transcript

Hotwords = tuple[str, ...] | None
"""Hotwords of one request; None: those of the recognizer."""
_BATCH_S, _BATCH_BESIDE_STREAMS_S = 60.0, 10.0
# Largest batch in seconds of audio: what a recognizer computes at once on a CPU; while there are streams, about what two
# cores compute within one chunk. The first job always fits.


class Asked(NamedTuple):
    """What a request asks of the search."""

    hotwords: Hotwords = None
    """Phrases to prefer."""
    graph: LoadedGraph | None = None
    """What may be said; None: what the recognizer's graph allows, if it has one."""
    num_best: int | None = None
    """Size of the n-best list of a recording that is transcribed in one piece; None: that of the recognizer's search."""
    needs_times: bool = True
    """Whether the times of words and tokens matter. Without them, a recording takes less time; others may come with it in a
    batch."""


@dataclass(eq=False)
class Job:
    """A waiting recording, or a piece of one, and the future of its transcript."""

    samples: np.ndarray
    asked: Asked
    round: int = 0
    """Turn of a piece: in each round every long recording that waits has one piece."""
    future: Future[Transcript] = field(default_factory=Future, init=False)
    since_s: float = field(default_factory=time.monotonic, init=False)

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ

    def fits(self, other: "Job") -> bool:
        """Whether one search can transcribe both."""
        own, others = self.asked, other.asked
        is_same_kind = (own.graph is None) == (others.graph is None)
        return is_same_kind and (own.hotwords, own.num_best) == (others.hotwords, others.num_best)


_USUAL = Asked()


class BatchingWorker:
    """The threads and their queues. `submit` and `transcribe_pieces` may be called from any thread."""

    def __init__(self, recognizer: Recognizer, metrics: Metrics, *, max_waiting: int, num_threads: int = 1) -> None:
        """Create the worker; call `start` before use.

        Args:
            recognizer: runs the model; from now on only these threads may use it.
            metrics: counters of the server.
            max_waiting: largest number of recordings in the queue.
            num_threads: threads that run the model at once.
        """
        self.recognizer, self.metrics, self.max_waiting = recognizer, metrics, max_waiting
        self.live: LiveStreams | None = None
        """Live streams, divided among as many groups as there are threads."""
        self._short: deque[Job] = deque()
        self._pieces: deque[Job] = deque()  # by their rounds
        self._round = 0
        self._wakes = threading.Condition()
        self._is_stopping = False
        self._num_computing = 0
        """Threads that compute a batch of recordings."""
        self._threads = [
            threading.Thread(target=self._run, args=(i,), name=f"zipasr-recognizer-{i}", daemon=True)
            for i in range(num_threads)
        ]

    @property
    def is_alive(self) -> bool:
        """Whether all threads are running; only a bug of ours can end one before `stop`."""
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads after their current batches and cancel waiting jobs."""
        with self._wakes:
            self._is_stopping = True
            self._wakes.notify_all()
        for thread in self._threads:
            thread.join()
        for job in (*self._short, *self._pieces):
            job.future.cancel()

    def wake(self) -> None:
        """Tell the threads that a stream has work."""
        with self._wakes:
            self._wakes.notify_all()

    def submit(self, samples: np.ndarray, asked: Asked = _USUAL) -> "Future[Transcript]":
        """Queue samples (samples,), transcribed in one piece, and return the future of their transcript.

        Cancel the future to remove the recording from the queue.

        Raises:
            ServerBusy: the queue is full, or the server is shutting down.
        """
        with self._wakes:
            if self._is_stopping:
                raise ServerBusy("The server is shutting down; please try again in a moment.")
            self._short = deque(job for job in self._short if not job.future.cancelled())
            if len(self._short) >= self.max_waiting:
                raise ServerBusy(f"The queue is full with {len(self._short)} recordings; please retry later.")
            job = Job(samples, asked)
            self._short.append(job)
            self._wakes.notify_all()
        self._count_waiting()
        return job.future

    def transcribe_pieces(
        self,
        pieces: Sequence[np.ndarray],
        hotwords: Hotwords,
        graph: LoadedGraph | None,
        is_cancelled: Callable[[], bool],
        on_piece: Callable[[float], None],
    ) -> Iterator[Transcript]:
        """Transcribe the pieces of a long recording and wait for them; must not be called on the event loop's thread.

        Args:
            pieces: each (samples,).
            hotwords, graph: see `Asked`.
            is_cancelled: called several times a second; True: the transcript is no longer needed.
            on_piece: called with the length in seconds of each piece that is done.
        Yields:
            The transcript of each piece, in order, when it is done.
        Raises:
            CancelledError: the request was cancelled, or the worker stops.
        """
        asked = Asked(hotwords, graph)
        with self._wakes:
            jobs = [Job(samples, asked, self._round + number) for number, samples in enumerate(pieces)]
            self._pieces = deque(sorted((*self._pieces, *jobs), key=lambda job: job.round))
            self._wakes.notify_all()
        self._count_waiting()
        try:
            for job in jobs:
                transcript = self._wait_for(job, is_cancelled)
                on_piece(job.duration_s)
                yield transcript
        finally:
            for job in jobs:
                job.future.cancel()

    def _wait_for(self, job: Job, is_cancelled: Callable[[], bool]) -> Transcript:
        while not (is_cancelled() or self._is_stopping):
            if wait([job.future], timeout=0.2).done:
                return job.future.result()
        raise CancelledError

    def _count_waiting(self) -> None:
        with self._wakes:
            self.metrics.waiting.set(len(self._short) + len(self._pieces))

    def _run(self, i: int) -> None:
        live = self.live.groups[i] if self.live is not None else None
        while True:
            with self._wakes:
                self._wakes.wait_for(lambda: self._has_others() or (live is not None and live.has_work()))
                while live is not None and not self._has_others() and (wait_s := live.wait_s()) > 0:
                    self._wakes.wait(wait_s)
                if self._is_stopping:
                    return
            has_streams = live.step() if live is not None else False
            batch = self._next_batch(_BATCH_BESIDE_STREAMS_S if has_streams else _BATCH_S)
            if batch:
                self._compute(batch)
                with self._wakes:
                    self._num_computing -= 1
            self._count_waiting()

    def _has_others(self) -> bool:
        """Whether there is something to do besides live streams."""
        return self._is_stopping or bool(self._short or self._pieces)

    def _next_batch(self, max_s: float) -> list[Job]:
        """The first job of one queue and further jobs that have the same search and fit."""
        with self._wakes:
            for queue in (self._short, self._pieces):
                while queue and queue[0].future.cancelled():
                    queue.popleft()
            num_idle = len(self._threads) - self._num_computing
            if num_idle > 1:  # the others get their share
                waiting_s = sum(job.duration_s for queue in (self._short, self._pieces) for job in queue)
                max_s = min(max_s, waiting_s / num_idle)
            batch: list[Job] = []
            if waiting := [queue for queue in (self._pieces, self._short) if queue]:
                older = min(waiting, key=lambda queue: queue[0].since_s)
                self._take(older, batch, max_s, 1)  # so that neither kind starves the other
            for queue in (self._short, self._pieces):
                self._take(queue, batch, max_s, len(queue))
            self._num_computing += bool(batch)
        return batch

    def _take(self, queue: "deque[Job]", batch: list[Job], max_s: float, max_num: int) -> None:
        """Move at most `max_num` of the jobs of a queue to a batch, in order, while they fit."""
        for _ in range(max_num):
            if batch and not queue[0].fits(batch[0]):
                return
            if batch and sum(job.duration_s for job in batch) + queue[0].duration_s > max_s:
                return
            job = queue.popleft()
            self._round = max(self._round, job.round)
            if job.future.set_running_or_notify_cancel():
                batch.append(job)

    def _compute(self, batch: Sequence[Job]) -> None:
        """Transcribe a batch; if it fails, transcribe each recording alone, so that only the faulty one fails."""
        for job in batch:
            self.metrics.wait_s.observe(time.monotonic() - job.since_s)
        if not self._transcribe_batch(batch) and len(batch) > 1:
            for job in batch:
                self._transcribe_batch([job])

    def _transcribe_batch(self, batch: Sequence[Job]) -> bool:
        """Transcribe a batch and set its futures; return whether that worked. The error is set only for a single job."""
        started_s, like = time.monotonic(), batch[0].asked
        try:
            transcripts = self.recognizer.transcribe_many(
                [job.samples for job in batch],
                hotwords=like.hotwords,
                graph=[job.asked.graph for job in batch if job.asked.graph is not None] or None,
                num_best=like.num_best,
                use_true_times=any(job.asked.needs_times for job in batch),
            )
        except Exception as error:  # any error belongs to the waiting request, and the thread must continue
            if len(batch) == 1:  # without the traceback, which refers to the batch, its future and so the error: a cycle
                batch[0].future.set_exception(error.with_traceback(None))
            return False
        finally:
            self.metrics.busy_s.inc(time.monotonic() - started_s)
        self.metrics.batch_size.labels("recordings").observe(len(batch))
        for job, transcript in zip(batch, transcripts, strict=True):
            self.metrics.audio_s.inc(job.duration_s)
            job.future.set_result(transcript)
        return True
