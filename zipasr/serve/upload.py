"""A request's body in, the fields of its form and its file out, within limits of size, length and patience."""

import asyncio
import time
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from zipasr.serve.limits import ServeConfig
from zipasr.serve.openai_api import RequestError

_MIN_BYTES_PER_S = 1000
"""A body that comes more slowly than this, a few seconds of patience aside, is given up: sound on a telephone is faster."""
_MAX_LINGER_BYTES, _LINGER_S = 64_000_000, 5.0
"""What is still read of a body that has been refused: many clients look for an answer only when they have sent all."""
_MAX_FIELDS, _MAX_FIELD_BYTES = 200, 100_000


class Upload(NamedTuple):
    """What a form holds."""

    fields: list[tuple[str, str]]
    file: UploadFile
    """Close it."""


async def read_upload(request: Request, body: "Body") -> Upload:
    """Read a form with one file.

    Raises:
        RequestError: it is none, is too large (413) or comes too slowly (408).
        ClientDisconnect: the client left.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise RequestError(
            "Expected a form of multipart/form-data with the recording as its field file, got "
            f"{content_type[:80] or 'nothing'!r}."
        )
    try:
        form = await Request(request.scope, body.receive).form(
            max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
        )
    except MultiPartException as error:
        raise RequestError(f"Expected a form with one file, got another: {error.message}") from error
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    if [name for name, _ in files] != ["file"]:
        await form.close()
        raise RequestError("Expected the recording as the form's field file, got no such file.", param="file")
    return Upload(fields, files[0][1])


class Body:
    """The messages of a request's body; too many bytes, or too long a wait for them, raise RequestError."""

    def __init__(self, request: Request, config: ServeConfig) -> None:
        """Take a request of which nothing has been read."""
        self._receive, self._config = request.receive, config
        announced = request.headers.get("content-length", "")
        self._is_too_large = announced.isdigit() and int(announced) > config.max_upload_bytes
        self._start_s = time.monotonic()
        self._num_bytes = 0
        self.is_whole = False
        """Whether nothing of it is left to read."""

    async def receive(self) -> Message:
        """The next message, as ASGI has it."""
        config = self._config
        if not self._is_too_large:
            left_s = self._start_s + config.idle_timeout_s + self._num_bytes / _MIN_BYTES_PER_S - time.monotonic()
            try:
                message = await asyncio.wait_for(self._receive(), min(config.idle_timeout_s, max(left_s, 0)))
            except TimeoutError as error:
                raise RequestError("The recording came too slowly, or not at all.", status=408) from error
            self._num_bytes += len(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)
            self._is_too_large = self._num_bytes > config.max_upload_bytes
        if self._is_too_large:
            raise RequestError(
                f"Expected a request of at most {config.max_upload_mb:g} MB, got a larger one; compress or cut the "
                "recording.",
                status=413,
                param="file",
            )
        return message


async def linger(receive: Receive, patience_s: float = _LINGER_S) -> None:
    """Read on for a while after a refusal, and throw away what comes."""
    num_bytes = 0
    try:
        async with asyncio.timeout(min(_LINGER_S, patience_s)):
            while num_bytes <= _MAX_LINGER_BYTES:
                message = await receive()
                num_bytes += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def left(receive: Receive) -> None:
    """Return when the client has closed the connection; to be called when its request is whole."""
    while (await receive())["type"] != "http.disconnect":
        pass


__all__ = ["ClientDisconnect", "Upload", "left", "linger", "read_upload"]
