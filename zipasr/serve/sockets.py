"""The WebSocket endpoints, with sherpa-onnx's protocols: `/online` for live audio, `/offline` for recordings. `/`, which
sherpa-onnx's clients use, is the one of them that the model supports. `/spot` takes live audio too, and sends events.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

from zipasr.audio.samples import ANOTHER_FILE_CURE
from zipasr.errors import AudioError, ConfigError, ProtocolError
from zipasr.search.graph import LoadedGraph
from zipasr.serve.batching import Asked
from zipasr.serve.connection import SocketConnection, connection_of
from zipasr.serve.gate import SUBPROTOCOL
from zipasr.serve.graphs import Graphs, chosen_graph
from zipasr.serve.limits import ServeConfig, ServerBusy
from zipasr.serve.live import LiveResult, LiveSession, LiveStreams
from zipasr.serve.metrics import Metrics
from zipasr.serve.protocol import (
    SENT_INT16_CURE,
    SERVER_DONE,
    LiveWriter,
    RecordingReader,
    SentRecording,
    TooLong,
    check_text,
    close_reason,
    to_recording_json,
)
from zipasr.serve.receiving import (
    CODE_BUSY,
    CODE_DONE,
    CODE_RESTART,
    CODE_UNSUPPORTED,
    STOPPING,
    Close,
    Disconnected,
    End,
    LiveAudio,
    Recordings,
)
from zipasr.serve.recordings import Transcriber
from zipasr.serve.refusal import failure_message, refuse
from zipasr.serve.spotting import KeywordRequests, SpotResult, SpotSession, to_event_json

Result = TypeVar("Result", LiveResult, SpotResult)
_CODE_BAD_DATA, _CODE_TOO_BIG, _CODE_FAILED = 1007, 1009, 1011
_MAX_HELD_BYTES = 1_000_000_000
"""Upper bound on the recordings in memory that wait for a response, of all WebSockets together."""
_RECEIVE_SHARE = 0.5
"""Live audio without a pause, and recordings, end after this share of the drain timeout; the rest is for responses."""
_log = logging.getLogger("zipasr.serve")


@dataclass(eq=False)
class SocketEndpoints:
    """The WebSocket endpoints of one server; they share a model, limits and counters."""

    transcriber: Transcriber
    live: LiveStreams | None
    """Decodes live audio; None: the model cannot."""
    config: ServeConfig
    metrics: Metrics
    draining: asyncio.Event
    """Set when the server is shutting down."""
    why_no_stream: str
    """Message for clients that want to stream if the model cannot."""
    keywords: KeywordRequests
    graphs: Graphs = field(default_factory=dict)
    """Graphs that clients may name, as `?graph=NAME` in the URL."""
    _num_held_bytes: int = field(default=0, init=False)

    def routes(self) -> list[BaseRoute]:
        """The routes of all endpoints."""
        return [
            WebSocketRoute("/", self.offline if self.live is None else self.online),
            WebSocketRoute("/online", self.online),
            WebSocketRoute("/offline", self.offline),
            WebSocketRoute("/spot", self.spot),
        ]

    async def online(self, socket: WebSocket) -> None:
        """Serve a connection of the "online" protocol: live audio in, results after every chunk out."""
        if self.live is None:
            await _refuse(socket, self.why_no_stream)
            return
        try:
            graph = self._graph(socket)
        except ConfigError as error:
            await _refuse(socket, f"{error}.")
            return
        connection, session = await _accept(socket), self.live.open(graph)
        writer = LiveWriter(has_words=_offers_ours(socket))

        def messages(result: LiveResult) -> Iterable[str]:
            message = writer.write(
                result.transcript,
                segment=result.segment,
                start_s=result.start_s,
                is_final=result.is_final,
                is_eof=result.is_eof,
            )
            return (message,)

        await self._process(socket, connection, session, _send_results(connection, session.next_result, messages))

    async def spot(self, socket: WebSocket) -> None:
        """Serve a connection for keyword spotting: live audio in, an event for each keyword out."""
        if self.live is None:
            await _refuse(socket, self.why_no_stream)
            return
        try:
            spotter = self.keywords.spotter(socket.query_params)
        except ConfigError as error:
            await _refuse(socket, str(error))
            return
        connection, session = await _accept(socket), SpotSession(spotter)
        self.live.add(session)

        def messages(result: SpotResult) -> Iterable[str]:
            return map(to_event_json, result.events)

        await self._process(socket, connection, session, _send_results(connection, session.next_events, messages))

    async def _process(
        self,
        socket: WebSocket,
        connection: SocketConnection,
        session: LiveSession,
        results: Coroutine[Any, Any, End | None],
    ) -> None:
        """Pass live audio on to its session while `results` sends what is found, until one of them ends."""
        max_drain_s = self.config.drain_timeout_s * _RECEIVE_SHARE
        audio = LiveAudio(connection, session, self.config, self.draining, max_drain_s=max_drain_s)
        writing = asyncio.ensure_future(results)
        try:
            audio.start()
            both: list[asyncio.Future[Any]] = [audio.ended, writing]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            end = writing.result() if writing.done() else audio.ended.result()
            assert end is not None, "results ended before the audio did"
            if end.has_results:
                session.finish()
                end = await writing or end
            if end.code:
                await _close(socket, end.code, end.reason)
        finally:
            session.leave()
            audio.stop()
            writing.cancel()
            await asyncio.wait([writing])

    async def offline(self, socket: WebSocket) -> None:
        """Serve a connection of the "offline" protocol: recordings in, a transcript for each out."""
        try:
            graph = self._graph(socket)
        except ConfigError as error:
            await _refuse(socket, f"{error}.")
            return
        connection, num_held_bytes, is_open = await _accept(socket), 0, False
        max_duration_s = min(self.config.max_utterance_s, self.config.max_audio_s)
        reader = RecordingReader(max_duration_s, self.config.max_upload_bytes)

        def may_hold(num_bytes: int) -> bool:
            nonlocal num_held_bytes
            if self._num_held_bytes + num_bytes > _MAX_HELD_BYTES:
                return False
            num_held_bytes += num_bytes
            self._num_held_bytes += num_bytes
            return True

        max_drain_s = self.config.drain_timeout_s * _RECEIVE_SHARE
        recordings = Recordings(connection, reader, self.config, self.draining, may_add=may_hold, max_drain_s=max_drain_s)
        try:
            recordings.start()
            while (message := await recordings.next()) is not None:
                if isinstance(message, str):
                    check_text(message)
                    incomplete = Close(_CODE_BAD_DATA, "The recording is incomplete: its header states more bytes.")
                    raise Close(CODE_DONE) if reader.is_between else incomplete
                is_open = True
                for recording in reader.read(message):
                    is_open = True
                    text = await recordings.unless_disconnected(self._transcribed(recording, graph))
                    is_open = False
                    self.metrics.recordings.labels("done").inc()
                    await connection.send_text(text)
                is_open = False
                may_hold(reader.num_held_bytes + recordings.num_waiting_bytes - num_held_bytes)
            raise Close(CODE_RESTART, STOPPING)
        except (Close, ProtocolError) as error:
            if is_open or recordings.is_refused or not reader.is_between:
                is_failure = isinstance(error, Close) and error.code == _CODE_FAILED
                self.metrics.recordings.labels("failed" if is_failure else "refused").inc()
            await _close(socket, _close_code(error), str(error))
        except (Disconnected, ClientDisconnected):
            if is_open or not reader.is_between:
                self.metrics.recordings.labels("left").inc()
        finally:
            self._num_held_bytes -= num_held_bytes
            recordings.stop()

    def _graph(self, socket: WebSocket) -> LoadedGraph | None:
        unknown = [name for name in socket.query_params if name != "graph"]
        if unknown:
            raise ConfigError(f"The only parameter is graph, but one is {unknown[0][:50]!r}")
        return chosen_graph(self.graphs, socket.query_params.get("graph"))

    async def _transcribed(self, recording: SentRecording, graph: LoadedGraph | None) -> str:
        asked = Asked(graph=graph)
        try:
            transcript = await self.transcriber.transcribe(recording.samples, asked, sample_rate_hz=recording.rate_hz)
        except AudioError as error:
            message = str(error).replace("the array", "the recording").replace(ANOTHER_FILE_CURE, SENT_INT16_CURE)
            raise Close(_CODE_BAD_DATA, message) from error
        except ServerBusy as error:
            raise Close(CODE_BUSY, str(error)) from error
        except ConfigError as error:  # of the server, since these clients choose nothing but a graph
            raise Close(_CODE_FAILED, str(error)) from error
        except Exception as error:  # top level of a connection, as in `Gate`, which could not tell the client
            _log.exception("error in a connection")
            raise Close(_CODE_FAILED, failure_message(error)) from error
        return to_recording_json(transcript)


def _offers_ours(socket: WebSocket) -> bool:
    """Whether a client offers our subprotocol and so understands more fields than sherpa-onnx's clients."""
    return SUBPROTOCOL in socket.scope.get("subprotocols", ())


