"""Receivers of the messages of a WebSocket: `LiveAudio` passes live audio on to its session, `Recordings` gathers what the
client sends. Both notice when the client has been silent for too long, and when the server is shutting down.

No task, future or timer is made for a message: an endpoint waits for the end of live audio, or for the message that
completes a recording, and one timer for each connection looks whether messages have come since it was set.
"""

import asyncio
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from zipasr.errors import ProtocolError
from zipasr.serve.connection import Receiver, SocketConnection
from zipasr.serve.limits import ServeConfig
from zipasr.serve.live import LiveSession
from zipasr.serve.protocol import LiveReader, RecordingReader, check_text

T = TypeVar("T")
CODE_DONE, CODE_UNSUPPORTED, CODE_IDLE, CODE_RESTART, CODE_BUSY = 1000, 1003, 1008, 1012, 1013
"""Close codes."""
STOPPING = "The server is shutting down."
_BACKLOG_S = 0.02
"""While the server is shutting down, live audio ends after this time without a message; all earlier audio is decoded, since
event loops read what has arrived before they look at timers."""


class Close(Exception):
    """Ends a connection with a close code and a reason for the client."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code


class Disconnected(Exception):
    """The client has disconnected."""


class End(NamedTuple):
    """Why live audio or its results ended. Not an exception: one that a task stores refers to its frames and so to the task,
    and both would stay until garbage collection."""

    code: int
    """Close code for the client; 0: the client has disconnected."""
    reason: str = ""
    has_results: bool = False
    """Whether the results of the audio before it are still to be sent."""


class _Receiving(Receiver):
    """A receiver of messages that notices silent clients and the end of the server, from `start` to `stop`."""

    def __init__(self, connection: SocketConnection, config: ServeConfig, draining: asyncio.Event) -> None:
        """Create a receiver.

        Args:
            connection: a WebSocket that has been accepted.
            config: limits of the server.
            draining: set when the server is shutting down.
        """
        self.is_full = False
        self._connection, self._config = connection, config
        self._loop = asyncio.get_running_loop()
        self._latest_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._draining = asyncio.ensure_future(draining.wait())
        self._draining.add_done_callback(self._on_draining)

    def start(self) -> None:
        """Receive messages."""
        self._look_for_silence()
        self._connection.deliver_to(self)

    def stop(self) -> None:
        """Receive no more messages, and forget everything that refers to this object."""
        self._connection.deliver_to(None)
        self._draining.cancel()
        if self._timer is not None:
            self._timer.cancel()

    @abstractmethod
    def _is_waiting(self) -> bool:
        """Whether the client could send something."""

    @abstractmethod
    def _on_silence(self, reason: str) -> None:
        """Called when the client has been silent for too long."""

    @abstractmethod
    def _drain(self) -> None:
        """Called when the server is shutting down."""

    def _on_draining(self, draining: "asyncio.Future[Any]") -> None:
        if not draining.cancelled():
            self._drain()

    def _look_for_silence(self) -> None:
        timeout_s = self._config.silence_timeout_s
        if timeout_s is None:
            return
        left_s = self._latest_s + timeout_s - self._loop.time()
        if left_s <= 0 and self._is_waiting():
            self._on_silence(f"The client sent nothing for {self._config.idle_timeout_s:g} s.")
        self._timer = self._loop.call_later(left_s if left_s > 0 else timeout_s, self._look_for_silence)


class LiveAudio(_Receiving):
    """Passes the live audio of a client on to its session, until the client is done or has been silent for too long, or the
    server is shutting down.

    A microphone that sends only speech is silent after an utterance, whose last words then follow.
    """

    def __init__(
        self,
        connection: SocketConnection,
        session: LiveSession,
        config: ServeConfig,
        draining: asyncio.Event,
        *,
        max_drain_s: float,
    ) -> None:
        """Create a receiver.

        Args:
            connection, config, draining: see `_Receiving`.
            session: takes the samples.
            max_drain_s: how long audio without a pause may then continue.
        """
        super().__init__(connection, config, draining)
        self.ended: asyncio.Future[End] = self._loop.create_future()
        """Why the audio has ended."""
        self._session, self._reader = session, LiveReader()
        self._making_room: asyncio.Future[None] | None = None
        self._backlog_timer: asyncio.TimerHandle | None = None
        self._is_quiet = False
        self._max_drain_s, self._latest_end_s = max_drain_s, float("inf")

    def stop(self) -> None:
        super().stop()
        if self._making_room is not None:
            self._making_room.cancel()
            self._making_room = None
        if self._backlog_timer is not None:
            self._backlog_timer.cancel()

    def message_received(self, message: bytes | str) -> None:
        if self.ended.done():
            self.is_full = True
        elif isinstance(message, str):
            self._end_with(message)
        else:
            self._latest_s, self._is_quiet = self._loop.time(), False
            self._session.push(self._reader.read(message))
            if not self.is_full and not self._session.has_room:
                self.is_full = True
                self._making_room = asyncio.ensure_future(self._make_room())
            if time.monotonic() >= self._latest_end_s:  # a client that never pauses is cut off in time for the last result
                self._end(End(CODE_RESTART, STOPPING, has_results=True))

    def disconnected(self) -> None:
        self._end(End(0))

    def _end(self, end: End) -> None:
        if not self.ended.done():
            self.ended.set_result(end)

    def _end_with(self, text: str) -> None:
        try:
            check_text(text)
        except ProtocolError as error:
            self._end(End(CODE_UNSUPPORTED, str(error)))
        else:
            self._end(End(CODE_DONE, has_results=True))

    async def _make_room(self) -> None:
        await self._session.room()
        self._latest_s, self._is_quiet = self._loop.time(), False
        self.is_full = False
        self._connection.resume_receiving()

    def _is_waiting(self) -> bool:
        return not self.is_full

    def _on_silence(self, reason: str) -> None:
        self._end(End(CODE_IDLE, reason, has_results=True))

    def _drain(self) -> None:
        self._latest_end_s = time.monotonic() + self._max_drain_s
        self._is_quiet = False
        self._look_for_backlog()

    def _look_for_backlog(self) -> None:
        if self._is_quiet and not self.is_full:
            self._end(End(CODE_RESTART, STOPPING, has_results=True))
        elif not self.ended.done():
            self._is_quiet = True  # until the next message
            self._backlog_timer = self._loop.call_later(_BACKLOG_S, self._look_for_backlog)


class Recordings(_Receiving):
    """Keeps the messages of a client until `next` takes them, except those that complete nothing: these go to the reader.

    While the server is shutting down, it reads on only to complete a recording, for a limited time: otherwise a client that
    sends recordings without waiting for responses would never come to an end.
    """

    def __init__(
        self,
        connection: SocketConnection,
        reader: RecordingReader,
        config: ServeConfig,
        draining: asyncio.Event,
        *,
        may_add: Callable[[int], bool],
        max_drain_s: float,
    ) -> None:
        """Create a receiver.

        Args:
            connection, config, draining: see `_Receiving`.
            reader: gathers the recordings.
            may_add: says whether the reader and the messages that wait may hold so many bytes more, and counts them if they
                may.
            max_drain_s: how long recordings are taken while the server is shutting down.
        """
        super().__init__(connection, config, draining)
        self._reader, self._may_add = reader, may_add
        self.is_refused = False
        """Whether a message was dropped, since too many bytes were held."""
        self._messages: deque[bytes | str] = deque()
        self._news: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._silence = ""
        self._is_draining, self._max_drain_s, self._latest_end_s = False, max_drain_s, float("inf")
        self._end_timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        super().stop()
        if self._end_timer is not None:
            self._end_timer.cancel()

    async def next(self) -> bytes | str | None:
        """The next message that completes something; None: the server is shutting down, and no recording is incomplete, or
        its time is over.

        Raises:
            Disconnected: the client has disconnected.
            Close: the client has sent nothing for too long, or something was dropped.
        """
        self._latest_s, self._silence = self._loop.time(), ""
        while True:
            is_late = self._loop.time() >= self._latest_end_s
            if self._messages and not is_late:
                message = self._messages.popleft()
                if not self._messages and not self._is_draining:
                    self._make_room()
                return message
            if self._gone.done():
                raise Disconnected
            if self.is_refused:
                raise Close(CODE_BUSY, "The server holds too many recordings; please retry later.")
            if self._silence:
                raise Close(CODE_IDLE, self._silence)
            if self._is_draining:
                self._make_room()  # for the rest of the recording, or the end of the connection
                if is_late or self._reader.is_between:
                    return None
            self._news = self._loop.create_future()
            try:
                await self._news
            finally:
                self._news = None

    @property
    def num_waiting_bytes(self) -> int:
        """Size of the messages that `next` has not taken yet."""
        return sum(len(message) for message in self._messages if isinstance(message, bytes))

    async def unless_disconnected(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled if the client disconnects.

        Raises:
            Disconnected: the client has disconnected.
        """
        working = asyncio.ensure_future(work)
        try:
            both: list[asyncio.Future[Any]] = [working, self._gone]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Disconnected
            return await working
        finally:
            working.cancel()
            del working, both  # see `End`

    def message_received(self, message: bytes | str) -> None:
        self._latest_s = self._loop.time()
        is_next = self._news is not None and not self._messages
        is_part = isinstance(message, bytes) and len(message) < self._reader.num_missing_bytes
        # What came before is still answered, but nothing after a message that was dropped.
        self.is_refused = self.is_refused or (isinstance(message, bytes) and not self._may_add(len(message)))
        if is_next and is_part and not self.is_refused:
            self._reader.add(message)  # type: ignore[arg-type]  # bytes, as `is_part` says
        else:
            if not self.is_refused:
                self._messages.append(message)
            self.is_full = True
            self._wake()

    def _make_room(self) -> None:
        self.is_full = False
        self._connection.resume_receiving()

    def disconnected(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _is_waiting(self) -> bool:
        return self._news is not None

    def _on_silence(self, reason: str) -> None:
        self._silence = reason
        self._wake()

    def _drain(self) -> None:
        self._is_draining, self._latest_end_s = True, self._loop.time() + self._max_drain_s
        self._end_timer = self._loop.call_later(self._max_drain_s, self._wake)
        self._wake()
