"""Files -> blocks of frames_TC float32 at the rate of the file, in constant memory. The file's content selects the reader.

WAV and FLAC are read by soundfile, which reads them exactly and detects damage; everything else (mp3, ogg, opus, m4a,
webm, G.722, ...) is read by PyAV in `ffmpeg`.
"""

import io
import logging
import os
import shutil
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple, cast

import av
import soundfile

from zipasr.audio.ffmpeg import (
    HEADERLESS_FORMATS,
    PCM_FORMATS,
    av_blocks,
    first_num_channels,
    head_of,
    no_such_track,
    opened_track,
    reason,
    stated_duration_s,
)
from zipasr.audio.samples import STDIN, Block, FileOptions, check_rate, name_of, truncated
from zipasr.errors import AudioError
from zipasr.lfs import HEAD_BYTES, refuse_pointer

logger = logging.getLogger(__name__)

_KNOWN_SIGNATURES = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"\x1aE\xdf\xa3")
# Programs that write WAV to a pipe leave 0, 0xFFFFFFFF (FFmpeg) or 0x7FFFF000 and up (SoX) as the size of the data.
_WAV_LENGTH_UNKNOWN = 0x7FFFF000
# Some recorders include the header or padding in the WAV data size; a shortage of less than this is accepted.
_WAV_SLACK_S = 0.1
_BLOCK_FRAMES = 1 << 16  # a quarter of a megabyte per channel; large enough that the cost of a call does not matter
_MAX_BYTES_IN_MEMORY = 1 << 26


class _Selected(NamedTuple):
    """An open file and its reader."""

    file: BinaryIO
    headerless: str | None
    """Headerless format; None: the file has a header."""
    opened: soundfile.SoundFile | None
    """The file opened by soundfile; None: PyAV reads it."""


def file_blocks(source: object, options: FileOptions) -> Iterator[Block]:
    """Return the blocks of a file, read lazily; the options are checked at once.

    Raises:
        AudioError: while reading; at the end of the file if it is shorter than its header states.
        ValueError: `format` or `sample_rate_hz` contradict the source.
    """
    name, headerless = name_of(source), _headerless_format(source, options)

    def blocks() -> Iterator[Block]:
        with _selected(source, headerless, options) as found:
            if found.opened is not None:
                yield from _soundfile_blocks(found.opened, name, allow_damaged=options.allow_damaged)
            else:
                yield from av_blocks(found.file, name, found.headerless, options)

    return blocks()


def file_num_channels(source: object, options: FileOptions) -> int:
    """Return the number of channels, from the header where it can be trusted, else from the first decoded frame."""
    with _selected(source, _headerless_format(source, options), options) as found:
        if found.opened is not None:
            return int(found.opened.channels)
        with opened_track(found.file, name_of(source), found.headerless, options) as stream:
            return first_num_channels(stream)


def audio_duration_s(path: str | os.PathLike[str]) -> float:
    """Return the length of a recording in seconds, from its header if that states it, otherwise by decoding.

    The header is trusted: only `load_audio` finds damage inside the file. Lossy formats may state up to a packet
    more or less than they decode to.

    Raises:
        AudioError: as `load_audio`, for errors that are found without decoding.
    """
    name, options = name_of(path), FileOptions()
    with _selected(path, _headerless_format(path, options), options) as found:
        if found.opened is not None:
            return float(found.opened.frames / found.opened.samplerate)
        with opened_track(found.file, name, found.headerless, options) as stream:
            stated_s = stated_duration_s(stream, found.file)
        if stated_s is not None:
            return stated_s
        found.file.seek(0)
        return sum(len(block.frames_TC) / block.rate_hz for block in av_blocks(found.file, name, found.headerless, options))


# Selecting the reader


@contextmanager
def _selected(source: object, headerless: str | None, options: FileOptions) -> Iterator[_Selected]:
    """The open file of a source, of the `_headerless_format` or none, and its reader.

    Raises:
        AudioError: the source cannot be read; also for errors of the libraries inside the block.
    """
    name = name_of(source)
    with ExitStack() as stack:
        stack.enter_context(_file_errors(name))
        file = stack.enter_context(_opened(source, name))
        headerless = _without_signature(file, headerless, name, is_given=options.format is not None)
        opened: soundfile.SoundFile | None = None
        if headerless is None and _is_for_soundfile(file, name, allow_damaged=options.allow_damaged):
            file.seek(0)
            with suppress(soundfile.LibsndfileError):  # a codec that it does not know
                opened = stack.enter_context(soundfile.SoundFile(file))
            if opened is not None and opened.subtype.startswith("MPEG"):
                opened = None  # libsndfile stops early in mp3 of variable bit rate
        if opened is None:
            file.seek(0)
        else:
            _check_only_track(options.audio_track, opened, name)
        yield _Selected(file, headerless, opened)


