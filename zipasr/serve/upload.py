"""The body of a request in, the fields of its form and its file out, within limits on size and time."""

import asyncio
import contextlib
import logging
import tempfile
import time
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message, Receive

from zipasr.serve.limits import ServeConfig
from zipasr.serve.openai_api import MAX_PHRASES, RequestError

_MIN_BYTES_PER_S = 1000
"""A body that arrives more slowly, apart from `idle_timeout_s` of grace, is refused; even telephone audio is faster."""
_MAX_LINGER_BYTES, _LINGER_S = 64_000_000, 5.0
"""How much, and for how long, the body of a refused request is still read: many clients read a response only after they have
sent everything."""
_MAX_FIELDS, _MAX_FIELD_BYTES = MAX_PHRASES + 200, 100_000
"""A phrase may be a field of its own."""
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1", "windows-1252", "cp1252"})
"""Python has a codec for every name that a request may give. Some take seconds for one field (punycode), raise errors of
their own (undefined) or yield lone surrogates (unicode_escape, utf-7), which no response can contain."""
_log = logging.getLogger("zipasr.serve")


class Upload(NamedTuple):
    """The fields and the file of a form."""

    fields: list[tuple[str, str]]
    file: UploadFile
    """The recording; the caller closes it."""


async def read_upload(request: Request, body: "Body") -> Upload:
    """Read a form with one file.

    Raises:
        RequestError: the body is not such a form, is too large (413), arrives too slowly (408) or finds no room on the disk
            (503).
        ClientDisconnect: the client has disconnected.
    """
    _check_content_type(request.headers.get("content-type", ""))
    try:
        parser = _Parser(
            request.headers,
            Request(request.scope, body.receive).stream(),
            max_files=1,
            max_fields=_MAX_FIELDS,
            max_part_size=_MAX_FIELD_BYTES,
        )
        form = await parser.parse()
    except OSError as error:  # of its file, which it has closed
        _log.error("an upload cannot be stored in %s: %s", tempfile.tempdir or "no folder for temporary files", error)
        raise RequestError(
            f"The server cannot store the recording: {error.strerror or error}; whoever runs it must free space in its "
            "folder for temporary files, which its log names, or set TMPDIR.",
            status=503,
        ) from error
    except MultiPartException as error:
        raise RequestError(f"A request must be a form with one file, but is not: {error.message}") from error
    if not parser.is_whole:
        parser.close_files()
        raise RequestError(
            "A request must be a whole form, but ends before its last boundary: it was cut off; send it again."
        )
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    if [name for name, _ in files] != ["file"]:
        await form.close()
        raise RequestError("The recording must be in the field file, but there is no such field.", param="file")
    return Upload(fields, files[0][1])


def _check_content_type(content_type: str) -> None:
    """Raise RequestError for what is not a form, and for one whose texts are in an unusual encoding."""
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise RequestError(
            "A request must be multipart/form-data with the recording in the field file, but is "
            f"{content_type[:80] or 'nothing'!r}."
        )
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in _CHARSETS:
        raise RequestError(f"The texts of a form must be in UTF-8, but its charset is {charset[:80]!r}.")


class _Parser(MultiPartParser):
    """Takes the part `file` as a file even without a filename: Starlette's parser takes such a part as a short text."""

    is_whole = False
    """Whether the last boundary has come."""

    def on_end(self) -> None:
        """Called after the last boundary."""
        self.is_whole = True

    def close_files(self) -> None:
        """Close all files, also one that is incomplete and so in no form."""
        for file in self._files_to_close_on_error:
            with contextlib.suppress(OSError):  # what is left to write is not needed
                file.close()

    def on_headers_finished(self) -> None:
        """Called after the headers of a part."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == b"file" and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()


class Body:
    """The messages of a request's body; a body that is too large or too slow raises RequestError."""

    def __init__(self, request: Request, config: ServeConfig) -> None:
        """Wrap a request whose body is unread; `config` holds the limits."""
        self._receive, self._config = request.receive, config
        announced = request.headers.get("content-length", "")
        self._is_too_large = announced.isdigit() and int(announced) > config.max_upload_bytes
        self._start_s = time.monotonic()
        self._num_bytes = 0
        self.has_started = self.is_whole = False
        """Whether reading has started: a client that waits for permission to send the body has it then. And whether the body
        has been read completely."""

    async def receive(self) -> Message:
        """The next ASGI message of the body."""
        config = self._config
        if not self._is_too_large:
            self.has_started = True
            try:
                message = await asyncio.wait_for(self._receive(), self._timeout_s())
            except TimeoutError as error:
                raise RequestError("The recording arrived too slowly, or not at all.", status=408) from error
            self._num_bytes += len(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)
            self._is_too_large = self._num_bytes > config.max_upload_bytes
        if self._is_too_large:
            raise RequestError(
                f"A request must have at most {config.max_upload_mb:g} MB, but this one has more; compress or split the "
                "recording.",
                status=413,
                param="file",
            )
        return message

    def _timeout_s(self) -> float | None:
        """How long the next message may take; None: forever."""
        silence_s = self._config.silence_timeout_s
        if silence_s is None:
            return None
        left_s = self._start_s + silence_s + self._num_bytes / _MIN_BYTES_PER_S - time.monotonic()
        return min(silence_s, max(left_s, 0))


async def linger(receive: Receive, timeout_s: float = _LINGER_S) -> None:
    """Read and discard the rest of a refused request for a limited time."""
    num_bytes = 0
    try:
        async with asyncio.timeout(min(_LINGER_S, timeout_s)):
            while num_bytes <= _MAX_LINGER_BYTES:
                message = await receive()
                num_bytes += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def client_disconnected(receive: Receive) -> None:
    """Return when the client has disconnected; to be called after its request has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
