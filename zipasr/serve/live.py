"""Live sound of many connections, decoded in one batch: a socket holds a `LiveSession`, the computing thread steps all
`LiveSessions`. Samples (samples,) float32 at 16 kHz in, `LiveResult`s out after every chunk.

What waits is bounded: `LiveSession.room` keeps a socket from reading while too much sound, or too many results, wait. And so
is what one session makes the others wait: a step takes in no more of its sound than the chunk that it decodes.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
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
"""Sound is handed to streams in blocks of a second at most: the features of a message of minutes take as long as many
chunks."""


class LiveResult(NamedTuple):
    """What was said in an utterance so far."""

    transcript: Transcript
    """Timed from the start of the stream."""
    segment: int
    start_s: float
    """Where the utterance begins in the stream."""
    is_final: bool
    is_eof: bool


class LiveSession:
    """A stream as its socket sees it; all public methods are for the event loop."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Take what wakes the computing thread; `LiveSessions.open` makes sessions."""
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
        """Take in samples; wait for `room` before the next."""
        with self._lock:
            self._inbox.extend(samples[i : i + _BLOCK_SAMPLES] for i in range(0, len(samples), _BLOCK_SAMPLES))
            self._num_pushed += len(samples)
        self._wake()

    def finish(self) -> None:
        """Say that no more will come."""
        self.is_finished = True
        self._wake()

    def leave(self) -> None:
        """Give the stream up, and what was said."""
        self.is_gone = True
        with self._lock:
            self._inbox.clear()
        self._wake()

    @property
    def has_room(self) -> bool:
        """Whether little enough is waiting, or nothing can come of it any more."""
        return self.is_over or (self._waiting_s() <= _MAX_WAITING_S and len(self._results) <= _MAX_RESULTS)

    async def room(self) -> None:
        """Wait until it `has_room`."""
        while not self.has_room:
            self._has_news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_news.wait(), 1.0)

    async def next_result(self) -> LiveResult:
        """The next result; where several of one utterance wait, the newest of them.

        Raises:
            ValueError: the samples are none; nothing more will come.
            RuntimeError: a bug of ours; nothing more will come.
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

    def _waiting_s(self) -> float:
        return self._num_pushed / SAMPLE_RATE_HZ - self._decoded_s()

    def _decoded_s(self) -> float:
        chunk_frames_50hz = self.stream.sizes.chunk if self.stream is not None else 0
        return self._num_chunks * chunk_frames_50hz * FRAME_S_50HZ

    # What follows is for the computing thread.

    def has_work(self) -> bool:
        """Whether `take_in` or a step would do something."""
        is_ready = self.stream is not None and self.stream.is_ready()
        return bool(self._inbox) or is_ready or self.is_gone or self.is_finished or self.stream is None

    def take_in(self, recognizer: Recognizer) -> None:
        """Hand what came to the stream, as much as it can decode at once."""
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
        """Tell what is known after a chunk; return whether an utterance is over."""
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
        """Tell the last utterance."""
        assert self.stream is not None
        self._publish(LiveResult(self.stream.finish(), self._segment, self._start_s, True, True), is_over=True)

    def fail(self, error: Exception) -> None:
        """Tell that nothing more will come, and why."""
        # In words: an error that is kept keeps what it came from, this session and its sound, until garbage is collected.
        is_of_samples = isinstance(error, ValueError)
        self._failure = is_of_samples, str(error) if is_of_samples else f"unexpected {type(error).__name__}: {error}"
        self._publish(None, is_over=True)

    def _publish(self, result: LiveResult | None, *, is_over: bool = False) -> None:
        with self._lock:
            if result is not None:
                if self._results and not self._results[-1].is_final:
                    self._results.pop()  # nobody fetched it in time
                self._results.append(result)
            self.is_over = is_over
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._has_news.set)


class LiveSessions:
    """All of them; `step` and `has_work` are for the computing thread."""

    def __init__(self, recognizer: Recognizer, metrics: Metrics, wake: Callable[[], None]) -> None:
        """Take the recogniser, counters, and what wakes the computing thread."""
        self._recognizer, self._metrics, self._wake = recognizer, metrics, wake
        self._lock = threading.Lock()
        self._sessions: list[LiveSession] = []

    def open(self) -> LiveSession:
        """Begin a stream; in the event loop."""
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
        """Take in what came, and decode a chunk of every stream that has one; return whether there are streams."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            if not session.is_gone:
                self._guarded(session, functools.partial(session.take_in, self._recognizer))
        ready = [session for session in sessions if _is_going(session) and session.stream and session.stream.is_ready()]
        for start in range(0, len(ready), _MAX_BATCH):
            self._decode(ready[start : start + _MAX_BATCH])
        for session in sessions:
            is_last = session.is_input_finished and session.stream is not None and not session.stream.is_ready()
            if is_last and _is_going(session):
                self._guarded(session, functools.partial(self._publish_end, session))
        with self._lock:
            self._sessions = [session for session in self._sessions if _is_going(session)]
            self._metrics.live.set(len(self._sessions))
            return bool(self._sessions)

    def _decode(self, sessions: Sequence[LiveSession]) -> None:
        """Decode a chunk of each; one that fails spoils no other."""
        started_s = time.monotonic()
        try:
            self._recognizer.decode_streams([session.stream for session in sessions if session.stream is not None])
        except Exception as error:  # whatever it is, it belongs to who waits, and the thread goes on
            for session in sessions:
                session.fail(error)
            return
        finally:
            self._metrics.busy_s.inc(time.monotonic() - started_s)
        self._metrics.batch_size.labels("streams").observe(len(sessions))
        for session in sessions:
            self._guarded(session, functools.partial(self._publish, session))

    def _publish(self, session: LiveSession) -> None:
        if session.publish_chunk():
            self._metrics.utterances.inc()

    def _publish_end(self, session: LiveSession) -> None:
        session.publish_end()
        self._metrics.utterances.inc()

    def _guarded(self, session: LiveSession, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            session.fail(error)


def _is_going(session: LiveSession) -> bool:
    return not session.is_gone and not session.is_over
