"""Live audio of many connections, decoded in one batch: each socket holds a `LiveSession`, and the worker thread advances
all of them by `LiveSessions.step`. Samples (samples,) float32 at 16 kHz in, `LiveResult`s out after every chunk.

The backlog is bounded: `LiveSession.room` keeps a socket from reading while too much audio, or too many results, wait. So is
the delay that one session causes the others: a step takes no more of its audio than the chunk that it decodes.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.encoder.rates import FRAME_S_50HZ
from zipasr.recognizer import Recognizer, Stream
from zipasr.serve.metrics import Metrics
from zipasr.transcript import Transcript

_MAX_WAITING_S, _MAX_RESULTS = 10.0, 100
_MAX_BATCH = 64
_BLOCK_SAMPLES = SAMPLE_RATE_HZ
"""Audio is passed to streams in blocks of at most a second: computing the features of minutes at once would take as long as
decoding many chunks."""


class LiveResult(NamedTuple):
    """The transcript of an utterance so far."""

    transcript: Transcript
    """Its times count from the start of the stream."""
    segment: int
    start_s: float
    """Start of the utterance in the stream."""
    is_final: bool
    is_eof: bool


class LiveSession:
    """One live stream: its socket pushes samples and waits for results in the event loop, the worker thread decodes."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Create a session; use `LiveSessions.open`. `wake` wakes the worker thread."""
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._has_news = asyncio.Event()
        self._lock = threading.Lock()
        self._inbox: deque[np.ndarray] = deque()
        self._results: deque[LiveResult] = deque()
        self._failure: tuple[bool, str] | None = None
        self.is_finished = self.is_gone = self.is_over = self.is_input_finished = False
        self.stream: Stream | None = None
        self._num_pushed = 0
        self._num_chunks = self._segment = 0
        self._start_s = 0.0

    def push(self, samples: np.ndarray) -> None:
        """Queue samples; wait for `room` before the next call."""
        with self._lock:
            self._inbox.extend(samples[i : i + _BLOCK_SAMPLES] for i in range(0, len(samples), _BLOCK_SAMPLES))
            self._num_pushed += len(samples)
        self._wake()

    def finish(self) -> None:
        """Mark the end of the audio; the last result follows."""
        self.is_finished = True
        self._wake()

    def leave(self) -> None:
        """Abandon the stream and drop its audio and results."""
        self.is_gone = True
        with self._lock:
            self._inbox.clear()
        self._wake()

    @property
    def is_active(self) -> bool:
        """Whether the client is still connected and the last result is not published yet."""
        return not self.is_gone and not self.is_over

    @property
    def has_room(self) -> bool:
        """Whether the backlog is small enough for more samples, or the session is over."""
        waiting_s = self._num_pushed / SAMPLE_RATE_HZ - self._decoded_s()
        return self.is_over or (waiting_s <= _MAX_WAITING_S and len(self._results) <= _MAX_RESULTS)

    async def room(self) -> None:
        """Wait until `has_room`."""
        while not self.has_room:
            self._has_news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_news.wait(), 1.0)

    async def next_result(self) -> LiveResult:
        """The next result; if several results of one utterance wait, the newest.

        Raises:
            ValueError: the samples are invalid; no more results follow.
            RuntimeError: a bug of ours; no more results follow.
        """
        while True:
            with self._lock:
                if self._results:
                    return self._results.popleft()
                if self._failure is not None:
                    is_of_samples, message = self._failure
                    raise ValueError(message) if is_of_samples else RuntimeError(message)
                self._has_news.clear()
            await self._has_news.wait()

    def _decoded_s(self) -> float:
        chunk_frames_50hz = self.stream.sizes.chunk if self.stream is not None else 0
        return self._num_chunks * chunk_frames_50hz * FRAME_S_50HZ

    # The following methods are for the worker thread.

    def has_work(self) -> bool:
        """Whether `take_in` or a step would do something."""
        is_ready = self.stream is not None and self.stream.is_ready()
        return bool(self._inbox) or is_ready or self.is_gone or self.is_finished or self.stream is None

    def take_in(self, recognizer: Recognizer) -> None:
        """Pass queued samples to the stream until it has a chunk to decode."""
        if self.stream is None:
            self.stream = recognizer.stream()
        while not self.stream.is_ready():
            with self._lock:
                if not self._inbox:
                    break
                samples = self._inbox.popleft()
            self.stream.accept_waveform(samples)
        if self.is_finished and not self._inbox and not self.is_input_finished:
            self.is_input_finished = True
            self.stream.input_finished()

    def publish_chunk(self) -> bool:
        """Publish the result after a chunk; return whether an utterance has ended."""
        assert self.stream is not None
        self._num_chunks += 1
        is_end = self.stream.is_endpoint()
        self._publish(LiveResult(self.stream.result(), self._segment, self._start_s, is_end, False))
        if is_end:
            self.stream.reset()
            self._segment += 1
            self._start_s = self._decoded_s()
        return is_end

    def publish_end(self) -> None:
        """Publish the result of the last utterance."""
        assert self.stream is not None
        self._publish(LiveResult(self.stream.finish(), self._segment, self._start_s, True, True), is_over=True)

    def fail(self, error: Exception) -> None:
        """End the session with an error, which `next_result` raises."""
        # As text: a stored exception would refer to this session and its audio until garbage collection.
        is_of_samples = isinstance(error, ValueError)
        self._failure = is_of_samples, str(error) if is_of_samples else f"unexpected {type(error).__name__}: {error}"
        self._publish(None, is_over=True)

    def _publish(self, result: LiveResult | None, *, is_over: bool = False) -> None:
        with self._lock:
            if result is not None:
                if self._results and not self._results[-1].is_final:
                    self._results.pop()  # a partial result that was not fetched in time
                self._results.append(result)
            self.is_over = is_over
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._has_news.set)


