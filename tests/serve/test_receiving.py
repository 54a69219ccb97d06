"""Contract: a message costs no task, future or timer; audio that has arrived is read before the end; and ended connections
leave nothing for the garbage collector. A fake transport gives a connection its bytes, without a network."""

import asyncio
import gc
import socket
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.serve.clients import connect, frame, raw_socket, results_of, send_recordings, stream_samples, ws
from tests.serve.running import gauge, running, sentence, streaming_recognizer, wait_until
from tests.watchdog import WATCHDOG_S
from zipasr.serve import ServeConfig, receiving, server
from zipasr.serve.connection import SocketConnection, connection_of, socket_class
from zipasr.serve.protocol import RecordingReader, write_recording
from zipasr.serve.receiving import LiveAudio, Recordings, _Receiving

pytestmark = pytest.mark.usefixtures("each_loop")
PIECE = np.full(1280, 0.5, "<f4").tobytes()
HEAD = (
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
).encode()


class Transport(asyncio.Transport):
    """Keeps what is written, and whether the connection reads."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written, self.is_open, self.reads = b"", True, True

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return not self.is_open

    def close(self) -> None:
        self.is_open = False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Session:
    """A live session that keeps its samples, and has room as the test says."""

    def __init__(self) -> None:
        self.num_samples, self.has_room, self.has_news = 0, True, asyncio.Event()

    def push(self, samples: np.ndarray) -> None:
        assert (samples == 0.5).all()
        self.num_samples += len(samples)

    async def room(self) -> None:
        await self.has_news.wait()


class Opened:
    """A connection of which the handshake is done; `receiver` then takes its messages."""

    def __init__(self, connection: SocketConnection, transport: Transport) -> None:
        self.connection, self.transport = connection, transport
        self.session, self.draining, self.config = Session(), asyncio.Event(), ServeConfig()

    def live(self) -> LiveAudio:
        audio = LiveAudio(self.connection, self.session, self.config, self.draining, max_drain_s=WATCHDOG_S)  # type: ignore[arg-type]
        audio.start()
        return audio

    def recordings(self, max_drain_s: float = WATCHDOG_S) -> Recordings:
        reader = RecordingReader(300.0, 10_000_000)
        found = Recordings(
            self.connection,
            reader,
            self.config,
            self.draining,
            may_add=lambda num_bytes: True,
            max_drain_s=max_drain_s,
        )
        found.start()
        return found


@asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    found, is_over = [], asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        found.append(connection_of(scope))
        await is_over.wait()

    config = uvicorn.Config(app, lifespan="off", log_config=None, ws_per_message_deflate=False, proxy_headers=False)
    config.load()
    connection, transport = socket_class(60.0)(config, ServerState(), {}), Transport()  # type: ignore[call-arg]
    connection.connection_made(transport)
    connection.data_received(HEAD)  # type: ignore[attr-defined]
    while not found:
        await asyncio.sleep(0)
    yield Opened(found[0], transport)
    is_over.set()
    await until(lambda: not transport.is_open)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until a condition is true; `run` ends a test in which it never is."""
    while not condition():
        await asyncio.sleep(0)


async def turn(number: int = 50) -> None:
    """Let the event loop turn, more often than a chain of callbacks needs."""
    for _ in range(number):
        await asyncio.sleep(0)


def run(work: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=server._loop_factory()) as runner:
        runner.run(asyncio.wait_for(work(), WATCHDOG_S))


