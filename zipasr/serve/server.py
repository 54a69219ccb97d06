"""The server: `Service` creates its parts and runs them; `serve` runs a service until a signal.

Two kinds of threads matter: the event loop's, which talks to clients, and those of `batching`, which run the model.
"""

import asyncio
import contextlib
import errno
import importlib.util
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import ConfigError, ZipasrError
from zipasr.recognizer import Recognizer
from zipasr.serve.graphs import load_graphs
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
"""For at least this time after a signal, the server still responds that it is shutting down."""
_MIN_FLUSH_S = 5
"""How long responses may still take to reach their clients after the drain timeout."""
_PING_INTERVAL_S = 20.0
"""Pings keep idle WebSockets open in proxies. A client that misses a ping is not disconnected: the server itself may not be
reading while audio waits to be decoded. `idle_timeout_s` bounds how long a client may be silent."""


def check_packages() -> None:
    """Check that the packages of the extra `serve` are installed.

    Raises:
        ConfigError: one is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f'the server needs {" and ".join(missing)}, which are not installed; pip install "zipasr[serve]"')


class Service:
    """A server that transcribes with one recognizer."""

    def __init__(
        self,
        recognizer: Recognizer,
        config: ServeConfig | None = None,
        *,
        model_name: str = "zipasr",
        graphs: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        """Create the server and listen on its port; `run` serves.

        Args:
            recognizer: the model and search; from now on only this server may use it.
            config: address and limits.
            model_name: name of the model for clients.
            graphs: folders of graphs that requests may name.
        Raises:
            DataError: the folder of a graph is missing or damaged.
            ConfigError: a graph does not go with the model or its search, packages are missing (also those that find speech
                in long recordings, if they are to be used), or the host is not an address of this machine.
            ZipasrError: the port is in use or not available.
        """
        check_packages()
        from zipasr.serve.spotting import KeywordRequests

        self.recognizer, self.config, self.model_name = recognizer, config or ServeConfig(), model_name
        self.graphs = load_graphs(graphs, recognizer.engine.tokenizer)
        for graph in self.graphs.values():
            recognizer.check_graph(graph)
        self._detector = recognizer.long_recordings.detector()
        self.why_no_stream = _why_no_stream(recognizer)
        self._keywords = KeywordRequests(recognizer, self.config.keywords)
        self._socket = _listening_socket(self.config.host, self.config.port)
        self._admission = Admission(self.config.max_connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_signals = self._num_unanswered = 0

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """The URL of the server's page."""
        host = self.config.host if self.config.host not in ("0.0.0.0", "::", "") else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def run(self, on_ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until a signal or `stop`; return whether all accepted requests were completed."""
        _raise_file_limit(2 * (self.config.max_connections + _MAX_IDLE_CONNECTIONS) + 100)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(self._serve(on_ready))

    def stop(self) -> None:
        """Start to shut down, from any thread: new requests are refused, accepted ones are completed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._start_draining)

    async def _serve(self, on_ready: Callable[[], None]) -> bool:
        from zipasr.serve.batching import BatchingWorker
        from zipasr.serve.connection import break_stuck
        from zipasr.serve.metrics import Metrics
        from zipasr.serve.recordings import Transcriber

        self._loop = asyncio.get_running_loop()
        self._draining = asyncio.Event()
        metrics = Metrics()
        worker = BatchingWorker(
            self.recognizer, metrics, max_waiting=self.config.max_waiting, num_threads=self.config.workers
        )
        transcriber = Transcriber(worker, self.config, self._detector)
        app = self._app(transcriber, metrics)
        self._server = _make_server(app, self.config, on_signal=self._on_signal)
        worker.start()
        background = [
            asyncio.ensure_future(self._call_when_ready(on_ready)),
            asyncio.ensure_future(break_stuck(self._server.server_state.connections, self.config.stall_timeout_s)),
        ]
        try:
            with _waiting_its_turn():
                await self._server.serve(sockets=[self._socket])
        finally:
            # After a second signal some requests are still open.
            self._num_unanswered = max(self._num_unanswered, self._admission.num_open)
            for task in background:
                task.cancel()
            transcriber.close()
            worker.stop()
            self._socket.close()
        return self._num_unanswered == 0

    def _app(self, transcriber: "Transcriber", metrics: "Metrics") -> "ASGIApp":
        from zipasr.serve.cross_origin import Origins
        from zipasr.serve.gate import Gate
        from zipasr.serve.http import HttpEndpoints
        from zipasr.serve.live import LiveSessions, LiveStreams
        from zipasr.serve.openai_api import ServedModel
        from zipasr.serve.proxy import BehindProxy
        from zipasr.serve.routing import router
        from zipasr.serve.sockets import SocketEndpoints

        config, worker = self.config, transcriber.worker
        groups = [
            LiveSessions(self.recognizer, metrics, worker.wake, max_wait_s=config.max_wait_ms / 1000)
            for _ in range(config.workers)
        ]
        worker.live = live = None if self.why_no_stream else LiveStreams(groups)
        served = ServedModel(
            name=self.model_name,
            tokenizer=self.recognizer.engine.tokenizer,
            language=config.language,
            has_hotwords=self.recognizer.can_use_hotwords,
            graphs=self.graphs,
        )
        http = HttpEndpoints(transcriber, config, self._admission, metrics, served, can_stream=live is not None)
        sockets = SocketEndpoints(
            transcriber,
            live,
            config,
            metrics,
            draining=self._draining,
            why_no_stream=self.why_no_stream,
            graphs=self.graphs,
            keywords=self._keywords,
        )
        app = router([*http.routes(), *sockets.routes()])
        gate = Gate(app, self._admission, metrics, api_key=config.api_key, origins=Origins(config.allow_origins))
        return BehindProxy(gate, root_path=config.root_path, trusted=config.forwarded_allow_ips)

    async def _call_when_ready(self, on_ready: Callable[[], None]) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        on_ready()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Shut down gracefully; after a second signal, as soon as the current batch is done."""
        self._num_signals += 1
        if self._num_signals > 1:
            self._server.config.timeout_graceful_shutdown = 0
            self._server.should_exit = self._server.force_exit = True
        self.stop()

    def _start_draining(self) -> None:
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
        # Responses may still be on their way to clients that read slowly.
        left_s = self.config.drain_timeout_s - (time.monotonic() - start_s)
        self._server.config.timeout_graceful_shutdown = max(_MIN_FLUSH_S, math.ceil(left_s))
        self._server.should_exit = True


def serve(
    recognizer: Recognizer,
    config: ServeConfig | None = None,
    *,
    model_name: str = "zipasr",
    graphs: Iterable[str | os.PathLike[str]] = (),
    on_ready: Callable[[str], None] = lambda url: None,
) -> bool:
    """Serve until SIGTERM or SIGINT; return whether all accepted requests were completed.

    Args:
        recognizer, config, model_name, graphs: see `Service`.
        on_ready: called with the URL of the page when the server is ready.
    """
    service = Service(recognizer, config, model_name=model_name, graphs=graphs)
    return service.run(lambda: on_ready(service.url))


def _make_server(
    app: "ASGIApp", config: ServeConfig, *, on_signal: Callable[[int, FrameType | None], None]
) -> "uvicorn.Server":
    import uvicorn

    from zipasr.serve.connection import connection_class, socket_class

    # It warns of every malformed form, which is a fault of a client, and which the client is told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            on_signal(sig, frame)  # uvicorn would close WebSockets in the middle of an utterance and end the process

    return Server(
        uvicorn.Config(
            app,
            http=connection_class(config.max_connections + _MAX_IDLE_CONNECTIONS, config.stall_timeout_s),
            ws=socket_class(config.stall_timeout_s),
            ws_ping_interval=_PING_INTERVAL_S,
            ws_ping_timeout=None,
            # A recording at 16 kHz fits into one message; at higher rates it may need several.
            ws_max_size=max(2**20, round(config.max_utterance_s * SAMPLE_RATE_HZ * 4) + 8),
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # see `BehindProxy`
            # If the server closes an idle connection before its client does, the client's next request may be lost.
            timeout_keep_alive=math.ceil(config.stall_timeout_s),
            timeout_graceful_shutdown=_MIN_FLUSH_S,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            backlog=1024,
        )
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop: uvloop where it is installed, which takes less time; None: the standard loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def _waiting_its_turn() -> Iterator[None]:
    """Context manager: inside the block, this thread interrupts no other that computes on the same core (Linux).

    A message wakes the thread of the event loop, which by default takes the core at once: with many live streams, more than
    a thousand times a second. Waiting for the few milliseconds of the other's turn, it handles several messages at once.
    """
    try:
        policy = os.sched_getscheduler(0)
        if policy == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError):  # another system, or a container that forbids it
        yield
        return
    try:
        yield
    finally:
        if policy == os.SCHED_OTHER:
            os.sched_setscheduler(0, policy, os.sched_param(0))


def _raise_file_limit(number: int) -> None:
    """Raise the limit on open files to what connections and uploads may need, as far as the system allows."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # POSIX only

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < number:
            wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _why_no_stream(recognizer: Recognizer) -> str:
    """Why the model cannot process live audio; empty if it can."""
    try:
        recognizer.stream()
    except ConfigError as error:
        return str(error)
    return ""


def _listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        ConfigError: the host is not an address of this machine.
        ZipasrError: the port is not available.
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
        cure = "stop the program that uses it, or choose another with --port"
        cure = cure if error.errno == errno.EADDRINUSE else "choose another"
        raise ZipasrError(f"cannot listen on {host} port {port}: {error.strerror}; {cure}") from error
    return found
