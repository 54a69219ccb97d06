"""A TCP connection: uvicorn's, with bounds on how many there are and on how long they take to say what they want."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connection(H11Protocol):
    """Use `connection_class`: the server makes connections itself, and so their bounds are attributes of the class."""

    max_open: int
    patience_s: float

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._impatience: asyncio.TimerHandle | None = None
        self._abandonment: asyncio.TimerHandle | None = None

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
        self._stop_abandoning()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called when the client reads so slowly that what is written to it heaps up."""
        super().pause_writing()
        self._abandonment = self.loop.call_later(self.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Called when it reads on."""
        self._stop_abandoning()
        super().resume_writing()

    def _stop_abandoning(self) -> None:
        if self._abandonment is not None:
            self._abandonment.cancel()
            self._abandonment = None

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


def connection_class(max_open: int, patience_s: float) -> type[asyncio.Protocol]:
    """The class for a server.

    Args:
        max_open: connections that may be open; one more is refused at once.
        patience_s: how long a client may take for the head of a request, and read nothing of an answer that waits.
    """
    return type("BoundedConnection", (Connection,), {"max_open": max_open, "patience_s": patience_s})