def test_a_message_costs_no_task_future_or_timer() -> None:
    class Counting(asyncio.SelectorEventLoop):
        num_made = 0

        def _count(self, name: str, *args: Any, **options: Any) -> Any:
            Counting.num_made += 1
            return getattr(asyncio.SelectorEventLoop, name)(self, *args, **options)

        def call_soon(self, *args: Any, **options: Any) -> Any:
            return self._count("call_soon", *args, **options)

        def call_at(self, *args: Any, **options: Any) -> Any:
            return self._count("call_at", *args, **options)

        def create_task(self, *args: Any, **options: Any) -> Any:
            return self._count("create_task", *args, **options)

        def create_future(self) -> Any:
            return self._count("create_future")

    async def work() -> None:
        async with opened() as one:
            audio, before = one.live(), Counting.num_made
            for _ in range(100):
                one.connection.data_received(frame(2, PIECE))
            assert (Counting.num_made, one.transport.reads, one.session.num_samples) == (before, True, 100 * 1280)
            audio.stop()
        async with opened() as one:
            recordings = one.recordings()
            header = np.array([16_000, 101 * len(PIECE)], "<i4").tobytes()
            assert not list(recordings._reader.read(header))
            taking = asyncio.ensure_future(recordings.next())
            await until(lambda: recordings._news is not None)
            before = Counting.num_made
            for _ in range(100):
                one.connection.data_received(frame(2, PIECE))
            assert (Counting.num_made, one.transport.reads, taking.done()) == (before, True, False)
            one.connection.data_received(frame(2, PIECE))
            (recording,) = recordings._reader.read(await taking)  # type: ignore[arg-type]
            assert (len(recording.samples), recording.samples.min()) == (101 * 1280, 0.5)
            recordings.stop()

    with asyncio.Runner(loop_factory=Counting) as runner:
        runner.run(asyncio.wait_for(work(), WATCHDOG_S))


def test_live_audio_is_read_no_faster_than_there_is_room() -> None:
    async def work() -> None:
        async with opened() as one:
            audio = one.live()
            one.session.has_room = False
            one.connection.data_received(frame(2, PIECE) * 3)  # in one read, and so all are taken
            assert (one.session.num_samples, one.transport.reads) == (3 * 1280, False)
            await turn()
            assert not one.transport.reads
            one.session.has_room = True
            one.session.has_news.set()
            await until(lambda: one.transport.reads)
            audio.stop()

    run(work)


def test_a_client_that_does_not_read_is_not_read_from_either() -> None:
    """Even when there is room again: every ping that is read adds a pong to the full buffer."""

    async def work() -> None:
        async with opened() as one:
            audio, one.session.has_room = one.live(), False
            one.connection.data_received(frame(2, PIECE))
            one.connection.pause_writing()
            one.session.has_room = True
            one.session.has_news.set()
            await until(lambda: not audio.is_full)
            await turn()
            assert not one.transport.reads
            one.connection.resume_writing()
            assert one.transport.reads
            audio.stop()

    run(work)


def test_a_violation_of_the_protocol_ends_the_messages() -> None:
    """In one read with good messages before and after it; the client can still be read from, and so sees the reason."""

    async def work() -> None:
        async with opened() as one:
            audio, unknown = one.live(), b"\x83\x80" + bytes(4)
            one.connection.data_received(frame(2, PIECE) * 2 + unknown + frame(2, PIECE))
            one.connection.data_received(frame(2, PIECE))
            assert ((await audio.ended).code, one.session.num_samples, one.transport.reads) == (0, 2 * 1280, True)
            assert one.transport.written.rpartition(b"\x88")[2][1:3] == (1002).to_bytes(2, "big")
            audio.stop()
            one.transport.close()

    run(work)


