"""sherpa-onnx's WebSocket protocols over real sockets: `/online` takes live sound, `/offline` recordings, and `/`, which is
where its clients go, is the one that suits the model.
"""

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from zipasr.errors import AudioError, ProtocolError
from zipasr.serve.gate import SUBPROTOCOL, refuse
from zipasr.serve.limits import ServeConfig, ServerBusy
from zipasr.serve.live import LiveSession, LiveSessions
from zipasr.serve.metrics import Metrics
from zipasr.serve.protocol import (
    SERVER_DONE,
    LiveReader,
    RecordingReader,
    SentRecording,
    TooLong,
    check_text,
    close_reason,
    to_live_json,
    to_recording_json,
)
from zipasr.serve.recordings import Transcriber

T = TypeVar("T")
_CODE_DONE, _CODE_UNSUPPORTED, _CODE_BAD_DATA = 1000, 1003, 1007
_CODE_IMPATIENT, _CODE_TOO_BIG, _CODE_FAILED, _CODE_RESTART, _CODE_BUSY = 1008, 1009, 1011, 1012, 1013
_MAX_HELD_BYTES = 1_000_000_000
"""Recordings of all WebSockets together that have come and are not answered; they are in memory."""
_STOPPING = "The server is about to stop."
_BACKLOG_S = 0.02
"""When the server is about to stop, live sound ends where nothing comes for so long: what was sent before has been heard."""
_SHARE_FOR_LISTENING = 0.5
"""Of the time for stopping; live sound that comes without a pause is cut off then, and the rest is for its answer."""


class _Close(Exception):
    """The connection is to be closed."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class _Left(Exception):
    """The client has left."""


class _End(NamedTuple):
    """Why results end before the sound does. Not an error, since one that a task keeps has in it all that it passed through,
    and so the task: both would stay until garbage is collected."""

    code: int
    """0: the client has left."""
    reason: str = ""

    def to_error(self) -> Exception:
        """The same, to be raised."""
        return _Close(self.code, self.reason) if self.code else _Left()


class SocketEndpoints:
    """They share a model, limits and counters."""

    def __init__(
        self,
        transcriber: Transcriber,
        live: LiveSessions | None,
        config: ServeConfig,
        metrics: Metrics,
        *,
        draining: asyncio.Event,
        why_no_stream: str,
    ) -> None:
        """Take what they share.

        Args:
            transcriber: writes recordings down.
            live: decodes live sound; None: the model cannot.
            config: limits.
            metrics: counters.
            draining: set when the server is about to stop.
            why_no_stream: told to who wants to stream with a model that cannot.
        """
        self.transcriber, self.live, self.config, self.metrics = transcriber, live, config, metrics
        self.draining, self.why_no_stream = draining, why_no_stream
        self._num_held_bytes = 0

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [
            WebSocketRoute("/", self.offline if self.live is None else self.online),
            WebSocketRoute("/online", self.online),
            WebSocketRoute("/offline", self.offline),
        ]

    async def online(self, socket: WebSocket) -> None:
        """Live sound."""
        if self.live is None:
            await refuse(socket.scope, socket.receive, socket.send, 400, self.why_no_stream)
            return
        await _accept(socket)
        session, messages = self.live.open(), _Messages(socket)
        writing = asyncio.ensure_future(self._write_results(socket, session))
        try:
            is_done = await self._read_sound(messages, session, writing)
            session.finish()
            end = await writing
            if end is not None:
                raise end.to_error()
            raise _Close(_CODE_DONE) if is_done else _Close(_CODE_RESTART, _STOPPING)
        except _Close as close:
            await _close(socket, close)
        except _Left:
            pass
        finally:
            session.leave()
            messages.stop()
            writing.cancel()
            await asyncio.wait([writing])

    async def _read_sound(self, messages: "_Messages", session: LiveSession, writing: "asyncio.Future[_End | None]") -> bool:
        """Read until the client is done or the server is to stop; return whether it is the former."""
        reader = LiveReader()
        latest_s = float("inf")
        while (message := await self._next(messages, beside=writing, backlog_s=_BACKLOG_S)) is not None:
            if isinstance(message, str):
                _checked_text(message)
                return True
            session.push(reader.read(message))
            if not session.has_room:
                await _first_of(session.room(), writing)
            if self.draining.is_set():  # who leaves no pauses is cut off, in time for the answer
                latest_s = min(latest_s, time.monotonic() + self.config.drain_timeout_s * _SHARE_FOR_LISTENING)
                if time.monotonic() >= latest_s:
                    break
        return False

    async def _write_results(self, socket: WebSocket, session: LiveSession) -> _End | None:
        """Send results as they come; return why they end too early, if they do."""
        is_eof, has_words = False, _knows_us(socket)
        try:
            while not is_eof:
                try:
                    result = await session.next_result()
                except ValueError as error:
                    return _End(_CODE_BAD_DATA, str(error))
                except RuntimeError as error:
                    return _End(_CODE_FAILED, str(error))
                is_eof = result.is_eof
                message = to_live_json(
                    result.transcript,
                    segment=result.segment,
                    start_s=result.start_s,
                    is_final=result.is_final,
                    is_eof=is_eof,
                    has_words=has_words,
                )
                await _send(socket, message)
            await _send(socket, SERVER_DONE)
        except _Left:
            return _End(0)
        return None

    async def offline(self, socket: WebSocket) -> None:
        """Recordings, one after the other."""
        await _accept(socket)
        reader, messages = RecordingReader(self.config.max_utterance_s, self.config.max_upload_bytes), _Messages(socket)
        num_held_bytes = 0
        try:
            while (message := await self._next(messages, heeds_draining=reader.is_between)) is not None:
                if isinstance(message, str):
                    _checked_text(message)
                    if not reader.is_between:
                        raise _Close(_CODE_BAD_DATA, "The recording was not whole: fewer bytes came than its header says.")
                    raise _Close(_CODE_DONE)
                num_held_bytes += len(message)
                self._num_held_bytes += len(message)
                if self._num_held_bytes > _MAX_HELD_BYTES:
                    raise _Close(_CODE_BUSY, "The server holds as much sound as it can; please retry later.")
                for recording in _recordings(reader, message):
                    await _send(socket, await messages.unless_left(self._transcribed(recording)))
                self._num_held_bytes -= num_held_bytes - reader.num_held_bytes
                num_held_bytes = reader.num_held_bytes
            raise _Close(_CODE_RESTART, _STOPPING)
        except _Close as close:
            await _close(socket, close)
        except _Left:
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
        beside: "asyncio.Future[_End | None] | None" = None,
        heeds_draining: bool = True,
        backlog_s: float = 0.0,
    ) -> bytes | str | None:
        """The next message; None: the server is about to stop.

        Args:
            messages: what the client sends.
            beside: work whose end is an error while messages come.
            heeds_draining: whether this is a moment to stop at.
            backlog_s: how long a message may take to come when the server is about to stop.
        Raises:
            _Left: the client has left.
            _Close: it has sent nothing for too long.
        """
        receiving = messages.next()
        draining = asyncio.ensure_future(self.draining.wait())
        others: list[asyncio.Future[Any]] = [*([beside] if beside else []), *([draining] if heeds_draining else [])]
        try:
            await asyncio.wait([receiving, *others], timeout=self.config.idle_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if beside is not None and beside.done():
                end = beside.result()
                assert end is not None, "results ended before the sound did"
                raise end.to_error()
            is_stopping = heeds_draining and draining.done()
            if is_stopping and backlog_s:
                await asyncio.wait([receiving], timeout=backlog_s)
            if receiving.done():
                return messages.take()
            if is_stopping:
                return None
            raise _Close(_CODE_IMPATIENT, f"Nothing was sent for {self.config.idle_timeout_s:g} s.")
        finally:
            draining.cancel()


class _Messages:
    """What a client sends. The next message is fetched while we work on the one before, so that its leaving is noticed."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._next: asyncio.Future[Message] | None = None

    def next(self) -> "asyncio.Future[Message]":
        """The next message, when it comes; `take` it then."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._socket.receive())
        return self._next

    def take(self) -> bytes | str:
        """The message that has come.

        Raises:
            _Left: the client has left.
        """
        message = self.next().result()
        self._next = None
        if message["type"] == "websocket.disconnect":
            raise _Left
        text, content = message.get("text"), message.get("bytes")
        return text if text is not None else content or b""

    async def unless_left(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of some work, which is given up if the client leaves.

        Raises:
            _Left: the client has left.
        """
        working, following = asyncio.ensure_future(work), self.next()
        try:
            both: list[asyncio.Future[Any]] = [working, following]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and following.result()["type"] == "websocket.disconnect":
                raise _Left
            return await working
        finally:
            working.cancel()
            del working, both  # see `_End`

    def stop(self) -> None:
        """Wait for no more."""
        if self._next is not None:
            self._next.cancel()


