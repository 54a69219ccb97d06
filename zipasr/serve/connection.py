"""uvicorn's TCP connections, bounded in number and in the time that a client may take to send the head of a request, to read
a response and to close. A WebSocket can pass its messages on as they arrive, without the queues and tasks of ASGI.
"""

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode
from websockets.protocol import State

from zipasr.serve.frames import FrameCutter, text_frame

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CLOSE_TIMEOUT_S = 10.0
"""How long a WebSocket that the server closes waits for the client's close frame: uvicorn's own value."""
_QUIET_S = 0.5
"""A client that violated the protocol is disconnected after this time without a byte."""
_EXTENSION = "zipasr.connection"
"""Name in the extensions of an ASGI scope."""


class Receiver(ABC):
    """Takes the messages of a WebSocket as they arrive, in the event loop."""

    is_full: bool
    """Whether the connection must not read more for now; `SocketConnection.resume_receiving` ends that."""

    @abstractmethod
    def message_received(self, message: bytes | str) -> None:
        """Called with each message; those that have been read already come even when the receiver is full."""

    @abstractmethod
    def disconnected(self) -> None:
        """Called when no further message can come; possibly more than once."""


class _WriteTimeout(asyncio.Protocol):
    """Aborts a connection whose client does not read what is written to it."""

    timeout_s: float
    transport: asyncio.Transport
    _write_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Called when the client reads so slowly that the write buffer is full."""
        super().pause_writing()
        self._write_timer = asyncio.get_running_loop().call_later(self.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Called when the write buffer has drained."""
        self._cancel_write_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_write_timer()
        super().connection_lost(exc)

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class Connection(_WriteTimeout, H11Protocol):
    """An HTTP connection with bounds. uvicorn constructs it, so `connection_class` sets the bounds as class attributes."""

    max_open: int
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_open:
            transport.write(_REFUSAL)
            transport.close()
        else:
            self._update_head_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        super().connection_lost(exc)

    def _update_head_timer(self) -> None:
        """Start the timer where the head of a request is awaited, stop it otherwise."""
        if not self._awaits_head():
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.timeout_s, self._close_without_head)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _awaits_head(self) -> bool:
        is_ours = not self.transport.is_closing() and self.transport.get_protocol() is self  # not upgraded to a WebSocket
        return is_ours and (self.cycle is None or self.cycle.response_complete)

    def _close_without_head(self) -> None:
        self._head_timer = None
        if self._awaits_head():
            self.transport.close()


