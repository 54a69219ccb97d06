"""The HTTP endpoints: transcriptions, models, health, metrics and the files of the page."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute

from zipasr.audio.samples import ALLOW_DAMAGED_CURE
from zipasr.errors import AudioError, ConfigError
from zipasr.serve.limits import Admission, ServeConfig, ServerBusy
from zipasr.serve.metrics import CONTENT_TYPE, Metrics
from zipasr.serve.openai_api import (
    MODEL_ALIASES,
    EventWriter,
    RequestError,
    ServedModel,
    TranscriptionRequest,
    error_body,
    parse_request,
    write_answer,
    write_event,
    write_progress,
)
from zipasr.serve.pages import page_routes
from zipasr.serve.recordings import Transcriber
from zipasr.serve.refusal import failure_message
from zipasr.serve.routing import Endpoint
from zipasr.serve.upload import Body, Upload, client_disconnected, linger, read_upload
from zipasr.transcript import Token, Transcript

T = TypeVar("T")
_MAX_LOGGED_FIELDS = 100
_SHORT_FIELDS_BYTES, _SHORT_ANSWER_S = 500, 60.0
"""Fields and transcripts up to these sizes are processed in the event loop, in less than a millisecond."""
_PROGRESS_EVERY_S = 0.5
_KEEP_ALIVE_S = 15.0
"""A stream of events sends something at least this often: many proxies cut a connection that is quiet for 60 s."""
_EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Headers that keep proxies from holding events back."""
_INAPPLICABLE_CURES = (", or name a headerless format, for example format='g722'", ALLOW_DAMAGED_CURE)
"""Advice in the library's messages about unknown and damaged recordings that does not apply here: a request has no such
fields."""
_log = logging.getLogger("zipasr.serve")