async def _refuse(socket: WebSocket, message: str) -> None:
    await refuse(socket.scope, socket.receive, socket.send, 400, message)


async def _accept(socket: WebSocket) -> SocketConnection:
    """Complete the handshake; messages are then read from and written to the connection itself."""
    await socket.accept(subprotocol=SUBPROTOCOL if _offers_ours(socket) else None)
    return connection_of(socket.scope)


async def _send_results(
    connection: SocketConnection, next_result: Callable[[], Awaitable[Result]], messages: Callable[[Result], Iterable[str]]
) -> End | None:
    """Send the messages of each result until the last one; return why they ended early, if they did."""
    is_eof = False
    try:
        while not is_eof:
            try:
                result = await next_result()
            except ValueError as error:
                return End(_CODE_BAD_DATA, str(error))
            except RuntimeError as error:
                return End(_CODE_FAILED, str(error))
            is_eof = result.is_eof
            for message in messages(result):
                await connection.send_text(message)
        await connection.send_text(SERVER_DONE)
    except ClientDisconnected:
        return End(0)
    return None


def _close_code(error: Close | ProtocolError) -> int:
    if isinstance(error, Close):
        return error.code
    return _CODE_TOO_BIG if isinstance(error, TooLong) else CODE_UNSUPPORTED


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    """Close a socket unless it is closed."""
    with contextlib.suppress(OSError, RuntimeError, WebSocketDisconnect):
        await socket.close(code, close_reason(reason))
