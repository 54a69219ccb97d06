"""A recogniser behind a socket: `Service` puts the parts together and runs them, `serve` does so until a signal.

Two threads matter: the event loop's, which talks to clients, and that of `batching`, which computes.
"""

import asyncio
import contextlib
import errno
import importlib.util
import math
import os
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import ConfigError, ZipasrError
from zipasr.recognizer import Recognizer
from zipasr.serve.limits import Admission, ServeConfig

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from zipasr.serve.metrics import Metrics
    from zipasr.serve.recordings import Transcriber

_PACKAGES = ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client")
_MAX_IDLE_CONNECTIONS = 512
_MAX_HEAD_BYTES = 64_000
_MIN_DRAIN_S = 0.3
"""So long after a signal the server still answers, that it is about to stop."""
_MIN_FLUSH_S = 5
"""How long answers may take to reach their clients when the time for all else is over."""
_PING_INTERVAL_S = 20.0
"""Keeps WebSockets on which nothing is said open in proxies. Who does not answer a ping is not given up: we may be the one
who does not listen, while sound waits to be decoded. Silence is bounded elsewhere."""


def check_packages() -> None:
    """Check that the packages of the extra `serve` are there.

    Raises:
        ConfigError: one is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'the server needs {" and ".join(missing)}, but they are not installed; pip install "zipasr[serve]"'
        )


class Service:
    """A server with a recogniser in it."""

    def __init__(self, recognizer: Recognizer, config: ServeConfig | None = None, *, model_name: str = "zipasr") -> None:
        """Take a port and put the parts together.

        Args:
            recognizer: what computes, from now on for this server alone.
            config: where to listen, and limits.
            model_name: how clients call the model.
        Raises:
            ConfigError: packages are missing, or there is no such address.
            ZipasrError: the port is in use or not to be had.
        """
        check_packages()
        self.recognizer, self.config, self.model_name = recognizer, config or ServeConfig(), model_name
        self.why_no_stream = _why_no_stream(recognizer)
        self._socket = _bound(self.config.host, self.config.port)
        self._admission = Admission(self.config.max_connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_signals = self._num_unanswered = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where its page is."""
        host = self.config.host if self.config.host not in ("0.0.0.0", "::", "") else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def run(self, on_ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until a signal, or `stop`; return whether all that was accepted has been answered."""
        _allow_files(2 * (self.config.max_connections + _MAX_IDLE_CONNECTIONS) + 100)
        return asyncio.run(self._serve(on_ready))

    def stop(self) -> None:
        """Begin to stop, from any thread: nothing new is accepted, and what was accepted is answered."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_draining)

    async def _serve(self, on_ready: Callable[[], None]) -> bool:
        from zipasr.serve.batching import BatchingWorker
        from zipasr.serve.connection import break_stuck
        from zipasr.serve.metrics import Metrics
        from zipasr.serve.recordings import Transcriber

        self._loop = asyncio.get_running_loop()
        self._draining = asyncio.Event()
        metrics = Metrics()
        worker = BatchingWorker(self.recognizer, metrics, max_waiting=self.config.max_waiting)
        transcriber = Transcriber(worker, self.config)
        app = self._app(transcriber, metrics)
        self._server = _make_server(app, self.config, on_signal=self._signalled)
        worker.start()
        beside = [
            asyncio.ensure_future(self._call_when_ready(on_ready)),
            asyncio.ensure_future(break_stuck(self._server.server_state.connections, self.config.idle_timeout_s)),
        ]
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            # At a second signal requests are open still.
            self._num_unanswered = max(self._num_unanswered, self._admission.num_open)
            for task in beside:
                task.cancel()
            transcriber.close()
            worker.stop()
            self._socket.close()
        return self._num_unanswered == 0

    def _app(self, transcriber: "Transcriber", metrics: "Metrics") -> "ASGIApp":
        from starlette.routing import Router

        from zipasr.serve.gate import Gate
        from zipasr.serve.http import HttpEndpoints
        from zipasr.serve.live import LiveSessions
        from zipasr.serve.sockets import SocketEndpoints

        worker = transcriber.worker
        live = None if self.why_no_stream else LiveSessions(self.recognizer, metrics, worker.wake)
        worker.live = live
        http = HttpEndpoints(
            transcriber, self.config, self._admission, metrics, model_name=self.model_name, can_stream=live is not None
        )
        sockets = SocketEndpoints(
            transcriber, live, self.config, metrics, draining=self._draining, why_no_stream=self.why_no_stream
        )
        app = Router(routes=[*http.routes(), *sockets.routes()])
        return Gate(app, self._admission, metrics, api_key=self.config.api_key)

    async def _call_when_ready(self, on_ready: Callable[[], None]) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        on_ready()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Stop in good order; at the second signal, when the batch in work is through."""
        self._num_signals += 1
        if self._num_signals > 1:
            self._server.config.timeout_graceful_shutdown = 0
            self._server.should_exit = self._server.force_exit = True
        self.stop()

    def _begin_draining(self) -> None:
        if not self._admission.is_draining:
            self._admission.is_draining = True
            self._draining.set()
            self._drained = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        start_s = time.monotonic()
        while (now_s := time.monotonic() - start_s) < self.config.drain_timeout_s:
            if self._admission.num_open == 0 and now_s >= _MIN_DRAIN_S:
                break
            await asyncio.sleep(0.05)
        self._num_unanswered = self._admission.num_open
        # What has been answered is still on its way to clients that read slowly.
        left_s = self.config.drain_timeout_s - (time.monotonic() - start_s)
        self._server.config.timeout_graceful_shutdown = max(_MIN_FLUSH_S, math.ceil(left_s))
        self._server.should_exit = True


def serve(
    recognizer: Recognizer,
    config: ServeConfig | None = None,
    *,
    model_name: str = "zipasr",
    on_ready: Callable[[str], None] = lambda url: None,
) -> bool:
    """Serve until SIGTERM or SIGINT; return whether all that was accepted has been answered. See `Service`.

    Args:
        recognizer: what computes.
        config: where to listen, and limits.
        model_name: how clients call the model.
        on_ready: called with the address of the page when the server answers.
    """
    service = Service(recognizer, config, model_name=model_name)
    return service.run(lambda: on_ready(service.url))


def _make_server(
    app: "ASGIApp", config: ServeConfig, *, on_signal: Callable[[int, FrameType | None], None]
) -> "uvicorn.Server":
    import uvicorn

    from zipasr.serve.connection import connection_class, socket_class

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            on_signal(sig, frame)  # uvicorn's would end WebSockets in the middle of a word, and the process with the signal

    return Server(
        uvicorn.Config(
            app,
            http=connection_class(config.max_connections + _MAX_IDLE_CONNECTIONS, config.idle_timeout_s),
            ws=socket_class(config.idle_timeout_s),
            ws_ping_interval=_PING_INTERVAL_S,
            ws_ping_timeout=None,
            # A recording may come in one message; at more than 16 kHz it may have to come in several.
            ws_max_size=max(2**20, round(config.max_utterance_s * SAMPLE_RATE_HZ * 4) + 8),
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=_MIN_FLUSH_S,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            backlog=1024,
        )
    )


def _allow_files(number: int) -> None:
    """Ask for as many open files as connections and uploads may need; where that is not granted, fewer must do."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # POSIX only

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < number:
            wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _why_no_stream(recognizer: Recognizer) -> str:
    """Why live sound cannot be transcribed; empty where it can."""
    try:
        recognizer.stream()
    except ConfigError as error:
        return str(error)
    return ""


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        ConfigError: there is no such address.
        ZipasrError: the port is not to be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"the host must be an address of this machine, but is {host!r}: {error}") from error
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere the option lets two servers share a port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        cure = "end what listens there, or name another with --port" if error.errno == errno.EADDRINUSE else "name another"
        raise ZipasrError(f"cannot listen at {host} port {port}: {error.strerror}; {cure}") from error
    return found