class LiveSessions:
    """All live sessions of a server; `step` and `has_work` are for the worker thread."""

    def __init__(self, recognizer: Recognizer, metrics: Metrics, wake: Callable[[], None]) -> None:
        """Create an empty set of sessions; `wake` wakes the worker thread."""
        self._recognizer, self._metrics, self._wake = recognizer, metrics, wake
        self._lock = threading.Lock()
        self._sessions: list[LiveSession] = []

    def open(self) -> LiveSession:
        """Start a stream; to be called in the event loop."""
        session = LiveSession(self._wake)
        with self._lock:
            self._sessions.append(session)
            self._metrics.live.set(len(self._sessions))
        self._wake()
        return session

    def has_work(self) -> bool:
        """Whether a step would do something."""
        with self._lock:
            return any(session.has_work() for session in self._sessions)

    def step(self) -> bool:
        """Accept queued samples and decode a chunk of every stream that has one; return whether there are streams."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            if not session.is_gone:
                with _failing(session):
                    session.take_in(self._recognizer)
        ready = [session for session in sessions if session.is_active and session.stream and session.stream.is_ready()]
        for start in range(0, len(ready), _MAX_BATCH):
            self._decode(ready[start : start + _MAX_BATCH])
        for session in sessions:
            is_last = session.is_input_finished and session.stream is not None and not session.stream.is_ready()
            if is_last and session.is_active:
                with _failing(session):
                    session.publish_end()
                    self._metrics.utterances.inc()
        with self._lock:
            self._sessions = [session for session in self._sessions if session.is_active]
            self._metrics.live.set(len(self._sessions))
            return bool(self._sessions)

    def _decode(self, sessions: Sequence[LiveSession]) -> None:
        """Decode a chunk of each session; if that fails, end these sessions with the error."""
        started_s = time.monotonic()
        try:
            self._recognizer.decode_streams([session.stream for session in sessions if session.stream is not None])
        except Exception as error:  # any error belongs to the waiting clients, and the thread must continue
            for session in sessions:
                session.fail(error)
            return
        finally:
            self._metrics.busy_s.inc(time.monotonic() - started_s)
        self._metrics.batch_size.labels("streams").observe(len(sessions))
        for session in sessions:
            with _failing(session):
                self._metrics.utterances.inc(session.publish_chunk())


@contextlib.contextmanager
def _failing(session: LiveSession) -> Iterator[None]:
    """Context manager: an error inside the block ends this session and no other."""
    try:
        yield
    except Exception as error:
        session.fail(error)