def _headerless_format(source: object, options: FileOptions) -> str | None:
    """The headerless format that the options or the file name specify; None for a file with a header."""
    format, sample_rate_hz = options.format, options.sample_rate_hz
    if format is not None and format not in HEADERLESS_FORMATS:
        raise ValueError(
            f"format must be a headerless one ({', '.join(sorted(HEADERLESS_FORMATS))}), but is {format!r}; leave it out "
            "for files with a header, which states the format"
        )
    if format in PCM_FORMATS:
        if sample_rate_hz is None:
            raise ValueError(
                f"sample_rate_hz must be given with format={format!r}, but is None; raw samples do not state it"
            )
        return format
    if sample_rate_hz is not None:
        raise ValueError(
            f"sample_rate_hz must be None for {name_of(source)}, but is {sample_rate_hz}; files state their own rate, only "
            "arrays and raw samples (format='s16le' and the like) need it"
        )
    if format is None and isinstance(source, (str, os.PathLike)):
        suffix = os.path.splitext(os.fsdecode(source))[1].lower()
        return {".g722": "g722", ".gsm": "gsm"}.get(suffix)
    return format


def _without_signature(file: BinaryIO, headerless: str | None, name: str, *, is_given: bool) -> str | None:
    """The headerless format, or None for a file that starts as WAV, FLAC, Ogg, ... and so has a header after all."""
    if headerless is None or not head_of(file).startswith(_KNOWN_SIGNATURES):
        return headerless
    if is_given:
        raise AudioError(
            f"{name} must be headerless {headerless}, but is a file with a header ({head_of(file)[:4]!r}); leave format out"
        )
    return None


def is_pipe(source: object) -> bool:
    """Whether a source is a path that can be read only once: the standard input, a FIFO, a device."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = os.fsdecode(source)
    return path == STDIN or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


@contextmanager
def rereadable(source: object) -> Iterator[Any]:
    """The source as something that can be read several times: a copy of a pipe, everything else unchanged."""
    if not is_pipe(source):
        yield source
        return
    name = name_of(source)
    with ExitStack() as stack:
        with _file_errors(name):  # not around the yield: errors of the caller are not ours to convert
            copy = stack.enter_context(_opened(source, name))
        yield copy


@contextmanager
def _opened(source: object, name: str) -> Iterator[BinaryIO]:
    """The source as a seekable binary file of at least one byte; a file object is read from its position to its end."""
    if isinstance(source, (str, os.PathLike)):
        with _opened_path(source, name) as file:
            if is_pipe(source):
                with _copied(file, file.read(1), name) as copy:
                    yield copy
            else:
                _check_not_empty(os.fstat(file.fileno()).st_size, name)
                yield file
        return
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        _check_not_empty(len(data), name)
        yield io.BytesIO(data)
        return
    start = source.read(1) if hasattr(source, "read") else source
    if not isinstance(start, bytes):
        raise _CallerError(
            f"a source must be a path, bytes, a file opened in binary mode or an array, but is {type(source).__name__}"
            f"{' that reads ' + type(start).__name__ if start is not source else ''}; open files with mode 'rb'"
        )
    with _copied(cast(BinaryIO, source), start, name) as copy:
        yield copy


@contextmanager
def _opened_path(path: str | os.PathLike[str], name: str) -> Iterator[BinaryIO]:
    if os.fsdecode(path) != STDIN:
        with open(path, "rb") as file:
            refuse_pointer(file.peek(HEAD_BYTES), path, AudioError)
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and file.peek(1):  # /dev/zero has no end
                raise AudioError(f"{name} must be a recording, but is a device; record from it into a file or a pipe")
            yield file
        return
    yield standard_input(name)


def standard_input(name: str) -> BinaryIO:
    """The bytes of the standard input, which messages call `name`.

    Raises:
        AudioError: it is closed.
    """
    stdin = getattr(sys.stdin, "buffer", None)  # None: a program without a console
    if stdin is None or stdin.closed:
        raise AudioError(f"{name} must be a recording, but is closed; name a file")
    return cast(BinaryIO, stdin)


@contextmanager
def _copied(source: BinaryIO, start: bytes, name: str) -> Iterator[BinaryIO]:
    """A seekable copy of `start` and the rest of a file; on disk if it is larger than `_MAX_BYTES_IN_MEMORY`."""
    _check_not_empty(len(start), name)
    with tempfile.SpooledTemporaryFile(max_size=_MAX_BYTES_IN_MEMORY) as copy:
        copy.write(start)
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.seek(0)
        yield cast(BinaryIO, copy)


class _CallerError(ValueError):
    """A wrong argument found while the file is open; `_file_errors` passes it on, unlike a library's ValueError."""


