"""A TCP connection: uvicorn's, with bounds on how many there are and on how long they take to say what they want, to read
what they are told, and to go.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CLOSE_TIMEOUT_S = 10.0
"""How long a WebSocket that we close waits for the client's word that it has seen it: uvicorn's own figure."""
_QUIET_S = 0.5
"""After so long without a byte whoever broke the rules is taken to be done."""


class _Impatient(asyncio.Protocol):
    """Breaks a connection whose client does not read what is written to it."""

    patience_s: float
    transport: asyncio.Transport
    _abandonment: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Called when the client reads so slowly that what is written to it heaps up."""
        super().pause_writing()
        self._abandonment = asyncio.get_running_loop().call_later(self.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Called when it reads on."""
        self._stop_abandoning()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_abandoning()
        super().connection_lost(exc)

    def _stop_abandoning(self) -> None:
        if self._abandonment is not None:
            self._abandonment.cancel()
            self._abandonment = None


class Connection(_Impatient, H11Protocol):
    """Use `connection_class`: the server makes connections itself, and so their bounds are attributes of the class."""

    max_open: int

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_open:
            transport.write(_REFUSAL)
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Run out of patience where a request's head is awaited, from its first byte on."""
        if not self._awaits_head():
            self._calm()
        elif self._impatience is None:
            self._impatience = self.loop.call_later(self.patience_s, self._give_up)

    def _calm(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _awaits_head(self) -> bool:
        is_ours = not self.transport.is_closing() and self.transport.get_protocol() is self  # not a WebSocket's
        return is_ours and (self.cycle is None or self.cycle.response_complete)

    def _give_up(self) -> None:
        self._impatience = None
        if self._awaits_head():
            self.transport.close()


class SocketConnection(_Impatient, WebSocketsSansIOProtocol):
    """Use `socket_class`. A connection from where it asks to become a WebSocket on."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.close_timeout = min(_CLOSE_TIMEOUT_S, self.patience_s)
        self._latest_close_s = 0.0

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # each ping that is read is answered, whether or not the answer can leave

    def resume_writing(self) -> None:
        if not self.read_paused:
            self.transport.resume_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # It refers to itself, and has the last message in it, up to 20 MB: both would stay until garbage is collected.
        self.conn.parser.close()

    def shutdown(self) -> None:
        """Called when the server stops.

        Differs: uvicorn's breaks a connection that it has already closed, and a client that is still sending then loses the
        answer that is on its way. Here the client's word, or `close_timeout`, ends it; the server waits for that.
        """
        if self.close_sent and self.close_timer is not None:
            self.stop_keepalive()
        else:
            super().shutdown()

    async def send(self, message: Any) -> None:
        """Send a message of the application."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # by a refusal; uvicorn would log it as a bug of the application

    def handle_parser_exception(self) -> None:
        """Called when what comes is against the rules, or too large, and again for all that comes then.

        Differs: uvicorn's closes at once. A client that is still sending would then see a broken connection, and not why.
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
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # A head that HTTP lets pass and a WebSocket does not, for its length: uvicorn would wait for another forever.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()


def connection_class(max_open: int, patience_s: float) -> type[asyncio.Protocol]:
    """The class for a server.

    Args:
        max_open: connections that may be open; one more is refused at once.
        patience_s: how long a client may take for the head of a request, and read nothing of an answer that waits.
    """
    return type("BoundedConnection", (Connection,), {"max_open": max_open, "patience_s": patience_s})


def socket_class(patience_s: float) -> type[asyncio.Protocol]:
    """The class for the WebSockets of a server; `patience_s`: how long a client may read nothing of what waits for it."""
    return type("BoundedSocket", (SocketConnection,), {"patience_s": patience_s})


async def break_stuck(connections: Iterable[Any], patience_s: float) -> None:
    """Break connections that the server has ended and whose clients do not read what is left for them; runs until cancelled.

    Args:
        connections: those of a server, which come and go; each has a `transport`.
        patience_s: how long they may take to end.
    """
    since_s: dict[Any, float] = {}
    while True:
        await asyncio.sleep(patience_s / 4)
        now_s = asyncio.get_running_loop().time()
        ending = [connection for connection in connections if connection.transport.is_closing()]
        since_s = {connection: since_s.get(connection, now_s) for connection in ending}
        for connection, ended_s in since_s.items():
            if now_s - ended_s > patience_s:
                connection.transport.abort()
