"""What messages of live audio and results cost the event loop of a server, in microseconds of processor time.

    python benchmarks/serving_sockets.py [--against OTHER_CHECKOUT] [--results FILE]

Two measurements, each in a process of its own. `message_us` and `result_us`: a connection gets bytes through a fake
transport, from frame to samples and from transcript to frame, without system calls; the fastest of nine runs of a thousand.
Utterances grow to 30 tokens. `loop_us` and `process_us`: 64 clients send pieces of 80 ms at the pace of speech, each from a
moment of its own, over TCP, to a server on the first core, whose recognizer multiplies matrices for about a millisecond for
every chunk of 320 ms; processor time of the thread of the event loop and of the whole process, for a stream and chunk: four
messages and a result. Handshakes do not count. With `--against`, the code of two checkouts takes turns.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

PIECE_S, PIECE_SAMPLES, CHUNK_SAMPLES, TOKENS_PER_UTTERANCE = 0.08, 1280, 5120, 30
MASK = bytes([1, 2, 3, 4])
MESSAGE = b"\x82\xfe" + (4 * PIECE_SAMPLES).to_bytes(2, "big") + MASK + MASK * PIECE_SAMPLES  # zeros, masked
UPGRADE = (
    "GET /online HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
).encode()
Figures = dict[str, float]


def transcripts() -> list[Any]:
    """An utterance after each of its tokens, from none on."""
    from zipasr.transcript import Token, Transcript, Word

    texts = ["\u2581" * (i % 3 == 0) + f"ab{i}" for i in range(TOKENS_PER_UTTERANCE)]
    tokens = tuple(Token(text, 0.32 * i, 0.32 * i + 0.04, -0.123456789 * (i % 5), id=i) for i, text in enumerate(texts))
    words = tuple(Word(f"word{i}", 0.32 * i, 0.32 * i + 0.3, 0.9) for i in range(len(tokens) // 3))
    return [
        Transcript("".join(texts[:n]).replace("\u2581", " ").strip(), tokens[:n], words[: n // 3], 0.32 * n)
        for n in range(len(tokens) + 1)
    ]


class Stream:
    """A stream that says a token after every chunk, and ends an utterance after some tokens."""

    sizes = SimpleNamespace(chunk=16)
    said: list[Any]

    def __init__(self) -> None:
        self.num_samples = self.num_tokens = 0

    def accept_waveform(self, samples: Any) -> None:
        self.num_samples += len(samples)

    def is_ready(self) -> bool:
        return self.num_samples >= CHUNK_SAMPLES

    @property
    def missing_samples(self) -> int:
        return max(0, CHUNK_SAMPLES - self.num_samples)

    def is_endpoint(self) -> bool:
        return self.num_tokens >= TOKENS_PER_UTTERANCE

    def reset(self) -> None:
        self.num_tokens = 0

    def result(self) -> Any:
        return self.said[self.num_tokens]

    def input_finished(self) -> None: ...

    finish = result


def recognizer() -> Any:
    """A recognizer that multiplies matrices for every chunk."""
    Stream.said, matrix = transcripts(), np.ones((300, 300), np.float32)

    def decode_streams(streams: list[Stream]) -> None:
        for stream in streams:
            np.matmul(matrix, matrix)
            stream.num_samples -= CHUNK_SAMPLES
            stream.num_tokens += 1

    return SimpleNamespace(stream=Stream, decode_streams=decode_streams)


def serve() -> None:
    """The server's process: print the port, then the seconds of the event loop's thread and of the process for every line of
    the input."""
    from zipasr.serve import ServeConfig, Service

    os.sched_setaffinity(0, {0})
    service = Service(recognizer(), ServeConfig(port=0, max_connections=10_000))
    main = threading.main_thread().ident
    assert main is not None

    def answer() -> None:
        print(service.port, flush=True)
        for _ in sys.stdin:
            print(time.clock_gettime(time.pthread_getcpuclockid(main)), time.process_time(), flush=True)
        service.stop()

    service.run(lambda: threading.Thread(target=answer, daemon=True).start())


class Transport(asyncio.Transport):
    """Counts what is written."""

    num_written = 0

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})

    def write(self, data: Any) -> None:
        self.num_written += 1

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Session:
    """A live session that counts messages and has the results that it is given."""

    has_room = True

    def __init__(self) -> None:
        self.num_pushed, self.results, self.has_news = 0, list[Any](), asyncio.Event()

    def push(self, samples: Any) -> None:
        self.num_pushed += 1

    def leave(self) -> None: ...

    async def next_result(self) -> Any:
        while not self.results:
            self.has_news.clear()
            await self.has_news.wait()
        return self.results.pop()


async def through_a_fake_transport() -> Figures:
    """Microseconds for a message and for a result."""
    import uvicorn
    from starlette.routing import Router
    from uvicorn.server import ServerState

    from zipasr.serve.connection import socket_class
    from zipasr.serve.limits import ServeConfig
    from zipasr.serve.live import LiveResult
    from zipasr.serve.metrics import Metrics
    from zipasr.serve.sockets import SocketEndpoints

    session, said = Session(), transcripts()
    live: Any = SimpleNamespace(open=lambda graph: session)
    nothing: Any = None
    stops = asyncio.Event()
    sockets = SocketEndpoints(nothing, live, ServeConfig(), Metrics(), draining=stops, why_no_stream="", keywords=nothing)
    app = Router(routes=sockets.routes())
    config = uvicorn.Config(app, lifespan="off", log_config=None, log_level="critical", ws_per_message_deflate=False)
    config.load()
    connection, transport = socket_class(60.0)(config, ServerState(), {}), Transport()  # type: ignore[call-arg]
    connection.connection_made(transport)
    connection.data_received(UPGRADE)  # type: ignore[attr-defined]
    while not transport.num_written:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)

    async def messages() -> None:
        for i in range(1000):
            connection.data_received(MESSAGE)  # type: ignore[attr-defined]
            while session.num_pushed % 1000 != (i + 1) % 1000:
                await asyncio.sleep(0)

    async def results() -> None:
        for i in range(1000):
            num_written, (segment, n) = transport.num_written, divmod(i, len(said))
            session.results.append(LiveResult(said[n], segment, float(segment), n == TOKENS_PER_UTTERANCE, False))
            session.has_news.set()
            while transport.num_written == num_written:
                await asyncio.sleep(0)

    figures: dict[str, list[float]] = {"message_us": [], "result_us": []}
    for _ in range(9):
        for name, work in (("message_us", messages), ("result_us", results)):
            start_s = time.process_time()
            await work()
            figures[name].append(1e3 * (time.process_time() - start_s))
    return {name: min(values) for name, values in figures.items()}


class Child:
    """A process with the code of a checkout."""

    def __init__(self, root: Path, work: str, loop: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--child", work, "--loops", loop]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, cwd=root, env=environment, **pipes)

    def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def spent_s(self) -> np.ndarray:
        """Processor seconds of a server: of the event loop's thread, and of all."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return np.array([float(word) for word in self.line().split()])

    def stop(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def over_tcp(server: Child, port: int, num_clients: int, duration_s: float) -> Figures:
    """Send live audio at the pace of speech; microseconds for a stream and chunk."""
    draw, selector, clients = random.Random(0), selectors.DefaultSelector(), []
    for _ in range(num_clients):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(UPGRADE)
        assert client.recv(65536).startswith(b"HTTP/1.1 101")
        selector.register(client, selectors.EVENT_READ)
        clients.append(client)
    offsets, num_results = sorted((draw.random() * PIECE_S, i) for i in range(num_clients)), 0

    def read(wait_s: float) -> int:
        return sum(key.fileobj.recv(2**20).count(b'"is_eof"') for key, _ in selector.select(wait_s))  # type: ignore[union-attr]

    time.sleep(0.3)
    before_s, start_s, num_pieces = server.spent_s(), time.monotonic(), round(duration_s / PIECE_S)
    for piece, (offset_s, i) in itertools.product(range(num_pieces), offsets):
        due_s = start_s + piece * PIECE_S + offset_s
        while True:
            num_results += read(max(due_s - time.monotonic(), 0.0))
            if time.monotonic() >= due_s:
                break
        clients[i].sendall(MESSAGE)
    while num_results < num_pieces // 4 * num_clients * 0.98:  # the newest replaces one that has not been sent in time
        num_results += read(60.0)
    spent_us = 1e6 * (server.spent_s() - before_s) / (num_pieces * num_clients / 4)
    for client in clients:
        client.close()
    return {"loop_us": float(spent_us[0]), "process_us": float(spent_us[1])}


def measure(root: Path, loop: str, num_clients: int, duration_s: float) -> Figures:
    """All figures of a checkout with an event loop."""
    exact = Child(root, "exact", loop)
    figures = json.loads(exact.line())
    exact.stop()
    server = Child(root, "serve", loop)
    port = int(server.line())
    over_tcp(server, port, num_clients, 0.64)  # warms up
    figures |= over_tcp(server, port, num_clients, duration_s)
    server.stop()
    return figures


def run_child(work: str, loop: str) -> None:
    """What a child does, with an event loop that an older checkout does not choose by itself."""
    from zipasr.serve import server

    if loop == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as where it is not installed
    elif not hasattr(server, "_loop_factory"):
        import uvloop

        uvloop.install()
    if work == "serve":
        serve()
    else:
        factory = getattr(server, "_loop_factory", lambda: None)()
        with asyncio.Runner(loop_factory=factory) as runner:
            print(json.dumps(runner.run(through_a_fake_transport())), flush=True)


def main() -> None:
    """Measure, in turns, and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, whose code takes turns with this one's")
    parser.add_argument("--loops", default="uvloop,asyncio", help="event loops of this checkout; the other's is asyncio's")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--duration-s", type=float, default=5.12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="file for the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(arguments.child, arguments.loops)
        return
    from machine import origin

    head, here = origin(), Path(__file__).parents[1]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # not the server's
    kinds = {loop: (here, loop) for loop in arguments.loops.split(",")}
    if arguments.against is not None:
        kinds["against, asyncio"] = arguments.against.resolve(), "asyncio"
    rounds: dict[str, list[Figures]] = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, (root, loop) in kinds.items():
            figures = measure(root, loop, arguments.clients, arguments.duration_s)
            rounds[name].append({what: round(value, 1) for what, value in figures.items()})
            print(name, rounds[name][-1], file=sys.stderr)
    medians = {
        name: {what: statistics.median(one[what] for one in found) for what in found[0]} for name, found in rounds.items()
    }
    record = {**head, "clients": arguments.clients, "medians": medians, "rounds": rounds}
    if arguments.results is not None:
        arguments.results.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
