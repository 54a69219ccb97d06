"""Contract: a connection stays open while its client sends requests and reads responses; ended connections are freed."""

import asyncio
import selectors
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import uvicorn

from tests.serve.clients import answer_of, connect, frame, post, raw_socket, ws
from tests.serve.clock import IDLE_S, Clock
from tests.serve.running import called, gauge, held, offline_recognizer, running, sentence, streaming_recognizer, wait_until
from tests.watchdog import WATCHDOG_S
from zipasr.serve.connection import SocketConnection, break_stuck
from zipasr.serve.protocol import write_recording

pytestmark = pytest.mark.usefixtures("each_loop")
MB = 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("head", [f"Cookie: {'a' * 9000}\r\n", "".join(f"X-{i}: 1\r\n" for i in range(200))])
def test_a_head_too_long_for_a_websocket_is_answered(head: str) -> None:
    """It is short enough for HTTP, and the client gets a response instead of waiting forever."""
    with running(offline_recognizer()) as service, raw_socket(service, head=head) as connection:
        assert answer_of(connection).startswith("HTTP/1.1 431 ")


def test_a_client_that_pings_and_never_reads_is_disconnected(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then, the server reads no more pings than fit into the buffers."""
    pings = frame(9, bytes(125)) * 800
    stuck = called(monkeypatch, SocketConnection, "pause_writing")

    def num_sent(connection: socket.socket) -> int:
        for i in range(1000):
            try:
                connection.sendall(pings)
            except ConnectionError:  # the server has closed
                return i * len(pings)
        return 1000 * len(pings)

    with (
        running(streaming_recognizer(), idle_timeout_s=IDLE_S) as service,
        raw_socket(service, receive_bytes=4096) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        sent = pool.submit(num_sent, connection)
        wait_until(lambda: bool(stuck) and not stuck[-1].transport.is_reading())
        with clock.hurrying(service):
            assert sent.result() < 50 * MB
        wait_until(lambda: gauge(service, "open") == 0)
        assert post(service).status_code == 200


def test_unread_data_of_a_closing_connection_is_dropped() -> None:
    async def run() -> None:
        ends: list[asyncio.Future[None]] = []

        class Observed(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                self.transport = transport
                connections.add(self)
                transport.write(bytes(50 * MB))
                transport.close()

            def connection_lost(self, error: Exception | None) -> None:
                connections.remove(self)
                ends.append(asyncio.get_running_loop().create_future())

        connections: set[Observed] = set()
        server = await asyncio.get_running_loop().create_server(Observed, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            breaking = asyncio.ensure_future(break_stuck(connections, 0.2))
            async with asyncio.timeout(WATCHDOG_S):
                while not ends:
                    await asyncio.sleep(0.01)
            breaking.cancel()
            assert not connections
        server.close()

    asyncio.run(run())


def test_a_busy_server_does_not_disconnect_clients_for_missed_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pong may wait behind a second recording, which is read only when the first is done."""
    monkeypatch.setattr("zipasr.serve.server._PING_INTERVAL_S", 0.05, raising=False)
    timeouts = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.05}
    real = uvicorn.Config
    monkeypatch.setattr(uvicorn, "Config", lambda app, **options: real(app, **(timeouts | options)))
    slow = offline_recognizer()
    with held(slow) as (is_held, go_on), running(slow) as service, connect(ws(service)) as connection:
        for _ in range(3):
            connection.send(write_recording(sentence()))
        assert is_held.wait(WATCHDOG_S)
        with pytest.raises(TimeoutError):
            connection.recv(0.5)
        go_on.set()
        assert len({connection.recv(WATCHDOG_S) for _ in range(3)}) == 1


def test_a_client_that_disconnects_after_a_long_message_frees_its_session() -> None:
    """It disconnects while the socket waits for room in the backlog."""
    with running(streaming_recognizer()) as service:
        with connect(ws(service)) as leaving:
            leaving.send(np.concatenate([sentence(seed, 10.0) for seed in range(10)]).tobytes())
            leaving.recv(WATCHDOG_S)
            leaving.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: gauge(service, "open") == gauge(service, "live") == 0)


def test_idle_connections_beyond_the_limit_are_refused(clock: Clock) -> None:
    num_refused = 600 - 1 - 512
    with running(offline_recognizer(), max_connections=1, idle_timeout_s=IDLE_S) as service:
        idle = [socket.create_connection(("127.0.0.1", service.port), timeout=WATCHDOG_S) for _ in range(600)]
        with selectors.DefaultSelector() as readable:
            for connection in idle:
                readable.register(connection, selectors.EVENT_READ)
            wait_until(lambda: len(readable.select(0)) == num_refused)
        with clock.hurrying(service):
            answers = [answer_of(connection) for connection in idle]
        refused = [answer for answer in answers if answer]
        assert len(refused) == num_refused
        assert all(answer.startswith("HTTP/1.1 503 ") and "Retry-After: 2" in answer for answer in refused)
        assert post(service).status_code == 200
