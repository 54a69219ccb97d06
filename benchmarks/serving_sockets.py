"""What a message of live audio and a result cost the event loop of a server, in microseconds of processor time.

    python benchmarks/serving_sockets.py [--against OTHER_CHECKOUT] [--loops uvloop,asyncio]

A server of `zipasr.serve` runs in a process of its own, with a recognizer that computes nothing: it says a token after every
chunk of 320 ms. Clients send pieces of 80 ms of float32 at the pace of speech, each from a moment of its own, and read the
results. What counts is the processor time of the thread of the event loop, system calls included; the thread that decodes
is not in it. Two loads tell messages from results: in one, every fourth message completes a chunk, in the other none does.
With `--against`, the servers of two checkouts take turns, in the same rounds.
"""

import argparse
import itertools
import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PIECE_S, PIECE_SAMPLES, CHUNK_SAMPLES, TOKENS_PER_UTTERANCE = 0.08, 1280, 5120, 30
_UPGRADE = (
    "GET /online HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
)


def serve(chunk_samples: int, loop: str) -> None:
    """The server's process: print the port, then the seconds of the event loop's thread for every line of the input."""
    import threading

    from zipasr.serve import ServeConfig, Service

    if loop == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as where it is not installed
    service = Service(silent_recognizer(chunk_samples), ServeConfig(port=0, max_connections=10_000))
    if loop == "uvloop" and not hasattr(sys.modules["zipasr.serve.server"], "_loop_factory"):
        import uvloop

        uvloop.install()  # a checkout that does not choose it by itself
    main = threading.main_thread().ident
    assert main is not None

    def answer() -> None:
        print(service.port, flush=True)
        for _ in sys.stdin:
            print(time.clock_gettime(time.pthread_getcpuclockid(main)), flush=True)
        service.stop()

    service.run(lambda: threading.Thread(target=answer, daemon=True).start())


def silent_recognizer(chunk_samples: int) -> Any:
    """A recognizer whose streams say a token after every chunk, and end an utterance after some tokens."""
    from types import SimpleNamespace

    from zipasr.transcript import Token, Transcript, Word

    texts = ["\u2581" * (i % 3 == 0) + f"ab{i}" for i in range(TOKENS_PER_UTTERANCE + 1)]
    tokens = tuple(Token(text, 0.32 * i, 0.32 * i + 0.04, -0.123456789 * (i % 5), id=i) for i, text in enumerate(texts))
    words = tuple(Word(f"word{i}", 0.32 * i, 0.32 * i + 0.3, 0.9) for i in range(len(tokens) // 3))
    transcripts = [
        Transcript("".join(texts[:n]).replace("\u2581", " ").strip(), tokens[:n], words[: n // 3], 0.32 * n)
        for n in range(len(tokens) + 1)
    ]

    class Stream:
        sizes = SimpleNamespace(chunk=16)

        def __init__(self) -> None:
            self.num_samples = self.num_tokens = 0

        def accept_waveform(self, samples: Any) -> None:
            self.num_samples += len(samples)

        def is_ready(self) -> bool:
            return self.num_samples >= chunk_samples

        def is_endpoint(self) -> bool:
            return self.num_tokens >= TOKENS_PER_UTTERANCE

        def reset(self) -> None:
            self.num_tokens = 0

        def result(self) -> Transcript:
            return transcripts[self.num_tokens]

        def input_finished(self) -> None: ...

        finish = result

    def decode_streams(streams: list[Stream]) -> None:
        for stream in streams:
            stream.num_samples -= chunk_samples
            stream.num_tokens += 1

    return SimpleNamespace(stream=Stream, decode_streams=decode_streams)


class Server:
    """A server in another process."""

    def __init__(self, root: Path, chunk_samples: int, loop: str) -> None:
        """Start it with the code of a checkout, and wait until it listens."""
        command = [sys.executable, __file__, "--serve", str(chunk_samples), "--loops", loop]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def loop_s(self) -> float:
        """Processor seconds of the thread of the event loop."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def stop(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def load(server: Server, num_clients: int, duration_s: float) -> tuple[float, int, int]:
    """Send live audio at the pace of speech; return the seconds of the event loop, those for handshakes left out, and the
    numbers of messages and of results."""
    mask = bytes([1, 2, 3, 4])
    message = b"\x82\xfe" + (4 * PIECE_SAMPLES).to_bytes(2, "big") + mask + mask * PIECE_SAMPLES  # zeros, masked
    draw, selector, num_results = random.Random(0), selectors.DefaultSelector(), 0
    clients = []
    for _ in range(num_clients):
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(_UPGRADE.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 101")
        selector.register(client, selectors.EVENT_READ)
        clients.append(client)
    offsets = sorted((draw.random() * PIECE_S, i) for i in range(num_clients))
    time.sleep(0.3)
    spent_s, start_s, num_pieces = server.loop_s(), time.monotonic(), round(duration_s / PIECE_S)
    for piece, (offset_s, i) in itertools.product(range(num_pieces), offsets):
        due_s = start_s + piece * PIECE_S + offset_s
        while True:
            for key, _ in selector.select(max(due_s - time.monotonic(), 0.0)):
                num_results += key.fileobj.recv(2**20).count(b'"is_eof"')  # type: ignore[union-attr]
            if time.monotonic() >= due_s:
                break
        clients[i].sendall(message)
    time.sleep(0.3)
    for key, _ in selector.select(0):
        num_results += key.fileobj.recv(2**20).count(b'"is_eof"')  # type: ignore[union-attr]
    spent_s = server.loop_s() - spent_s
    for client in clients:
        client.close()
    return spent_s, num_pieces * num_clients, num_results


def measure(root: Path, loop: str, num_clients: int, duration_s: float) -> dict[str, float]:
    """Microseconds of the event loop's thread for a message, for a result, and for a chunk of four messages and a result."""
    spent: dict[int, tuple[float, int, int]] = {}
    for chunk_samples in (CHUNK_SAMPLES, 10**9):
        server = Server(root, chunk_samples, loop)
        load(server, num_clients, 0.5)  # warms up
        spent[chunk_samples] = load(server, num_clients, duration_s)
        server.stop()
    (all_s, num_messages, num_results), (messages_s, num_alone, _) = spent.values()
    message_us = 1e6 * messages_s / num_alone
    result_us = (1e6 * all_s - num_messages * message_us) / num_results
    return {"message_us": message_us, "result_us": result_us, "chunk_us": 1e6 * all_s / num_messages * 4}


def main() -> None:
    """Measure, in turns, and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, whose server takes turns with this one's")
    parser.add_argument("--loops", default="uvloop,asyncio", help="event loops of this checkout's server")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--duration-s", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="file for the figures")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.loops)
        return
    from machine import origin

    here = Path(__file__).parents[1]
    head = origin()
    kinds = {f"this, {loop}": (here, loop) for loop in arguments.loops.split(",")}
    if arguments.against is not None:
        kinds["against, asyncio"] = arguments.against.resolve(), "asyncio"
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, (root, loop) in kinds.items():
            rounds[name].append(measure(root, loop, arguments.clients, arguments.duration_s))
            print(name, {what: round(value, 1) for what, value in rounds[name][-1].items()}, file=sys.stderr)
    medians = {
        name: {what: round(statistics.median(one[what] for one in found), 1) for what in found[0]}
        for name, found in rounds.items()
    }
    text = json.dumps({**head, "clients": arguments.clients, "median_us": medians, "rounds": rounds}, indent=1)
    if arguments.results is not None:
        arguments.results.write_text(text + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
