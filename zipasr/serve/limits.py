"""The settings and limits of a server: `ServeConfig`, and `Admission`, which counts open requests and refuses further ones.
No I/O.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zipasr.errors import ConfigError, ZipasrError
from zipasr.search.keywords import Keyword
from zipasr.serve.addresses import check_root_path, parse_network, parse_origin

_STALL_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The address, key and limits of a server."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all addresses of this machine."""
    port: int = 6006
    """Port to listen on, by default that of sherpa-onnx's servers; 0: any free port."""
    api_key: str | None = None
    """The key that clients must send; None: everyone who can reach the server may use it."""
    max_upload_mb: float = 500.0
    """Largest request in millions of bytes; a larger one is refused. Uploads of more than 1 MB are kept on disk."""
    max_audio_s: float = 4 * 3600.0
    """Longest recording over HTTP."""
    max_utterance_s: float = 300.0
    """Longest recording over a WebSocket, which is kept in memory; the limit of sherpa-onnx's own servers."""
    max_connections: int = 200
    """Largest number of open requests and WebSockets, waiting ones included. A few hundred idle connections come on top."""
    workers: int = 1
    """Threads that run the model at once, each with live streams and batches of its own; the model is in memory once."""
    max_waiting: int = 64
    """Largest number of recordings that wait to be transcribed."""
    max_wait_ms: float = 40.0
    """Longest time that a complete chunk of live audio waits for those of other streams, to be decoded together; at most a
    quarter of a chunk, and none on a server that is nearly idle. 0: none."""
    idle_timeout_s: float = 60.0
    """How long the server waits for a client that should send or read data. 0: for audio, forever."""
    drain_timeout_s: float = 120.0
    """How long accepted requests may take after SIGTERM."""
    allow_origins: tuple[str, ...] = ()
    """Origins (scheme://host[:port]) whose pages may use the server, besides its own page; `*`: those of all sites."""
    root_path: str = ""
    """The path below which a proxy publishes the server, such as /speech; requests may come with or without it."""
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses and networks of proxies whose X-Forwarded-Host and X-Forwarded-Proto count; `*`: those of everybody."""
    keywords: tuple[Keyword, ...] = ()
    """Keywords of /spot for clients that name none."""
    language: str | None = None
    """Language of the model, such as en or pt-BR; None: not declared, and a request may name any."""

    def __post_init__(self) -> None:
        for origin in self.allow_origins:
            parse_origin(origin)
        for network in self.forwarded_allow_ips:
            parse_network(network)
        check_root_path(self.root_path)
        if self.language is not None and not re.fullmatch(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*", self.language):
            raise ConfigError(f"the language must be a code such as en or pt-BR, but is {self.language!r}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"the port must be from 0 to 65535, but is {self.port}")
        key = self.api_key
        if key is not None and not (key.isascii() and key.isprintable() and key and key == key.strip()):
            raise ConfigError(
                "the API key must be printable ASCII without spaces around it, but is empty or has other characters; leave "
                "it out to let everybody in"
            )
        for name in ("max_connections", "max_waiting", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("idle_timeout_s", "max_wait_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be finite and not below 0, but is {getattr(self, name)}; 0: never")
        for name in ("max_upload_mb", "max_audio_s", "max_utterance_s", "drain_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, but is {getattr(self, name)}")

    @property
    def max_upload_bytes(self) -> int:
        """Largest request in bytes."""
        return round(self.max_upload_mb * 1e6)

    @property
    def silence_timeout_s(self) -> float | None:
        """How long a client may send no audio; None: forever."""
        return self.idle_timeout_s or None

    @property
    def stall_timeout_s(self) -> float:
        """How long a client may take for the head of a request, and not read a response; never forever, since such a client
        holds memory and has nothing to wait for."""
        return self.idle_timeout_s or _STALL_S


class ServerBusy(ZipasrError):
    """The server is full or shutting down; the same request may succeed later."""

    retry_after_s = 2
    """When the client may try again."""


class Admission:
    """Counts open requests and WebSockets; used only by the event loop."""

    def __init__(self, max_connections: int) -> None:
        self.max_connections = max_connections
        self.num_open = 0
        self.is_draining = False

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request or a WebSocket while the block runs.

        Raises:
            ServerBusy: too many are open, or the server is shutting down.
        """
        if self.is_draining:
            raise ServerBusy("The server is shutting down and accepts no new requests; please try again in a moment.")
        if self.num_open >= self.max_connections:
            raise ServerBusy(f"The server is full with {self.num_open} open requests; please retry later.")
        self.num_open += 1
        try:
            yield
        finally:
            self.num_open -= 1
