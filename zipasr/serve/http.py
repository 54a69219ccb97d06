"""The endpoints that answer once: transcriptions, models, health, metrics."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from zipasr.errors import AudioError, ConfigError
from zipasr.serve.limits import Admission, ServeConfig, ServerBusy
from zipasr.serve.metrics import CONTENT_TYPE, Metrics
from zipasr.serve.openai_api import (
    EventWriter,
    RequestError,
    TranscriptionRequest,
    error_body,
    parse_request,
    write_answer,
    write_error_event,
    write_progress,
)
from zipasr.serve.pages import page_routes
from zipasr.serve.recordings import Transcriber
from zipasr.serve.upload import Body, Upload, left, linger, read_upload
from zipasr.transcript import Token, Transcript

T = TypeVar("T")
_PROGRESS_EVERY_S = 0.5
_NO_CURE_HERE = ", or name a headerless format, for example format='g722'"
"""What the library advises of unknown formats; a request has no such field."""


class HttpEndpoints:
    """They share a model, limits and counters."""

    def __init__(
        self,
        transcriber: Transcriber,
        config: ServeConfig,
        admission: Admission,
        metrics: Metrics,
        *,
        model_name: str,
        can_stream: bool,
    ) -> None:
        """Take what they share.

        Args:
            transcriber: writes recordings down.
            config: limits.
            admission: knows whether the server is about to stop.
            metrics: what is shown.
            model_name: how clients call the model.
            can_stream: whether it takes live sound.
        """
        self.transcriber, self.config, self.admission, self.metrics = transcriber, config, admission, metrics
        self.model_name, self.can_stream = model_name, can_stream
        pieces = transcriber.worker.recognizer.tokenizer.pieces
        self._token_ids = {piece: i for i, piece in enumerate(pieces)}

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [
            Route("/v1/audio/transcriptions", self.transcriptions, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            *page_routes(),
        ]

    async def transcriptions(self, request: Request) -> Response:
        """OpenAI's `POST /v1/audio/transcriptions`."""
        body = Body(request, self.config)
        try:
            upload = await read_upload(request, body)
        except ClientDisconnect:
            return self._gone()
        except RequestError as error:
            if not body.is_whole and "expect" not in request.headers:  # who expects leave to send a body waits for it
                await linger(request.receive, self.config.idle_timeout_s)
            return self._refusal(error)
        try:
            asked = parse_request(upload.fields, self.model_name)
        except RequestError as error:
            await upload.file.close()
            return self._refusal(error)
        if asked.is_stream:
            return StreamingResponse(self._events(upload, asked), media_type="text/event-stream")
        try:
            transcript = await unless(left(request.receive), self._transcribe(upload, asked))
        except (AudioError, ConfigError, ServerBusy) as error:
            return self._refusal(error, upload)
        if transcript is None:
            return self._gone()
        # In a thread: of four hours it takes half a second, in which live sound would wait.
        content_type, text = await asyncio.to_thread(write_answer, asked, transcript, self._token_ids)
        return Response(text, headers={"content-type": content_type})

    async def _transcribe(
        self,
        upload: Upload,
        asked: TranscriptionRequest,
        on_progress: Callable[[float], None] | None = None,
        on_text: Callable[[str, Sequence[Token]], None] | None = None,
    ) -> Transcript:
        """Write a recording down and close its file."""
        with upload.file.file as file:
            transcript = await self.transcriber.transcribe(
                file, hotwords=asked.hotwords, on_progress=on_progress, on_text=on_text
            )
        self.metrics.recordings.labels("done").inc()
        return transcript

    async def _events(self, upload: Upload, asked: TranscriptionRequest) -> AsyncIterator[str]:
        """The events of a stream: text as it becomes certain, comments that tell the progress, the end or an error."""
        writer, untold = EventWriter(asked, self._token_ids), list[str]()
        done_s = told_s = 0.0

        def on_progress(seconds: float) -> None:
            nonlocal done_s
            done_s = seconds

        work = asyncio.ensure_future(
            self._transcribe(upload, asked, on_progress, lambda text, tokens: untold.append(writer.delta(text, tokens)))
        )
        try:
            while not (await asyncio.wait([work], timeout=_PROGRESS_EVERY_S))[0]:
                if done_s > told_s:
                    told_s = done_s
                    untold.append(write_progress(done_s))
                if untold:
                    events = "".join(untold)
                    untold.clear()
                    yield events
            yield "".join(untold) + await asyncio.to_thread(writer.done, work.result())
        except (AudioError, ConfigError, ServerBusy) as error:
            yield "".join(untold) + write_error_event(json.loads(bytes(self._refusal(error, upload).body)))
        finally:
            if not work.done():
                work.cancel()  # the client has left
                self.metrics.recordings.labels("left").inc()
            del work  # see `unless`

    def _gone(self) -> Response:
        """For a client that has left, which will not see it."""
        self.metrics.recordings.labels("left").inc()
        return Response(status_code=499)

    def _refusal(self, error: Exception, upload: Upload | None = None) -> Response:
        """What went wrong, as OpenAI's clients read it."""
        self.metrics.recordings.labels("refused").inc()
        message = str(error)
        if isinstance(error, ServerBusy):
            headers = {"retry-after": str(error.retry_after_s)}
            return JSONResponse(error_body(message, status=503), status_code=503, headers=headers)
        if isinstance(error, RequestError):
            body = error_body(message, param=error.param, code=error.code, status=error.status)
            # After a body that was not read to its end the connection cannot be used for another request.
            return JSONResponse(body, status_code=error.status, headers={"connection": "close"} if upload is None else None)
        if isinstance(error, AudioError):
            name = upload.file.filename if upload is not None and upload.file.filename else "the recording"
            message = message.replace("the file object", name[:100]).replace(_NO_CURE_HERE, "")
            return JSONResponse(error_body(message, param="file"), status_code=400)
        return JSONResponse(error_body(message, param="prompt"), status_code=400)

    def _described(self) -> dict[str, object]:
        return {"id": self.model_name, "object": "model", "created": 0, "owned_by": "zipasr", "can_stream": self.can_stream}

    async def models(self, request: Request) -> Response:
        """OpenAI's `GET /v1/models`: the one there is."""
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        """OpenAI's `GET /v1/models/NAME`."""
        if request.path_params["name"] != self.model_name:
            message = f"This server has no model of that name; its model is {self.model_name}."
            return JSONResponse(error_body(message, code="model_not_found"), status_code=404)
        return JSONResponse(self._described())

    async def health(self, request: Request) -> Response:
        """Whether new work is welcome: 200, or 503 when the server is about to stop or can compute no more."""
        status = "draining" if self.admission.is_draining else "ok" if self.transcriber.worker.is_alive else "failed"
        described = {"model": self.model_name, "can_stream": self.can_stream, "needs_key": self.config.api_key is not None}
        return JSONResponse({"status": status, **described}, status_code=200 if status == "ok" else 503)

    async def show_metrics(self, request: Request) -> Response:
        """What Prometheus reads."""
        return Response(self.metrics.to_text(), headers={"content-type": CONTENT_TYPE})


async def unless(stops: Awaitable[object], work: Awaitable[T]) -> T | None:
    """The result of some work, or None where something else happens first; the work is then cancelled."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stops)
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait([working, stopping])
        del working  # an error keeps this frame, which must not keep the error: both would stay until garbage is collected
