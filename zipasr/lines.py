"""Text files: lines of UTF-8 or UTF-16 text to read, and JSON lines that are written completely or not at all."""

import codecs
import errno
import gzip
import io
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from zipasr.errors import DataError
from zipasr.lfs import HEAD_BYTES, refuse_pointer

MOST_BYTES = 1 << 28
"""Of a text that is read whole, and of a line: 256 MB, which no vocabulary, grammar or list of ours comes near."""
_BLOCK_BYTES = 1 << 20


def read_whole(path: str | os.PathLike[str], *, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a file that is held in memory: a regular one or a pipe.

    Raises:
        OSError: the file cannot be read, is a device, which has no end, or has more than `most_bytes`.
    """
    content = bytearray()
    with open(path, "rb") as file:
        refuse_device(file)
        while block := file.read(_BLOCK_BYTES):  # not all at once: Python reserves what it is told to read
            content += block
            if len(content) > most_bytes:
                raise OSError(errno.EFBIG, f"it has more than {most_bytes >> 20} MB", os.fspath(path))
    return bytes(content)


def refuse_device(file: io.BufferedReader) -> None:
    """Raise OSError for an open file that is a device without end, such as /dev/zero; a terminal and /dev/null have one."""
    if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty() and file.peek(1):
        raise OSError(errno.EINVAL, "it is a device, which has no end", file.name)


def bounded_lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Yield the lines of an open file with their ends; raise OSError for one of more than `MOST_BYTES`."""
    while line := file.readline(MOST_BYTES + 1):
        if len(line) > MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has a line of more than {MOST_BYTES >> 20} MB")
        yield line


def decode_text(content: bytes, errors: str = "strict") -> str:
    """The text of a file: UTF-8, or UTF-16 if it starts with a byte order mark.

    Args:
        content: the bytes of the whole file.
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`; UTF-16 must be right.
    Raises:
        UnicodeDecodeError: the bytes are not text.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig", errors)


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON document that somebody else may have written.

    Raises:
        ValueError: it is no JSON, or its lists and objects are nested so deeply that Python cannot read them.
    """
    try:
        return json.loads(content)
    except RecursionError as error:  # not a ValueError
        raise ValueError("lists or objects are nested too deeply") from error


def read_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a text file, gzipped or not, with their numbers from 1; None for a line that cannot be decoded.

    The file is UTF-8, or UTF-16 if it starts with a byte order mark.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as raw, gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as file:
            refuse_device(raw)
            refuse_pointer(raw.peek(HEAD_BYTES), path, DataError)
            if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                yield from _utf16_lines(file.read())
                return
            for number, line in enumerate(bounded_lines(file), start=1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    yield number, None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as text: {error}; check the path") from error


def _utf16_lines(content: bytes) -> Iterator[tuple[int, str | None]]:
    """The numbered lines of UTF-16 text; None alone if it cannot be decoded."""
    try:
        text = decode_text(content)
    except UnicodeDecodeError:
        yield 1, None
        return
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        yield number, line.rstrip("\n")


_numbers = itertools.count()
"""Of temporary files: several may be written in one folder at once."""


@contextmanager
def replacing(path: Path, *, follows_links: bool = True) -> Iterator[Path]:
    """Give the path to write a whole file to, which replaces the one at `path` when the block ends, or not at all.

    A link stays one, to the new file, or is itself replaced if links are not followed. What is no file, such as a pipe or
    /dev/null, is written to itself.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path)) if follows_links else path
    temporary = target.with_name(f".zipasr-{os.getpid()}-{next(_numbers)}.part")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def writing_rows(path: Path, *, follows_links: bool = True) -> Iterator[Callable[[Any], None]]:
    """Open a file of JSON lines for writing, gzipped if its name ends in `.gz`; it appears when the block ends, as for
    `replacing`.

    The same rows give the same bytes. A file name that is not UTF-8 has lone surrogates in Python; they are written as JSON
    escapes, from which they are read back unchanged.

    Yields:
        A function that writes one row.
    """
    with (
        replacing(path, follows_links=follows_links) as opened,
        opened.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw as file,
    ):

        def write(row: Any) -> None:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))

        yield write


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write a whole file of JSON lines; see `writing_rows`."""
    with writing_rows(path) as write:
        for row in rows:
            write(row)