@dataclass(eq=False)
class HttpEndpoints:
    """The HTTP endpoints of one server; they share a model, limits and counters."""

    transcriber: Transcriber
    config: ServeConfig
    admission: Admission
    """Says whether the server is shutting down."""
    metrics: Metrics
    """Counters, which `/metrics` shows."""
    served: ServedModel
    can_stream: bool
    """Whether the model can process live audio."""
    _ignored: set[str] = field(default_factory=set, init=False)

    def routes(self) -> list[BaseRoute]:
        """The routes of all endpoints."""
        return [
            Endpoint("/v1/audio/transcriptions", self.transcriptions, methods=["POST"]),
            Endpoint("/v1/models", self.models),
            Endpoint("/v1/models/{name:path}", self.model),
            Endpoint("/health", self.health),
            Endpoint("/metrics", self.show_metrics),
            *page_routes(),
        ]

    async def transcriptions(self, request: Request) -> Response:
        """OpenAI's `POST /v1/audio/transcriptions`."""
        body = Body(request, self.config)
        try:
            upload = await read_upload(request, body)
        except ClientDisconnect:
            return self._disconnected_response()
        except RequestError as error:
            if not body.is_whole and (body.has_started or "expect" not in request.headers):  # it waits for permission
                await linger(request.receive, self.config.stall_timeout_s)
            return self._error_response(error)
        try:
            # With many hotwords this takes a tenth of a second.
            num_bytes = sum(len(value) for _, value in upload.fields)
            options = await _computed(parse_request, upload.fields, self.served, is_long=num_bytes > _SHORT_FIELDS_BYTES)
        except RequestError as error:
            await upload.file.close()
            return self._error_response(error)
        self._report_ignored(options.ignored)
        if options.is_stream:
            return StreamingResponse(self._events(upload, options), media_type="text/event-stream", headers=_EVENT_HEADERS)
        try:
            transcript = await unless(client_disconnected(request.receive), self._transcribe(upload, options))
        except (AudioError, ConfigError, ServerBusy) as error:
            return self._error_response(error, upload)
        if transcript is None:
            return self._disconnected_response()
        # For four hours of audio this takes half a second, which would delay live audio.
        is_long = transcript.duration_s > _SHORT_ANSWER_S
        content_type, text = await _computed(write_answer, options, transcript, is_long=is_long)
        return Response(text, headers={"content-type": content_type})

    def _report_ignored(self, names: Sequence[str]) -> None:
        """Log unknown fields, each once, and no more of them than a few applications send."""
        for name in names:
            if name not in self._ignored and len(self._ignored) < _MAX_LOGGED_FIELDS:
                self._ignored.add(name)
                _log.warning("requests have the field %.100r, which has no effect here; further ones are not logged", name)

    async def _transcribe(
        self,
        upload: Upload,
        options: TranscriptionRequest,
        on_progress: Callable[[float], None] | None = None,
        on_text: Callable[[str, Sequence[Token]], None] | None = None,
    ) -> Transcript:
        """Transcribe an uploaded recording and close its file."""
        with upload.file.file as file, self.metrics.counting_failures():
            transcript = await self.transcriber.transcribe(file, options.asked, on_progress=on_progress, on_text=on_text)
        self.metrics.recordings.labels("done").inc()
        return transcript

    async def _events(self, upload: Upload, options: TranscriptionRequest) -> AsyncIterator[str]:
        """The server-sent events of a request: text as it becomes final, comments with the progress, the end or an error."""
        writer, pending = EventWriter(options), list[str]()
        done_s = reported_s = 0.0
        latest_s = time.monotonic()

        def on_progress(seconds: float) -> None:
            nonlocal done_s
            done_s = seconds

        work = asyncio.ensure_future(
            self._transcribe(upload, options, on_progress, lambda text, tokens: pending.append(writer.delta(text, tokens)))
        )
        try:
            while not (await asyncio.wait([work], timeout=_PROGRESS_EVERY_S))[0]:
                if done_s > reported_s or time.monotonic() - latest_s > _KEEP_ALIVE_S:
                    reported_s, latest_s = done_s, time.monotonic()
                    pending.append(write_progress(done_s))
                if pending:
                    events = "".join(pending)
                    pending.clear()
                    yield events
            yield "".join(pending) + await asyncio.to_thread(writer.done, work.result())
        except (AudioError, ConfigError, ServerBusy) as error:
            yield "".join(pending) + write_event(json.loads(bytes(self._error_response(error, upload).body)))
        except Exception as error:  # top level of a connection, as in `Gate`, whose response cannot follow events
            _log.exception("error in a stream of events")
            yield "".join(pending) + write_event(error_body(failure_message(error), status=500))
        finally:
            if not work.done():
                work.cancel()  # the client disconnected
                self.metrics.recordings.labels("left").inc()
            del work  # see `unless`

    def _disconnected_response(self) -> Response:
        """The response to a client that has disconnected, which never receives it."""
        self.metrics.recordings.labels("left").inc()
        return Response(status_code=499)

    def _error_response(self, error: Exception, upload: Upload | None = None) -> Response:
        """The response for an error, in the form that OpenAI's clients expect."""
        self.metrics.recordings.labels("refused").inc()
        message = str(error)
        if isinstance(error, ServerBusy):
            headers = {"retry-after": str(error.retry_after_s)}
            return JSONResponse(error_body(message, status=503), status_code=503, headers=headers)
        if isinstance(error, RequestError):
            body = error_body(message, param=error.param, code=error.code, status=error.status)
            # After a body that was not read completely, the connection cannot be used for another request.
            return JSONResponse(body, status_code=error.status, headers={"connection": "close"} if upload is None else None)
        if isinstance(error, AudioError):
            name = upload.file.filename if upload is not None and upload.file.filename else "the recording"
            message = message.replace("the file object", name[:100])
            for cure in _INAPPLICABLE_CURES:
                message = message.replace(cure, "")
            return JSONResponse(error_body(message, param="file"), status_code=400)
        return JSONResponse(error_body(message, param=_wrong_field(message, upload)), status_code=400)

    def _model_object(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "zipasr", "can_stream": self.can_stream}

    async def models(self, request: Request) -> Response:
        """OpenAI's `GET /v1/models`: a list with the only model."""
        return JSONResponse({"object": "list", "data": [self._model_object(self.served.name)]})

    async def model(self, request: Request) -> Response:
        """OpenAI's `GET /v1/models/NAME`."""
        name = request.path_params["name"]
        if name not in (self.served.name, *MODEL_ALIASES):
            message = f"This server has no model of that name; its model is {self.served.name}."
            return JSONResponse(error_body(message, code="model_not_found"), status_code=404)
        return JSONResponse(self._model_object(name))

    async def health(self, request: Request) -> Response:
        """Whether the server accepts requests: 200, or 503 when it is shutting down or its worker has failed."""
        status = "draining" if self.admission.is_draining else "ok" if self.transcriber.worker.is_alive else "failed"
        described = {
            "model": self.served.name,
            "can_stream": self.can_stream,
            "needs_key": self.config.api_key is not None,
            "max_upload_mb": self.config.max_upload_mb,
            "max_audio_s": self.config.max_audio_s,
            "max_num_best_s": self.transcriber.longest_piece_s,
            "graphs": sorted(self.served.graphs),
            # The page compares it with its own address: only here a proxy's change of it shows.
            "host": request.headers.get("host", ""),
        }
        return JSONResponse({"status": status, **described}, status_code=200 if status == "ok" else 503)

    async def show_metrics(self, request: Request) -> Response:
        """The counters in the text format of Prometheus."""
        return Response(self.metrics.to_text(), headers={"content-type": CONTENT_TYPE})


def _wrong_field(message: str, upload: Upload | None) -> str | None:
    """The field of a request that an error of its options is about; None: it is about none."""
    if message.startswith("num_best"):
        return "num_best"
    names = {name.removesuffix("[]") for name, _ in upload.fields} if upload is not None and "hotwords" in message else set()
    return next((name for name in ("keywords", "prompt") if name in names), None)


async def _computed(function: Callable[..., T], *args: object, is_long: bool) -> T:
    """The result of a function, which is called in a thread only if that takes long: changing threads takes 0.1 ms."""
    return await asyncio.to_thread(function, *args) if is_long else function(*args)


async def unless(stops: Awaitable[object], work: Awaitable[T]) -> T | None:
    """The result of `work`, or None if `stops` completes first; the work is then cancelled."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stops)
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait([working, stopping])
        del working  # an error refers to this frame; if the frame refers to the error, both stay until garbage collection
