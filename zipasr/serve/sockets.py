"""The WebSocket endpoints, with sherpa-onnx's protocols: `/online` for live audio, `/offline` for recordings. `/`, which
sherpa-onnx's clients use, is the one of them that the model supports.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from zipasr.errors import AudioError, ProtocolError
from zipasr.serve.gate import SUBPROTOCOL
from zipasr.serve.limits import ServeConfig, ServerBusy
from zipasr.serve.live import LiveSession, LiveSessions
from zipasr.serve.metrics import Metrics
from zipasr.serve.protocol import (
    SERVER_DONE,
    LiveReader,
    LiveWriter,
    RecordingReader,
    SentRecording,
    TooLong,
    check_text,
    close_reason,
    to_recording_json,
)
from zipasr.serve.recordings import Transcriber
from zipasr.serve.refusal import refuse

T = TypeVar("T")
_CODE_DONE, _CODE_UNSUPPORTED, _CODE_BAD_DATA = 1000, 1003, 1007
_CODE_IDLE, _CODE_TOO_BIG, _CODE_FAILED, _CODE_RESTART, _CODE_BUSY = 1008, 1009, 1011, 1012, 1013
_MAX_HELD_BYTES = 1_000_000_000
"""Upper bound on the recordings in memory that wait for a response, of all WebSockets together."""
_STOPPING = "The server is shutting down."
_BACKLOG_S = 0.02
"""While the server is shutting down, live audio ends after this time without a message; all earlier audio is decoded."""
_RECEIVE_SHARE = 0.5
"""Live audio without a pause is cut off after this share of the drain timeout; the rest is for the response."""


class _Close(Exception):
    """Ends a connection with a close code and a reason for the client."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code


class _Disconnected(Exception):
    """The client has disconnected."""


class _Silent(_Close):
    """The client has sent nothing for too long."""


class _End(NamedTuple):
    """Why live audio or its results ended. Not an exception: one that a task stores refers to its frames and so to the task,
    and both would stay until garbage collection."""

    code: int
    """Close code for the client; 0: the client has disconnected."""
    reason: str = ""

    def to_error(self) -> Exception:
        """The exception to raise for it."""
        return _Close(self.code, self.reason) if self.code else _Disconnected()


