"""What a server takes on: `ServeConfig`, and `Admission`, which counts what is open and says when it is too much. No I/O."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zipasr.errors import ConfigError, ZipasrError


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where a server listens and what it takes on."""

    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 is all of this machine's."""
    port: int = 6006
    """The port, that of sherpa-onnx's servers; 0 takes a free one."""
    api_key: str | None = None
    """What clients must name; None: whoever reaches the server may use it."""
    max_upload_mb: float = 500.0
    """Size of a request in millions of bytes; a larger one is refused. Uploads of over 1 MB are kept on disk."""
    max_audio_s: float = 4 * 3600.0
    """Length of a recording."""
    max_utterance_s: float = 300.0
    """Length of a recording over a WebSocket, which is kept in memory; the bound of sherpa-onnx's own servers."""
    max_connections: int = 200
    """Requests and WebSockets at once, those that wait included. A few hundred more may be open that ask for nothing."""
    max_waiting: int = 64
    """Recordings that wait to be transcribed."""
    idle_timeout_s: float = 60.0
    """How long a client may send nothing where it is its turn."""
    drain_timeout_s: float = 120.0
    """How long what was accepted may take after SIGTERM."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"the port must be from 0 to 65535, but is {self.port}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key.strip()):
            raise ConfigError("the API key must be printable ASCII and not empty; leave it out to let everybody in")
        for name in ("max_connections", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("max_upload_mb", "max_audio_s", "max_utterance_s", "idle_timeout_s", "drain_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, but is {getattr(self, name)}")

    @property
    def max_upload_bytes(self) -> int:
        """The size of a request."""
        return round(self.max_upload_mb * 1e6)


class ServerBusy(ZipasrError):
    """Too much is waiting, or the server is about to stop: the same may work later, or elsewhere."""

    retry_after_s = 2
    """When to try again."""


class Admission:
    """What is open. Used by the event loop alone."""

    def __init__(self, max_connections: int) -> None:
        self.max_connections = max_connections
        self.num_open = 0
        self.is_draining = False

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request or a WebSocket as long as it lasts.

        Raises:
            ServerBusy: there are too many, or the server is about to stop.
        """
        if self.is_draining:
            raise ServerBusy("The server is about to stop and takes nothing new; please try again in a moment.")
        if self.num_open >= self.max_connections:
            raise ServerBusy(f"The server is busy with {self.num_open} requests, all it takes; please retry later.")
        self.num_open += 1
        try:
            yield
        finally:
            self.num_open -= 1
