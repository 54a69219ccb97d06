"""The clients of `serving_load.py`: prompts in; what servers answer, and when, out.

Live clients speak sherpa-onnx's protocol for live sound, all in one event loop; those with recordings ask one after the
other, each in a thread, over HTTP or sherpa-onnx's protocol for recordings.
"""

import asyncio
import http.client
import io
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from serving_programs import Server
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.encoder.rates import FEATURE_RATE_HZ, FRAME_S_25HZ, WINDOW_OVERHANG
from zipasr.errors import DataError, ProtocolError
from zipasr.evaluate import read_cuts
from zipasr.serve.protocol import CLIENT_DONE, SERVER_DONE, write_recording

PIECE_S = 0.08
"""It divides every chunk, so that in all of them the piece that completes them ends equally long after what is needed."""
GRACE_S = 10.0
"""How long after its sound a stream may take to its last result."""
_FEATURE_REACH_S = 0.0175
"""From the time of a feature to the last of its samples."""
_SOUND_FILES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"}
_MAX_PROMPT_S, _PAUSE_S = 30.0, (0.3, 2.0)
_NOISE = 1e-4
"""-80 dB of full scale, under all of a track."""
_PATIENCE_S = 120.0


class Prompt(NamedTuple):
    """A recording that is sent."""

    samples: np.ndarray
    """(samples,) float32 at 16 kHz."""
    flac: bytes
    text: str | None
    """What is said; None: nobody knows."""


class Track(NamedTuple):
    """What a live client sends."""

    pieces: list[bytes]
    """Float32 samples of `PIECE_S` each."""
    text: str | None


class Heard(NamedTuple):
    """What a live client was told."""

    begin_s: float
    """When the first sample of its track was spoken, on the clock of the event loop."""
    arrivals: list[tuple[float, str]]
    """Messages, and when they came."""
    late_s: list[float]
    """How late pieces were sent through the fault of the client."""
    problem: str


class Load(NamedTuple):
    """What live clients were told, and what it cost."""

    heard: list[Heard]
    server_share: float
    """Of the core, the server's."""
    others_share: float
    """Of the core, everybody else's."""