class SocketConnection(_WriteTimeout, WebSocketsSansIOProtocol):
    """A connection after its request to become a WebSocket, with bounds; made by `socket_class`.

    ASGI's `receive` costs a message a queue, a future and two switches of tasks; after `deliver_to`, messages skip all that.
    Most of them skip uvicorn's parser, too.
    """

    _latest_close_s = 0.0
    _receiver: Receiver | None = None
    _cutter: FrameCutter | None = None
    _has_early_data = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.close_timeout = min(_CLOSE_TIMEOUT_S, self.timeout_s)

    def handle_connect(self, event: Any) -> None:
        """Called with the request; the application finds this connection by `connection_of`."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope["extensions"][_EXTENSION] = weakref.ref(self)  # weak, since the connection refers to the scope

    def deliver_to(self, receiver: Receiver | None) -> None:
        """Pass messages on to a receiver from now on, waiting ones first; None: drop them.

        The connection and the receiver then refer to each other, so call this with None in the end.
        """
        self._receiver = receiver
        if receiver is not None and not self._has_early_data:  # else the parser may be in the middle of a frame
            self._cutter = FrameCutter()
        waiting, self.queue = self.queue, asyncio.Queue() if receiver is None else _Deliveries(receiver)
        while receiver is not None and not waiting.empty():
            self.queue.put_nowait(waiting.get_nowait())
        if receiver is not None and not receiver.is_full:
            self.resume_receiving()

    def resume_receiving(self) -> None:
        """Read further messages."""
        if self.read_paused:
            self.read_paused = False
            if self.writable.is_set():  # else `resume_writing` does it
                self.transport.resume_reading()

    def send_receive_event_to_app(self) -> None:
        """Called with a message that the parser has read; uvicorn then pauses until the application takes it."""
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            # uvicorn logs a traceback, and fails if the client's close frame has come with the message.
            self.frames = []
            if self.conn.state is State.OPEN:
                self.conn.send_close(CloseCode.INVALID_DATA, "A text must be UTF-8.")
                self.handle_parser_exception()
            return
        super().send_receive_event_to_app()
        if self._receiver is not None and not self._receiver.is_full:
            self.resume_receiving()

    async def send_text(self, text: str) -> None:
        """Send a text message, as soon as the client has read enough of the earlier ones.

        Raises:
            ClientDisconnected: the connection is closed, or about to be.
        """
        if not self.writable.is_set():
            await self.writable.wait()
        if self.disconnected or self.close_sent or self.transport.is_closing() or self.conn.state is not State.OPEN:
            raise ClientDisconnected
        self.transport.write(text_frame(text.encode()))

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # every ping that is read adds a pong to the full buffer

    def resume_writing(self) -> None:
        if not self.read_paused:
            self.transport.resume_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # The parser refers to itself and holds the last message, up to 20 MB, which would stay until garbage collection.
        self.conn.parser.close()

    def shutdown(self) -> None:
        """Called when the server stops.

        Differs: uvicorn aborts a connection that it is already closing, and a client that is still sending then loses the
        response. Here the client's close frame, or `close_timeout`, ends the connection, and the server waits for that.
        """
        if self.close_sent and self.close_timer is not None:
            self.stop_keepalive()
        else:
            super().shutdown()

    async def send(self, message: Any) -> None:
        """Send a message of the application."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # the handshake was refused; uvicorn would log that as a bug of the application

    def handle_parser_exception(self) -> None:
        """Called when a message is too large or violates the protocol, and for all data after it.

        Differs: uvicorn closes at once. A client that is still sending would see a broken connection instead of the reason.
        """
        now_s = self.loop.time()
        if not self.close_sent:
            assert self.conn.close_sent is not None
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": self.conn.close_sent.code})
            self._latest_close_s = now_s + self.close_timeout
            if self.read_paused:
                self.read_paused = False
                self.transport.resume_reading()
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_at(min(now_s + _QUIET_S, self._latest_close_s), self.transport.close)

    def data_received(self, data: bytes) -> None:
        if self._cutter is not None and (self._receiver is None or self.conn.state is not State.OPEN):
            data, self._cutter = self._cutter.held + data, None  # from now on all data is for the parser
        if self._cutter is None:
            self._has_early_data = self.handshake_initiated
            self._parse(data)
            return
        if (message := self._cutter.whole(data)) is not None:
            self._deliver(message)
            return
        for content, is_message in self._cutter.cut(data):
            if not is_message:
                self._parse(content)
            elif self.conn.state is State.OPEN:  # else the client has closed, or violated the protocol
                self._deliver(content)

    def _deliver(self, message: bytes) -> None:
        assert self._receiver is not None
        self._receiver.message_received(message)
        if self._receiver.is_full and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # The head is short enough for HTTP but too long for a WebSocket: uvicorn would wait for another one forever.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Deliveries(asyncio.Queue[Any]):
    """Takes the place of the queue of a connection, and passes its events on to a receiver."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver

    def put_nowait(self, item: Mapping[str, Any]) -> None:
        """Pass an event of ASGI on."""
        if item["type"] == "websocket.receive":
            text = item.get("text")
            self._receiver.message_received(item["bytes"] if text is None else text)
        else:
            self._receiver.disconnected()


def connection_of(scope: Mapping[str, Any]) -> SocketConnection:
    """The connection of a WebSocket's ASGI scope."""
    connection = scope["extensions"][_EXTENSION]()
    assert isinstance(connection, SocketConnection)  # it lives as long as the task of the application
    return connection


def connection_class(max_open: int, timeout_s: float) -> type[asyncio.Protocol]:
    """The class of a server's HTTP connections.

    Args:
        max_open: largest number of open connections; further ones are refused at once.
        timeout_s: how long a client may take to send the head of a request, and may not read a waiting response.
    """
    return type("BoundedConnection", (Connection,), {"max_open": max_open, "timeout_s": timeout_s})


def socket_class(timeout_s: float) -> type[asyncio.Protocol]:
    """The class of a server's WebSockets; `timeout_s`: how long a client may not read what waits for it."""
    return type("BoundedSocket", (SocketConnection,), {"timeout_s": timeout_s})


async def break_stuck(connections: Iterable[Any], timeout_s: float) -> None:
    """Abort connections that the server has closed and whose clients do not read the rest; runs until cancelled.

    Args:
        connections: the open connections of a server, a live collection; each has a `transport`.
        timeout_s: how long closing may take.
    """
    since_s: dict[Any, float] = {}
    while True:
        await asyncio.sleep(timeout_s / 4)
        now_s = asyncio.get_running_loop().time()
        ending = [connection for connection in connections if connection.transport.is_closing()]
        since_s = {connection: since_s.get(connection, now_s) for connection in ending}
        for connection, ended_s in since_s.items():
            if now_s - ended_s > timeout_s:
                connection.transport.abort()
