"""Live audio of many connections, decoded in one batch: each socket holds a `LiveSession`, and a worker thread advances
those of its `LiveSessions` that have a complete chunk by `LiveSessions.step`. Samples (samples,) float32 at 16 kHz in,
`LiveResult`s out after every chunk. Audio that completes no chunk only waits: the features of a whole chunk cost less at
once than piece by piece.

The backlog is bounded: `LiveSession.room` keeps a socket from reading while too much audio, or too many results, wait. So is
the delay that one session causes the others: a step takes no more of its audio than the chunk that it decodes.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.audio.samples import MAX_LEVEL
from zipasr.encoder.rates import FRAME_S_50HZ
from zipasr.recognizer import Recognizer, Stream
from zipasr.recognizer.incoming import NOT_FINITE_CURE, UNCHANGED, IncomingAudio
from zipasr.search.graph import LoadedGraph
from zipasr.serve.gathering import Gathering
from zipasr.serve.metrics import Metrics
from zipasr.serve.protocol import SENT_INT16_CURE
from zipasr.transcript import Transcript

T = TypeVar("T")
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

    def __init__(self, graph: LoadedGraph | None = None) -> None:
        """Create a session, which starts with `LiveSessions.add`."""
        self.announce: Callable[[LiveSession], None]
        """Tells the worker thread that a step would do something for this session; `LiveSessions.add` sets it."""
        self._graph = graph
        self._loop = asyncio.get_running_loop()
        self._has_news = asyncio.Event()
        self._lock = threading.Lock()
        self._inbox: deque[np.ndarray] = deque()
        self._results: deque[LiveResult] = deque()
        self._failure: tuple[type[Exception], str] | None = None
        self.is_finished = self.is_gone = self.is_over = self.is_input_finished = False
        self.has_published = False
        """Whether `notify` has yet to be called."""
        self.stream: IncomingAudio | None = None
        self._num_pushed = self._num_taken = self._num_due = 0
        self._pushed_s, self._piece_samples = -math.inf, 1
        self._num_chunks = self._segment = 0
        self._start_s = self._counted_s = 0.0

    def push(self, samples: np.ndarray) -> None:
        """Queue samples; wait for `room` before the next call."""
        is_bad = not np.abs(samples).max(initial=0.0) <= MAX_LEVEL  # such as NaN: the stream is to refuse it at once
        with self._lock:
            self._inbox.extend(samples[i : i + _BLOCK_SAMPLES] for i in range(0, len(samples), _BLOCK_SAMPLES))
            self._num_pushed += len(samples)
            self._pushed_s, self._piece_samples = time.monotonic(), max(1, len(samples))
            is_due = self._num_pushed >= self._num_due
        if is_due or is_bad:
            self.announce(self)

    def finish(self) -> None:
        """Mark the end of the audio; the last result follows."""
        self.is_finished = True
        self.announce(self)

    def leave(self) -> None:
        """Abandon the stream and drop its audio and results."""
        self.is_gone = True
        with self._lock:
            self._inbox.clear()
        self.announce(self)

    @property
    def is_active(self) -> bool:
        """Whether the client is still connected and the last result is not published yet."""
        return not self.is_gone and not self.is_over

    @property
    def has_room(self) -> bool:
        """Whether the backlog is small enough for more samples, or the session is over."""
        waiting_s = self._num_pushed / SAMPLE_RATE_HZ - self._decoded_s()
        return self.is_over or (waiting_s <= self._max_waiting_s() and len(self._results) <= _MAX_RESULTS)

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
        return await self._next(lambda: self._results.popleft() if self._results else None)

    async def _next(self, take: Callable[[], T | None]) -> T:
        """What `take`, called with the lock held, returns as soon as it is not None; errors as in `next_result`."""
        while True:
            with self._lock:
                if (found := take()) is not None:
                    return found
                if self._failure is not None:
                    kind, message = self._failure
                    raise kind(message)
                self._has_news.clear()
            await self._has_news.wait()

    def _max_waiting_s(self) -> float:
        latency_s = self.stream.latency_ms / 1000 if self.stream is not None else 0.0
        return max(_MAX_WAITING_S, latency_s + 1.0)  # else a long chunk would never be complete

    def _decoded_s(self) -> float:
        chunk_frames_50hz = self.stream.sizes.chunk if self.stream is not None else 0
        return self._num_chunks * chunk_frames_50hz * FRAME_S_50HZ

    # The following methods are for the worker thread.

    @property
    def is_ready(self) -> bool:
        """Whether the stream has a chunk to decode."""
        return self.is_active and self.stream is not None and self.stream.is_ready()

    @property
    def is_at_end(self) -> bool:
        """Whether only the last result is missing."""
        return self.is_active and self.is_input_finished and not self.is_ready

    @property
    def expected_s(self) -> float:
        """When the next chunk will be complete at the pace of speech, on the clock `time.monotonic`."""
        with self._lock:
            num_pieces = math.ceil((self._num_due - self._num_pushed) / self._piece_samples)
            return self._pushed_s + num_pieces * self._piece_samples / SAMPLE_RATE_HZ

    def take_in(self, recognizer: Recognizer) -> None:
        """Pass queued samples to the stream until it has a chunk to decode."""
        if self.stream is None:
            self.stream = self._open_stream(recognizer)
        while not self.stream.is_ready() and (samples := self._next_samples(self.stream.missing_samples)) is not None:
            self.stream.accept_waveform(samples)
        if self.is_finished and not self._inbox and not self.is_input_finished:
            self.is_input_finished = True
            self.stream.input_finished()

    def _open_stream(self, recognizer: Recognizer) -> IncomingAudio:
        return recognizer.stream(graph=self._graph)

    def _next_samples(self, num_wanted: int) -> np.ndarray | None:
        """The next pieces of the queue in one, as many samples as are wanted if there are so many; None: it is empty."""
        pieces, num_samples = [], 0
        with self._lock:
            while self._inbox and num_samples < num_wanted:
                pieces.append(self._inbox.popleft())
                num_samples += len(pieces[-1])
            self._num_taken += num_samples
        if not pieces:
            return None
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def has_work(self) -> bool:
        """Whether a step would do something; if not, the push that completes the next chunk announces the session."""
        assert self.stream is not None or not self.is_active
        with self._lock:
            if self.stream is not None:
                self._num_due = self._num_taken + max(1, self.stream.missing_samples)
            is_due = self._num_pushed >= self._num_due
        return self.is_active and (is_due or self.is_finished or self.is_ready)

    def publish_chunk(self) -> bool:
        """Publish the result after a chunk; return whether an utterance has ended."""
        assert isinstance(self.stream, Stream)
        self._num_chunks += 1
        is_end = self.stream.is_endpoint()
        self._publish(LiveResult(self.stream.result(), self._segment, self._start_s, is_end, False))
        if is_end:
            self.stream.reset()
            self._segment += 1
            self._start_s = self._decoded_s()
        return is_end

    def newly_decoded_s(self) -> float:
        """Seconds of audio that were decoded since the last call; all that is left after the end."""
        taken_s = self._num_taken / SAMPLE_RATE_HZ
        before_s, self._counted_s = self._counted_s, taken_s if self.is_over else min(taken_s, self._decoded_s())
        return self._counted_s - before_s

    def publish_end(self) -> None:
        """Publish the result of the last utterance."""
        assert isinstance(self.stream, Stream)
        self._publish(LiveResult(self.stream.finish(), self._segment, self._start_s, True, True), is_over=True)

    def fail(self, error: Exception) -> None:
        """End the session with an error, which `next_result` raises."""
        # As text: a stored exception would refer to this session and its audio until garbage collection.
        if isinstance(error, ValueError):
            self._failure = ValueError, str(error).removesuffix(UNCHANGED).replace(NOT_FINITE_CURE, SENT_INT16_CURE)
        else:
            self._failure = RuntimeError, f"unexpected {type(error).__name__}: {error}"
        self._publish(None, is_over=True)

    def _publish(self, result: LiveResult | None, *, is_over: bool = False) -> None:
        with self._lock:
            if result is not None:
                if self._results and not self._results[-1].is_final:
                    self._results.pop()  # a partial result that was not fetched in time
                self._results.append(result)
            self.is_over = is_over
        self.has_published = True


class LiveSessions:
    """The live sessions that a worker thread decodes; `step` and `has_work` are for this thread."""

    def __init__(
        self, recognizer: Recognizer, metrics: Metrics, wake: Callable[[], None], *, max_wait_s: float = 0.0
    ) -> None:
        """Create an empty set of sessions.

        Args:
            recognizer, metrics: those of the server.
            wake: wakes the thread.
            max_wait_s: longest time that a complete chunk waits for those of other streams; 0: none.
        """
        self._recognizer, self._metrics, self._wake = recognizer, metrics, wake
        self._gathering = Gathering(max_wait_s, time.monotonic())
        self._lock = threading.Lock()
        self._sessions: dict[LiveSession, None] = {}
        self._waiting: dict[LiveSession, float] = {}
        """Sessions with a complete chunk or an end, and since when. A step looks at no others, however many are open."""

    def __len__(self) -> int:
        """Number of sessions."""
        return len(self._sessions)

    def open(self, graph: LoadedGraph | None = None) -> LiveSession:
        """Start a stream, under a graph if there is one; to be called in the event loop."""
        session = LiveSession(graph)
        self.add(session)
        return session

    def add(self, session: LiveSession) -> None:
        """Start a session; to be called in the event loop."""
        session.announce = self._announce
        with self._lock:
            self._sessions[session] = None
        self._metrics.live.inc()
        self._announce(session)

    def _announce(self, session: LiveSession) -> None:
        with self._lock:
            is_known = session in self._waiting
            if session in self._sessions:
                self._waiting.setdefault(session, time.monotonic())
        if not is_known:
            self._wake()

    def has_work(self) -> bool:
        """Whether there is a chunk to decode, or an end."""
        return bool(self._waiting)

    def wait_s(self) -> float:
        """How long the next step should wait for more streams; 0: not at all. A session that wakes the thread ends it."""
        with self._lock:
            sizes = next((session.stream.sizes for session in self._waiting if session.stream is not None), None)
            if sizes is None:
                return 0.0
            others = (session.expected_s for session in self._sessions if session not in self._waiting)
            return self._gathering.wait_s(time.monotonic(), self._waiting.values(), others, sizes.chunk * FRAME_S_50HZ)

    def step(self) -> bool:
        """Accept queued samples and decode a chunk of every stream that has one; return whether there are streams."""
        started_s = time.monotonic()
        with self._lock:
            # With nothing to decode there is time for audio that completes no chunk, and for finding that it is none.
            sessions, self._waiting = list(self._waiting or self._sessions), {}
        for session in sessions:
            if session.is_active:
                with _failing(session):
                    session.take_in(self._recognizer)
        ready = [session for session in sessions if session.is_ready]
        for start in range(0, len(ready), _MAX_BATCH):
            self._decode(ready[start : start + _MAX_BATCH])
        for session in sessions:
            if session.is_at_end:
                with _failing(session):
                    session.publish_end()
                    self._metrics.utterances.inc()
                    self._metrics.audio_s.inc(session.newly_decoded_s())
        notify(sessions)
        self._gathering.record(started_s, time.monotonic())
        with self._lock:
            self._waiting |= {session: -math.inf for session in sessions if session.has_work()}  # late: no more waiting
            over = [session for session in sessions if not session.is_active and session in self._sessions]
            for session in over:
                del self._sessions[session]
            self._metrics.live.dec(len(over))
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
                is_end = session.publish_chunk()
                self._metrics.audio_s.inc(session.newly_decoded_s())
                if is_end:
                    self._metrics.utterances.inc()


class LiveStreams:
    """All live sessions of a server, in a group for each worker thread."""

    def __init__(self, groups: Sequence[LiveSessions]) -> None:
        self.groups = groups

    def open(self, graph: LoadedGraph | None = None) -> LiveSession:
        """Start a stream in the smallest group; to be called in the event loop."""
        return min(self.groups, key=len).open(graph)

    def add(self, session: LiveSession) -> None:
        """Start a session of another kind likewise."""
        min(self.groups, key=len).add(session)


def notify(sessions: Iterable[LiveSession]) -> None:
    """Wake the sockets of sessions that have published something, with one call for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
    for session in sessions:
        if session.has_published:
            session.has_published = False
            by_loop.setdefault(session._loop, []).append(session._has_news)
    for loop, events in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_all, events)


def _set_all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()


@contextlib.contextmanager
def _failing(session: LiveSession) -> Iterator[None]:
    """Context manager: an error inside the block ends this session and no other."""
    try:
        yield
    except Exception as error:
        session.fail(error)
