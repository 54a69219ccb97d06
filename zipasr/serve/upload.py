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


async def read_upload(request: Request, config: ServeConfig) -> Upload:
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
    patient = Request(request.scope, _limited(request.receive, request.headers.get("content-length"), config))
    try:
        form = await patient.form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    except MultiPartException as error:
        raise RequestError(f"Expected a form with one file, got another: {error.message}") from error
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    if [name for name, _ in files] != ["file"]:
        await form.close()
        raise RequestError("Expected the recording as the form's field file, got no such file.", param="file")
    return Upload(fields, files[0][1])


def _limited(receive: Receive, content_length: str | None, config: ServeConfig) -> Receive:
    """The same messages; too many bytes, or too long a wait for them, raise RequestError."""
    start_s = time.monotonic()
    num_bytes = 0
    too_large = RequestError(
        f"Expected a request of at most {config.max_upload_mb:g} MB, got a larger one; compress or cut the recording.",
        status=413,
        param="file",
    )

    async def limited() -> Message:
        nonlocal num_bytes
        if content_length is not None and content_length.isdigit() and int(content_length) > config.max_upload_bytes:
            raise too_large
        left_s = start_s + config.idle_timeout_s + num_bytes / _MIN_BYTES_PER_S - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), min(config.idle_timeout_s, max(left_s, 0)))
        except TimeoutError as error:
            raise RequestError("The recording came too slowly, or not at all.", status=408) from error
        num_bytes += len(message.get("body", b""))
        if num_bytes > config.max_upload_bytes:
            raise too_large
        return message

    return limited


async def linger(receive: Receive, patience_s: float) -> None:
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