def read_prompts(path: Path) -> list[Prompt]:
    """Recordings of at most half a minute, of a manifest of cuts or of a folder.

    Raises:
        DataError: there are none.
        AudioError: one cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SOUND_FILES)
        found: list[tuple[np.ndarray, str | None]] = [(load_audio(file), None) for file in files]
    else:
        found = [(utterance.samples, utterance.text) for utterance in read_cuts(path) if utterance.samples is not None]
    prompts = [Prompt(x, _as_flac(x), text) for x, text in found if 0 < len(x) <= _MAX_PROMPT_S * SAMPLE_RATE_HZ]
    if not prompts:
        raise DataError(f"{path} must have recordings of at most {_MAX_PROMPT_S:g} s, but has none")
    return prompts


def _as_flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def make_track(prompts: Sequence[Prompt], duration_s: float, seed: int) -> Track:
    """Prompts in random order, those that still fit, with pauses around them."""
    rng = np.random.default_rng(seed)
    piece_samples = round(PIECE_S * SAMPLE_RATE_HZ)
    samples = _NOISE * rng.standard_normal(round(duration_s / PIECE_S) * piece_samples).astype(np.float32)
    texts: list[str | None] = []
    position = 0
    while True:
        position += round(rng.uniform(*_PAUSE_S) * SAMPLE_RATE_HZ)
        fitting = [prompt for prompt in prompts if position + len(prompt.samples) <= len(samples)]
        if not fitting:
            break
        prompt = fitting[rng.integers(len(fitting))]
        end = position + len(prompt.samples)
        samples[position:end] += prompt.samples
        texts.append(prompt.text)
        position = end
    pieces = [samples[start : start + piece_samples].tobytes() for start in range(0, len(samples), piece_samples)]
    return Track(pieces, None if None in texts else " ".join(text for text in texts if text))


async def load_streams(server: Server, tracks: Sequence[Track], offsets_s: Sequence[float], piece_s: float) -> Load:
    """Let clients speak at the same time.

    Args:
        server: to whom.
        tracks: what each sends.
        offsets_s: when each begins.
        piece_s: time for a piece, `PIECE_S` for the pace of speech.
    """
    async with AsyncExitStack() as stack:
        connections = []
        for _ in tracks:
            connecting = connect_async(
                f"ws://127.0.0.1:{server.port}",
                compression=None,
                max_size=None,
                open_timeout=_PATIENCE_S,
                ping_interval=None,
                close_timeout=1,
            )
            connections.append(await stack.enter_async_context(connecting))
        before = server.usage()
        first_s = asyncio.get_running_loop().time() + 0.2
        clients = [
            _converse(connection, track, first_s + offset_s, piece_s)
            for connection, track, offset_s in zip(connections, tracks, offsets_s, strict=True)
        ]
        heard = await asyncio.gather(*clients)
        return Load(heard, *server.shares_since(before))


async def _converse(connection: ClientConnection, track: Track, begin_s: float, piece_s: float) -> Heard:
    """Send a track from a moment on, and hear what is answered, to the end."""
    loop = asyncio.get_running_loop()
    heard = Heard(begin_s, [], [], "")

    async def listen() -> None:
        async for message in connection:
            heard.arrivals.append((loop.time(), str(message)))
            if message == SERVER_DONE:
                return

    listening = asyncio.ensure_future(listen())
    try:
        async with asyncio.timeout_at(begin_s + len(track.pieces) * PIECE_S + GRACE_S):
            for i, piece in enumerate(track.pieces):
                due_s = begin_s + (i + 1) * piece_s
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
                    heard.late_s.append(loop.time() - due_s)
                await connection.send(piece)
            await connection.send(CLIENT_DONE)
            await listening
    except TimeoutError:
        return heard._replace(problem=f"not done {GRACE_S:g} s after its sound")
    except (OSError, WebSocketException) as error:
        return heard._replace(problem=f"{type(error).__name__}: {error}")
    finally:
        listening.cancel()
        await connection.close()
    is_done = bool(heard.arrivals) and heard.arrivals[-1][1] == SERVER_DONE
    return heard if is_done else heard._replace(problem="closed by the server before its end")


def latencies_s(heard: Heard, num_pieces: int, chunk_ms: int) -> list[float]:
    """Of each chunk with a token: from when the piece that completes it was due to when a token of it was told.

    Chunks that only the silence after the end completes are left out.

    Raises:
        ProtocolError: a token was told before its sound was sent.
    """
    chunk_s = chunk_ms / 1000
    frames_per_chunk = round(chunk_s / FRAME_S_25HZ)
    look_ahead_s = (WINDOW_OVERHANG - 1) / FEATURE_RATE_HZ + _FEATURE_REACH_S
    newest, found = -1, []
    for arrival_s, result in _results(heard):
        frames = [round((result["start_time"] + time_s) / FRAME_S_25HZ) for time_s in result["timestamps"]]
        for chunk in sorted({frame // frames_per_chunk for frame in frames if frame > newest}):
            num_needed = int(np.ceil(((chunk + 1) * chunk_s + look_ahead_s) / PIECE_S))
            if num_needed <= num_pieces:
                found.append(arrival_s - heard.begin_s - num_needed * PIECE_S)
        newest = max([newest, *frames])
    if min(found, default=0.0) < 0:
        raise ProtocolError("a token must come after its sound, but one came before; times of tokens are not what they seem")
    return found


def final_text(heard: Heard) -> str:
    """All utterances of a stream. sherpa-onnx now and then sends `Done!` with no last result; its newest counts then."""
    texts, newest = [], ""
    for _, result in _results(heard):
        newest = result["text"].strip()
        if result["is_final"]:
            texts.append(newest)
            newest = ""
    return " ".join(text for text in [*texts, newest] if text)


def _results(heard: Heard) -> Iterator[tuple[float, dict]]:
    return ((arrival_s, json.loads(message)) for arrival_s, message in heard.arrivals if message != SERVER_DONE)


Ask = Callable[[Prompt], str]
"""Sends a recording and returns its text."""
Connect = Callable[[int], AbstractContextManager[Ask]]
"""Opens a connection to a port."""


@contextmanager
def http_connection(port: int) -> Iterator[Ask]:
    """A client of OpenAI's API, which sends FLAC files."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    boundary = "zipasr-serving-load"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    def ask(prompt: Prompt) -> str:
        body = head.encode() + prompt.flac + f"\r\n--{boundary}--\r\n".encode()
        connection.request("POST", "/v1/audio/transcriptions", body, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != http.HTTPStatus.OK:
            raise OSError(f"status {response.status}: {content[:200].decode(errors='replace')}")
        return str(json.loads(content)["text"])

    try:
        yield ask
    finally:
        connection.close()


@contextmanager
def socket_connection(port: int, path: str = "") -> Iterator[Ask]:
    """A client of sherpa-onnx's protocol for recordings, which sends samples."""
    url = f"ws://127.0.0.1:{port}{path}"
    with connect(url, compression=None, max_size=None, open_timeout=_PATIENCE_S, close_timeout=1) as connection:

        def ask(prompt: Prompt) -> str:
            connection.send(write_recording(prompt.samples))
            return str(json.loads(connection.recv(_PATIENCE_S))["text"])

        yield ask


class Answers(NamedTuple):
    """What came of many recordings."""

    texts: dict[int, str]
    """By index of the prompt."""
    latencies_s: list[float]
    sound_s: list[float]
    """How long the recordings were, in the order of `latencies_s`."""
    problems: list[str]


def ask_all(connect: Connect, port: int, prompts: Sequence[Prompt], num_requests: int, num_clients: int) -> Answers:
    """Send recordings, over and over, from clients that each ask for one at a time; one that meets an error stops."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in itertools.islice(itertools.cycle(range(len(prompts))), num_requests):
        waiting.put(i)
    answers = Answers({}, [], [], [])

    def work() -> None:
        try:
            with connect(port) as ask:
                while True:
                    i = waiting.get_nowait()
                    started_s = time.monotonic()
                    answers.texts[i] = ask(prompts[i]).strip()
                    answers.latencies_s.append(time.monotonic() - started_s)
                    answers.sound_s.append(len(prompts[i].samples) / SAMPLE_RATE_HZ)
        except queue.Empty:
            pass
        except (OSError, http.client.HTTPException, WebSocketException) as error:
            answers.problems.append(f"{type(error).__name__}: {error}")

    clients = [threading.Thread(target=work, daemon=True) for _ in range(num_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return answers
