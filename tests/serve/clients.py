"""Clients of the server: one for HTTP, and three for sherpa-onnx's WebSocket protocols, of which one is hand-written for
recordings, one is the wheel's own for live audio, and one is hand-written for tests that misbehave or check details."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as _connect

from tests.serve.running import Reachable, sentence, wav
from tests.watchdog import WATCHDOG_S
from zipasr.recognizer import Recognizer
from zipasr.serve.protocol import write_recording
from zipasr.transcript import Transcript

if TYPE_CHECKING:
    import openai

FORM = "Content-Type: multipart/form-data; boundary=x\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


def connect(url: str, **options: object) -> ClientConnection:
    """A WebSocket connection that gives up on no busy server: neither on its handshake nor on its pongs."""
    return _connect(url, **{"open_timeout": WATCHDOG_S, "ping_interval": None} | options)  # type: ignore[arg-type]


@contextmanager
def openai_client(url: str, *, api_key: str = "any") -> "Iterator[openai.OpenAI]":
    """OpenAI's client of a server at a base URL; its connections are closed after the block."""
    import openai

    with openai.OpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=WATCHDOG_S) as client:
        yield client


def sherpa_program(name: str) -> str:
    """The path of a program of the wheel sherpa-onnx-bin."""
    program = shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.fail(f"{name} is missing; pip install sherpa-onnx-bin")
    return program


def send_recordings(url: str, recordings: Sequence[np.ndarray], *, message_bytes: int = 10_000) -> list[dict[str, object]]:
    """The results of recordings (samples,) at 16 kHz, sent one after the other on one "offline" connection."""
    answers = []
    with connect(url, max_size=None) as connection:
        for samples in recordings:
            message = write_recording(samples)
            for start in range(0, len(message), message_bytes):
                connection.send(message[start : start + message_bytes])
            answer = connection.recv(WATCHDOG_S)
            assert isinstance(answer, str)
            answers.append(json.loads(answer))
        connection.send("Done")
        assert_closed(connection)
    return answers


def assert_closed(connection: ClientConnection) -> None:
    """Check that no message comes before the server closes the connection."""
    assert list(connection) == []


def stream_file(port: int, path: Path) -> list[dict[str, object]]:
    """The JSON messages that the wheel's own client of the "online" protocol prints for a WAV file."""
    program = sherpa_program("sherpa-onnx-online-websocket-client")
    command = [program, "--server-ip=127.0.0.1", f"--server-port={port}", "--seconds-per-message=0.02", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG_S, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    return [json.loads(line[line.index("{") :]) for line in printed.splitlines() if '{"text"' in line or '{ "text"' in line]


def stream_samples(connection: ClientConnection, samples: np.ndarray, *, message_samples: int = 3200) -> None:
    """Send live audio as fast as possible."""
    for start in range(0, len(samples), message_samples):
        connection.send(samples[start : start + message_samples].astype("<f4").tobytes())


def results_of(connection: ClientConnection) -> list[dict[str, object]]:
    """All JSON messages up to `Done!`, which must come."""
    results = []
    while (message := connection.recv(WATCHDOG_S)) != "Done!":
        results.append(json.loads(message))
    return results


def raw_request(service: Reachable, head: str = "", *, body: bytes = b"") -> socket.socket:
    """A connection on which the start of a request has been sent."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=WATCHDOG_S)
    start = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode()
    connection.sendall(start + body)
    return connection


def answer_of(connection: socket.socket, *, encoding: str = "utf-8") -> str:
    """Everything that the server sends before it closes the connection, which is then closed here, too."""
    content = b""
    with connection:
        while block := connection.recv(65536):
            content += block
    return content.decode(encoding)


def form_of(content: bytes, **fields: str) -> bytes:
    """The body of a request to transcribe a file, with the content type of `FORM`."""
    named = {"model": "tiny", **fields}.items()
    parts = [f'\r\n--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in named]
    return PART + content + "".join(parts).encode() + b"\r\n--x--\r\n"


def raw_socket(service: Reachable, path: str = "/", *, head: str = "", receive_bytes: int | None = None) -> socket.socket:
    """A connection that has requested to become a WebSocket; the response is unread."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(WATCHDOG_S)
    connection.connect(("127.0.0.1", service.port))
    asked = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + 22 * "A" + "==\r\n"
    )
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{asked}{head}\r\n".encode())
    return connection


def frame(kind: int, content: bytes) -> bytes:
    """A frame of a WebSocket as a client sends it; 2 is binary, 9 a ping."""
    length = bytes([0x80 | len(content)]) if len(content) < 126 else b"\xff" + len(content).to_bytes(8, "big")
    return bytes([0x80 | kind]) + length + bytes(4) + content  # masked with zeros


def post(server: Reachable, content: bytes = b"", **fields: object) -> httpx2.Response:
    """The response to a request to transcribe a WAV file, by default of `sentence`."""
    data = {"model": "tiny", **fields}
    files = {"file": ("a.wav", content or wav(sentence()))}
    return httpx2.post(f"{server.url}/v1/audio/transcriptions", data=data, files=files, timeout=WATCHDOG_S)


def ws(service: Reachable, path: str = "/") -> str:
    """The WebSocket URL of a path of the server."""
    return service.url.replace("http", "ws") + path


def utterances_of(recognizer: Recognizer, samples: np.ndarray) -> list[Transcript]:
    """The utterances of live audio, decoded chunk by chunk as a server does."""
    stream, found = recognizer.stream(), []

    def decode_ready() -> None:
        while recognizer.decode_streams([stream]):
            if stream.is_endpoint():
                found.append(stream.result())
                stream.reset()

    stream.accept_waveform(samples)
    decode_ready()
    stream.input_finished()
    decode_ready()
    return [*found, stream.finish()]


def closed(connection: ClientConnection) -> tuple[int, str]:
    """The close code and the reason with which the server closes a connection."""
    try:
        while True:
            connection.recv(WATCHDOG_S)
    except ConnectionClosed as end:
        frame = end.rcvd
    assert frame is not None, "the server must say why"
    return frame.code, frame.reason