def _check_not_empty(num_bytes: int, name: str) -> None:
    if num_bytes == 0:
        raise AudioError(f"{name} must be a recording, but has zero bytes; copy or record it again")


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    """Convert errors of the operating system, libsndfile and FFmpeg to AudioError."""
    try:
        yield
    except _CallerError:
        raise
    except FileNotFoundError as error:
        raise AudioError(f"{name} must be a recording, but there is no such file; check the path") from error
    except (IsADirectoryError, PermissionError) as error:
        raise AudioError(f"{name} must be a readable file, but is not: {error.strerror}; check the path") from error
    except (av.FFmpegError, soundfile.SoundFileError, OSError, ValueError, RuntimeError) as error:
        raise AudioError(
            f"{name} must be a whole recording, but has damaged or unsupported data ({reason(error)}); copy it again or "
            "convert it to WAV or FLAC"
        ) from error


# WAV and FLAC


def _is_for_soundfile(file: BinaryIO, name: str, *, allow_damaged: bool) -> bool:
    """Whether soundfile reads a file: WAV or FLAC of stated length. Raises for a truncated WAV."""
    head = head_of(file)
    if head[:4] == b"fLaC":
        file.seek(18)  # STREAMINFO: 36 bits number of samples end at byte 26; 0 is unknown, which libsndfile cannot read
        # FFmpeg continues after damage, soundfile does not.
        return not allow_damaged and int.from_bytes(file.read(8), "big") & 0xFFFFFFFFF != 0
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE" and _is_wav_of_stated_length(file, name, allow_damaged)


def _is_wav_of_stated_length(file: BinaryIO, name: str, allow_damaged: bool) -> bool:
    """Whether the data chunk of a WAV file states its length; raises if the file is shorter.

    libsndfile would silently return part of a truncated file, and nothing of one that was written to a pipe.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    riff_size = struct.unpack("<I", file.read(4))[0]
    chunks = _wav_chunks(file, size)
    if b"data" not in chunks:
        return False
    start, length = chunks[b"data"]
    present = size - start
    is_end_unknown = riff_size + 8 < size or riff_size >= _WAV_LENGTH_UNKNOWN
    if length >= _WAV_LENGTH_UNKNOWN or (length == 0 and present > 0 and is_end_unknown):
        return False
    bytes_per_s = 0
    if b"fmt " in chunks:
        file.seek(chunks[b"fmt "][0] + 8)
        bytes_per_s = int.from_bytes(file.read(4), "little")
    if length - present > _WAV_SLACK_S * bytes_per_s:
        if not allow_damaged:
            raise truncated(name, f"{length} bytes of samples", f"{present}")
        logger.warning("%s is truncated: it holds %d of %d bytes of samples", name, present, length)
    return True


def _wav_chunks(file: BinaryIO, size: int) -> dict[bytes, tuple[int, int]]:
    """Start and stated length of each chunk of a WAV file of `size` bytes, up to its samples."""
    chunks: dict[bytes, tuple[int, int]] = {}
    position = 12
    while position + 8 <= size and b"data" not in chunks:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        chunks[name] = (position + 8, length)
        position += 8 + length + length % 2
    return chunks


def _check_only_track(audio_track: int | None, opened: soundfile.SoundFile, name: str) -> None:
    """Raise AudioError for any track but the only one of a WAV or FLAC file."""
    if audio_track:
        raise no_such_track(audio_track, name, [f"{opened.format}, {opened.subtype}, {opened.channels} channels"])


def _soundfile_blocks(opened: soundfile.SoundFile, name: str, *, allow_damaged: bool) -> Iterator[Block]:
    rate_hz = int(opened.samplerate)
    check_rate(rate_hz, name)
    num_read = 0
    # In blocks: a header may state terabytes, which must not be allocated before the samples are read.
    while (frames_TC := opened.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)).size:
        num_read += len(frames_TC)
        yield Block(frames_TC, rate_hz)
    if num_read < opened.frames and not allow_damaged:
        raise truncated(name, f"{opened.frames} samples", f"{num_read}")