def _checked_text(message: str) -> None:
    try:
        check_text(message)
    except ProtocolError as error:
        raise _Close(_CODE_UNSUPPORTED, str(error)) from error


def _recordings(reader: RecordingReader, message: bytes) -> Iterator[SentRecording]:
    try:
        yield from reader.read(message)
    except TooLong as error:
        raise _Close(_CODE_TOO_BIG, str(error)) from error
    except ProtocolError as error:
        raise _Close(_CODE_UNSUPPORTED, str(error)) from error


def _knows_us(socket: WebSocket) -> bool:
    """Whether a client offers our subprotocol, and so takes more than sherpa-onnx's."""
    return SUBPROTOCOL in socket.scope.get("subprotocols", ())


async def _accept(socket: WebSocket) -> None:
    await socket.accept(subprotocol=SUBPROTOCOL if _knows_us(socket) else None)


async def _first_of(waiting: Coroutine[Any, Any, None], other: "asyncio.Future[_End | None]") -> None:
    """Wait until one of them ends; the first is then over, the second goes on."""
    task = asyncio.ensure_future(waiting)
    try:
        both: list[asyncio.Future[Any]] = [task, other]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()


async def _send(socket: WebSocket, text: str) -> None:
    await _or_left(socket.send_text(text))


async def _close(socket: WebSocket, close: _Close) -> None:
    if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
        try:
            await _or_left(socket.close(close.code, close_reason(close.reason)))
        except _Left:
            return


async def _or_left(sending: Awaitable[None]) -> None:
    try:
        await sending
    except (OSError, RuntimeError, WebSocketDisconnect) as error:
        raise _Left from error