@dataclass(eq=False)
class SocketEndpoints:
    """The WebSocket endpoints of one server; they share a model, limits and counters."""

    transcriber: Transcriber
    """Transcribes recordings."""
    live: LiveSessions | None
    """Decodes live audio; None: the model cannot."""
    config: ServeConfig
    """Limits of the server."""
    metrics: Metrics
    """Counters of the server."""
    draining: asyncio.Event
    """Set when the server is shutting down."""
    why_no_stream: str
    """Message for clients that want to stream if the model cannot."""
    _num_held_bytes: int = field(default=0, init=False)

    def routes(self) -> list[BaseRoute]:
        """The routes of all endpoints."""
        return [
            WebSocketRoute("/", self.offline if self.live is None else self.online),
            WebSocketRoute("/online", self.online),
            WebSocketRoute("/offline", self.offline),
        ]

    async def online(self, socket: WebSocket) -> None:
        """Serve a connection of the "online" protocol: live audio in, results after every chunk out."""
        if self.live is None:
            await refuse(socket.scope, socket.receive, socket.send, 400, self.why_no_stream)
            return
        await _accept(socket)
        session, messages = self.live.open(), _Messages(socket)
        writing = asyncio.ensure_future(self._write_results(socket, session))
        try:
            end_of_audio = await self._read_audio(messages, session, writing)
            session.finish()
            early_end = await writing
            raise (early_end or end_of_audio).to_error()
        except (_Close, ProtocolError) as error:
            await _close(socket, error)
        except _Disconnected:
            pass
        finally:
            session.leave()
            messages.stop()
            writing.cancel()
            await asyncio.wait([writing])

    async def _read_audio(self, messages: "_Messages", session: LiveSession, writing: "asyncio.Future[_End | None]") -> _End:
        """Receive audio until the client is done or has been silent for too long, or the server is shutting down; return
        which of them. A microphone that sends only speech is silent after an utterance, whose last words then follow."""
        reader = LiveReader()
        latest_s = float("inf")
        while True:
            try:
                message = await self._next(messages, background=writing, backlog_s=_BACKLOG_S)
            except _Silent as silent:
                return _End(silent.code, str(silent))
            if message is None:
                break
            if isinstance(message, str):
                check_text(message)
                return _End(_CODE_DONE)
            session.push(reader.read(message))
            if not session.has_room:
                await _first_of(session.room(), writing)
            if self.draining.is_set():  # a client that never pauses is cut off in time for the last result
                latest_s = min(latest_s, time.monotonic() + self.config.drain_timeout_s * _RECEIVE_SHARE)
                if time.monotonic() >= latest_s:
                    break
        return _End(_CODE_RESTART, _STOPPING)

    async def _write_results(self, socket: WebSocket, session: LiveSession) -> _End | None:
        """Send results until the last one; return why they ended early, if they did."""
        is_eof, writer = False, LiveWriter(has_words=_offers_subprotocol(socket))
        try:
            while not is_eof:
                try:
                    result = await session.next_result()
                except ValueError as error:
                    return _End(_CODE_BAD_DATA, str(error))
                except RuntimeError as error:
                    return _End(_CODE_FAILED, str(error))
                is_eof = result.is_eof
                message = writer.write(
                    result.transcript,
                    segment=result.segment,
                    start_s=result.start_s,
                    is_final=result.is_final,
                    is_eof=is_eof,
                )
                await _send(socket, message)
            await _send(socket, SERVER_DONE)
        except _Disconnected:
            return _End(0)
        return None

    async def offline(self, socket: WebSocket) -> None:
        """Serve a connection of the "offline" protocol: recordings in, a transcript for each out."""
        await _accept(socket)
        reader, messages = RecordingReader(self.config.max_utterance_s, self.config.max_upload_bytes), _Messages(socket)
        num_held_bytes = 0
        try:
            while (message := await self._next(messages, can_stop=reader.is_between)) is not None:
                if isinstance(message, str):
                    check_text(message)
                    incomplete = _Close(_CODE_BAD_DATA, "The recording is incomplete: its header states more bytes.")
                    raise _Close(_CODE_DONE) if reader.is_between else incomplete
                num_held_bytes += len(message)
                self._num_held_bytes += len(message)
                if self._num_held_bytes > _MAX_HELD_BYTES:
                    raise _Close(_CODE_BUSY, "The server holds too many recordings; please retry later.")
                for recording in reader.read(message):
                    await _send(socket, await messages.unless_disconnected(self._transcribed(recording)))
                self._num_held_bytes -= num_held_bytes - reader.num_held_bytes
                num_held_bytes = reader.num_held_bytes
            raise _Close(_CODE_RESTART, _STOPPING)
        except (_Close, ProtocolError) as error:
            await _close(socket, error)
        except _Disconnected:
            self.metrics.recordings.labels("left").inc()
        finally:
            self._num_held_bytes -= num_held_bytes
            messages.stop()

    async def _transcribed(self, recording: SentRecording) -> str:
        samples: np.ndarray = recording.samples
        try:
            transcript = await self.transcriber.transcribe(samples, sample_rate_hz=recording.rate_hz)
        except AudioError as error:
            self.metrics.recordings.labels("refused").inc()
            raise _Close(_CODE_BAD_DATA, str(error).replace("the array", "the recording")) from error
        except ServerBusy as error:
            self.metrics.recordings.labels("refused").inc()
            raise _Close(_CODE_BUSY, str(error)) from error
        self.metrics.recordings.labels("done").inc()
        return to_recording_json(transcript)

    async def _next(
        self,
        messages: "_Messages",
        *,
        background: "asyncio.Future[_End | None] | None" = None,
        can_stop: bool = True,
        backlog_s: float = 0.0,
    ) -> bytes | str | None:
        """The next message; None: the server is shutting down.

        Args:
            messages: the messages of the client.
            background: a task that must not end while messages come.
            can_stop: whether receiving may end here when the server shuts down.
            backlog_s: how long to wait for a message when the server is shutting down.
        Raises:
            _Disconnected: the client has disconnected.
            _Silent: the client has sent nothing for too long.
            _Close: `background` ended.
        """
        receiving = messages.next()
        draining = asyncio.ensure_future(self.draining.wait())
        others: list[asyncio.Future[Any]] = [*([background] if background else []), *([draining] if can_stop else [])]
        try:
            timeout_s = self.config.silence_timeout_s
            await asyncio.wait([receiving, *others], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if background is not None and background.done():
                end = background.result()
                assert end is not None, "results ended before the audio did"
                raise end.to_error()
            is_stopping = can_stop and draining.done()
            if is_stopping and backlog_s:
                await asyncio.wait([receiving], timeout=backlog_s)
            if receiving.done():
                return messages.take()
            if is_stopping:
                return None
            raise _Silent(_CODE_IDLE, f"The client sent nothing for {self.config.idle_timeout_s:g} s.")
        finally:
            draining.cancel()


class _Messages:
    """The messages of a client; the next one is awaited while one is processed, so that a disconnect is noticed."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._next: asyncio.Future[Message] | None = None

    def next(self) -> "asyncio.Future[Message]":
        """The future of the next message; `take` returns it."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._socket.receive())
        return self._next

    def take(self) -> bytes | str:
        """The message that has been received.

        Raises:
            _Disconnected: the client has disconnected.
        """
        message = self.next().result()
        self._next = None
        if message["type"] == "websocket.disconnect":
            raise _Disconnected
        text, content = message.get("text"), message.get("bytes")
        return text if text is not None else content or b""

    async def unless_disconnected(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled if the client disconnects.

        Raises:
            _Disconnected: the client has disconnected.
        """
        working, following = asyncio.ensure_future(work), self.next()
        try:
            both: list[asyncio.Future[Any]] = [working, following]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and following.result()["type"] == "websocket.disconnect":
                raise _Disconnected
            return await working
        finally:
            working.cancel()
            del working, both  # see `_End`

    def stop(self) -> None:
        """Stop waiting for messages."""
        if self._next is not None:
            self._next.cancel()


def _offers_subprotocol(socket: WebSocket) -> bool:
    """Whether a client offers our subprotocol and so understands more fields than sherpa-onnx's clients."""
    return SUBPROTOCOL in socket.scope.get("subprotocols", ())


async def _accept(socket: WebSocket) -> None:
    await socket.accept(subprotocol=SUBPROTOCOL if _offers_subprotocol(socket) else None)


async def _first_of(waiting: Coroutine[Any, Any, None], other: "asyncio.Future[_End | None]") -> None:
    """Wait until one of the two completes; then cancel `waiting`, but not `other`."""
    task = asyncio.ensure_future(waiting)
    try:
        both: list[asyncio.Future[Any]] = [task, other]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()


async def _send(socket: WebSocket, text: str) -> None:
    await _or_disconnected(socket.send_text(text))


async def _close(socket: WebSocket, error: _Close | ProtocolError) -> None:
    """Close a socket that is still open, with the code and the reason of an error."""
    if isinstance(error, _Close):
        code = error.code
    else:
        code = _CODE_TOO_BIG if isinstance(error, TooLong) else _CODE_UNSUPPORTED
    if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
        with contextlib.suppress(_Disconnected):
            await _or_disconnected(socket.close(code, close_reason(str(error))))


async def _or_disconnected(sending: Awaitable[None]) -> None:
    try:
        await sending
    except (OSError, RuntimeError, WebSocketDisconnect) as error:
        raise _Disconnected from error