@pytest.mark.parametrize("rest", [b"", frame(8, b""), frame(2, PIECE)])
@pytest.mark.parametrize("is_early", [False, True])
def test_a_text_that_is_not_utf8_is_no_error_of_the_server(
    is_early: bool, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Also in one read with the client's close frame, and before there is a receiver."""

    async def work() -> None:
        async with opened() as one:
            content = frame(2, PIECE) + frame(1, b"Done\xff") + rest
            if is_early:
                one.connection.data_received(content)
            audio = one.live()
            if not is_early:
                one.connection.data_received(content)
            assert ((await audio.ended).code, one.session.num_samples) == (0, 1280)
            reason = one.transport.written.rpartition(b"\x88")[2][1:]
            is_closed_by_client = is_early and rest == frame(8, b"")
            assert reason == (b"" if is_closed_by_client else (1007).to_bytes(2, "big") + b"A text must be UTF-8.")
            audio.stop()
            one.transport.close()

    run(work)
    assert not caplog.records


def test_messages_before_the_receiver_are_first() -> None:
    """A client may send audio without waiting for the response to its handshake."""

    async def work() -> None:
        async with opened() as one:
            stream = frame(2, PIECE) * 5
            for start in range(0, len(stream), 999):
                if start == 2 * 999:
                    audio = one.live()
                one.connection.data_received(stream[start : start + 999])
            assert (one.session.num_samples, one.transport.reads) == (5 * 1280, True)
            audio.stop()

    run(work)


def test_a_late_event_loop_reads_what_has_arrived_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is shutting down, and the loop is so late that the time for further messages is over."""

    async def work() -> None:
        async with opened() as one:
            audio, (ours, theirs) = one.live(), socket.socketpair()
            reading = SimpleNamespace(data_received=one.connection.data_received)
            for name in ("connection_made", "connection_lost", "eof_received"):
                setattr(reading, name, lambda *_: None)
            await asyncio.get_running_loop().create_connection(lambda: reading, sock=ours)
            monkeypatch.setattr(receiving, "_BACKLOG_S", 0.5)  # so that only this test makes the loop late
            one.draining.set()
            await until(lambda: audio._backlog_timer is not None)
            with theirs:
                theirs.sendall(frame(2, PIECE))
                time.sleep(0.6)
                end = await audio.ended
            assert (end.code, end.has_results, one.session.num_samples) == (1012, True, 1280)
            audio.stop()

    run(work)


def test_recordings_sent_without_a_pause_end_when_the_server_stops() -> None:
    """What has been read is still answered; of what follows, only the rest of a recording is read."""

    async def work() -> None:
        async with opened() as one:
            recordings, content = one.recordings(), write_recording(np.full(100, 0.5, np.float32))
            one.connection.data_received(frame(2, content) + frame(2, content) + frame(2, content[:50]))
            assert not one.transport.reads
            one.draining.set()
            await turn()
            for _ in range(2):
                assert await recordings.next() == content
                assert len(list(recordings._reader.read(content))) == 1
                assert not one.transport.reads
            half = await recordings.next()
            assert half == content[:50] and not list(recordings._reader.read(half))
            rest = asyncio.ensure_future(recordings.next())
            await until(lambda: one.transport.reads)
            one.connection.data_received(frame(2, content[50:]) + frame(2, content))
            assert not one.transport.reads
            assert len(list(recordings._reader.read(await rest))) == 1  # type: ignore[arg-type]
            assert await recordings.next() == content
            assert await recordings.next() is None
            assert one.transport.reads  # for the client's close frame
            recordings.stop()

    run(work)


def test_a_recording_that_is_never_complete_ends_when_the_server_stops() -> None:
    async def work() -> None:
        async with opened() as one:
            recordings, content = one.recordings(max_drain_s=0.01), write_recording(np.full(100, 0.5, np.float32))
            one.connection.data_received(frame(2, content[:50]))
            half = await recordings.next()
            assert half is not None and not list(recordings._reader.read(half))  # type: ignore[arg-type]
            one.draining.set()
            assert await recordings.next() is None
            recordings.stop()

    run(work)


def test_ended_connections_leave_nothing_to_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, start = [], _Receiving.start

    def observed(receiver: _Receiving) -> None:
        start(receiver)
        alive.extend([weakref.ref(receiver), weakref.ref(receiver._connection)])

    monkeypatch.setattr(_Receiving, "start", observed)
    with running(streaming_recognizer()) as service:
        gc.collect()
        gc.disable()
        try:
            for path in ("/online", "/offline"):
                with connect(ws(service, path)) as connection:
                    connection.send("hello")  # refused
                with raw_socket(service, path) as leaving:
                    assert leaving.recv(65536).startswith(b"HTTP/1.1 101")
                    leaving.sendall(frame(2, PIECE))
                with connect(ws(service, path)) as leaving:
                    leaving.send(bytes(2**20 * 20))  # too large
            send_recordings(ws(service, "/offline"), [sentence()])
            with connect(ws(service, "/offline")) as leaving:
                leaving.send(write_recording(sentence())[:-1])
            with connect(ws(service, "/online")) as connection:
                stream_samples(connection, sentence())
                connection.send("Done")
                results_of(connection)
            wait_until(lambda: gauge(service, "open") == 0 and len(alive) == 18)
            wait_until(lambda: all(reference() is None for reference in alive))
        finally:
            gc.enable()
