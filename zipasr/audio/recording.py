"""Recordings -> samples (samples,) float32, mono, 16 kHz: whole, or as blocks in constant memory; and back to FLAC."""

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import soundfile
import soxr

from zipasr.audio.file import file_blocks, file_num_channels, is_pipe
from zipasr.audio.samples import (
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    SAMPLE_RATE_HZ,
    Block,
    FileOptions,
    channel_to_keep,
    check_channel,
    check_samples,
    mixed,
    name_of,
    scaled,
)
from zipasr.errors import AudioError, ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_MAX_ARRAY_CHANNELS = 8
_BATCH_SAMPLES = 1 << 16  # FFmpeg decodes about a thousand samples at a time; resampling so few is mostly call overhead

AUDIO_SUFFIXES = frozenset(
    ".3g2 .3gp .aac .ac3 .aif .aifc .aiff .amr .ape .asf .au .avi .awb .caf .eac3 .flac .flv .g722 .gsm .m2ts .m4a "
    ".m4b .m4v .mka .mkv .mov .mp2 .mp3 .mp4 .mpeg .mpg .oga .ogg .ogv .opus .snd .spx .sph .tta .voc .w64 .wav .wave "
    ".weba .webm .wma .wmv .wv".split()
)
"""Suffixes of files in a folder that count as recordings. Without .ts and .mts, which are mostly programs in TypeScript."""


def load_audio(
    source: "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | torch.Tensor",
    *,
    sample_rate_hz: int | None = None,
    format: str | None = None,
    channel: int | None = None,
    audio_track: int | None = None,
    allow_damaged: bool = False,
) -> np.ndarray:
    """Return any recording as mono float32 samples at 16 kHz.

    Where a file stores timestamps, every sample is placed at its timestamp: a gap becomes silence, so does the time before
    an audio track that starts after the video, and overlaps are dropped. Timestamps off by less than 0.1 s change nothing.

    Args:
        source: a path; the bytes of a file; a binary file object, read to its end; or an array (numpy or torch):
            (samples,), (channels, samples) or (samples, channels), where the channels are the shorter axis, at most 8,
            and the other axis is longer than 8. Floats are used as they are, integers of 8, 16 and 32 bits are scaled
            to [-1, 1). A path may be a pipe; "-" is the standard input.
        sample_rate_hz: rate of an array (default 16 kHz) or of headerless samples (required). Files state their own.
        format: name of a headerless format (`HEADERLESS_FORMATS`); needed unless the file name ends in .g722 or .gsm.
        channel: which channel to use, from 0. None: the mean of all channels, or, where they cancel each other (one has
            inverted polarity), one of them, which is logged as a warning.
        audio_track: which audio track of a file to use, from 0; None: its default one.
        allow_damaged: whether to accept a damaged or truncated file. Silence then replaces what cannot be decoded, and
            a warning says where; by default such a file raises.
    Returns:
        (samples,) float32; empty if the recording has no samples.
    Raises:
        AudioError: missing, empty, unknown, damaged or truncated file, no such channel or track, or samples that are NaN,
            infinite or beyond 10, such as 16-bit integers passed as floats.
        ValueError: an argument that contradicts the source or has no effect on it, or an array of unclear layout.
    """
    native = _native_blocks(source, channel, FileOptions(sample_rate_hz, format, audio_track, allow_damaged))
    blocks = list(_resampled(native, channel, name_of(source)))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def read_blocks(
    source: "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | torch.Tensor",
    *,
    block_s: float = 10.0,
    sample_rate_hz: int | None = None,
    format: str | None = None,
    channel: int | None = None,
    audio_track: int | None = None,
    allow_damaged: bool = False,
) -> Iterator[np.ndarray]:
    """Return any recording as consecutive blocks of mono float32 samples at 16 kHz, read lazily.

    Concatenated, the blocks are what `load_audio` returns, bit for bit. Memory does not grow with the recording; a file
    object larger than 64 MB is copied to a temporary file, since not all of them can seek.

    Args:
        block_s: seconds per block; the last block may be shorter. The other arguments are those of `load_audio`.
    Returns:
        Nonempty blocks (samples,) float32; no block at all if the recording has no samples.
    Raises:
        AudioError: as `load_audio`, but while reading: damage is found when it is reached, truncation at the end.
        ValueError: as `load_audio`, at once, or `block_s` is shorter than a sample.
    """
    if not block_s * SAMPLE_RATE_HZ >= 1:
        raise ValueError(f"block_s must be at least one sample, {1 / SAMPLE_RATE_HZ} s, but is {block_s}")
    native = _native_blocks(source, channel, FileOptions(sample_rate_hz, format, audio_track, allow_damaged))
    return _regrouped(_resampled(native, channel, name_of(source)), round(block_s * SAMPLE_RATE_HZ))


def num_channels(
    source: "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | torch.Tensor",
    *,
    sample_rate_hz: int | None = None,
    format: str | None = None,
    audio_track: int | None = None,
    allow_damaged: bool = False,
) -> int:
    """Return the number of channels of a recording, decoding at most its first frames.

    Args:
        source: not a pipe; a file object must be able to seek and keeps its position. The other arguments are those of
            `load_audio`.
    Raises:
        AudioError: as `load_audio`, for errors that the start of the file shows.
        ValueError: as `load_audio`, or a pipe or a file object that cannot seek.
    """
    array, options = _as_array(source), FileOptions(sample_rate_hz, format, audio_track, allow_damaged)
    _check_arguments(array, None, options)
    if array is not None:
        return _frames_of(array).shape[1]
    if is_pipe(source):
        raise ValueError(f"a source must be readable again, but is {name_of(source)}, a pipe; read it and pass its bytes")
    with ExitStack() as stack:
        if hasattr(source, "read"):
            file = cast(BinaryIO, source)
            if not (hasattr(file, "seekable") and file.seekable()):
                raise ValueError("a file object must be able to seek, but this one cannot; read it and pass its bytes")
            stack.callback(file.seek, file.tell())
        return file_num_channels(source, options)


def save_flac(path: str | os.PathLike[str], samples: np.ndarray) -> None:
    """Write mono 16 kHz samples as 16-bit FLAC, atomically: a temporary file in the same folder is renamed.

    Samples outside [-1, 1) are clipped. Samples of 16-bit audio at 16 kHz are written back bit for bit.

    Raises:
        ValueError: `samples` is not (samples,) of floats, is empty or is not finite.
        AudioError: the file cannot be written (missing folder, full disk, no permission).
    """
    if samples.ndim != 1 or samples.size == 0 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(
            f"samples to save must be (samples,) of one or more floats, but have shape {samples.shape} of {samples.dtype}; "
            "load_audio returns them so, and a FLAC file cannot be empty"
        )
    if not np.isfinite(samples).all():
        raise ValueError("samples to save must be finite, but some are NaN or infinite; check them with numpy.isfinite")
    # libsndfile multiplies floats by 32767 but divides by 32768 when it reads: rounding here keeps 16-bit audio exact.
    codes = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, codes, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(encoded.getbuffer())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise AudioError(
            f"{path} must be writable, but is not: {error.strerror or error}; check the folder, its permissions and its "
            "free space"
        ) from error


def _check_arguments(array: np.ndarray | None, channel: int | None, options: FileOptions) -> None:
    """Raise ValueError for arguments that are wrong for any file."""
    sample_rate_hz, format, audio_track, _ = options
    if channel is not None and channel < 0:
        raise ConfigError(f"channel must be 0 or more, but is {channel}; leave it out for the mean of all channels")
    if audio_track is not None and audio_track < 0:
        raise ConfigError(f"audio_track must be 0 or more, but is {audio_track}; leave it out for the default track")
    if sample_rate_hz is not None and not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
        raise ValueError(f"sample_rate_hz must be {MIN_RATE_HZ} to {MAX_RATE_HZ}, but is {sample_rate_hz}")
    if array is not None and format is not None:
        raise ValueError(f"format must be None for an array, but is {format!r}; leave it out")
    if array is not None and audio_track is not None:
        raise ValueError(f"audio_track must be None for an array, but is {audio_track}; leave it out")


def _native_blocks(source: object, channel: int | None, options: FileOptions) -> Iterator[Block]:
    """Blocks of all channels at the recording's own rate, read lazily; wrong arguments raise at once."""
    array = _as_array(source)
    _check_arguments(array, channel, options)
    if array is None:
        return file_blocks(source, options)
    frames_TC = _frames_of(array)
    if channel is not None and channel >= frames_TC.shape[1] and len(frames_TC):
        raise ValueError(f"channel must be below {frames_TC.shape[1]} for shape {array.shape}, but is {channel}")
    rate_hz = SAMPLE_RATE_HZ if options.sample_rate_hz is None else options.sample_rate_hz
    return (
        Block(scaled(frames_TC[start : start + _BATCH_SAMPLES]), rate_hz)
        for start in range(0, len(frames_TC), _BATCH_SAMPLES)
    )


def _as_array(source: object) -> np.ndarray | None:
    """The samples of an array or a torch tensor (detected by its methods: audio does not need torch); None for a file."""
    if hasattr(source, "detach") and hasattr(source, "is_floating_point"):
        tensor = source.detach().cpu()
        source = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return source if isinstance(source, np.ndarray) else None


def _frames_of(array: np.ndarray) -> np.ndarray:
    """A view of an array as frames_TC."""
    if array.ndim not in (1, 2):
        raise ValueError(f"an array must be (samples,) or have two axes, but has shape {array.shape}; flatten it")
    scaled(array[:0])  # raises for types that cannot be samples
    if array.ndim == 1:
        return array[:, None]
    shorter, longer = sorted(array.shape)
    if array.size == 0:
        return array.reshape(0, max(shorter, 1))
    if shorter > _MAX_ARRAY_CHANNELS or (shorter > 1 and longer <= _MAX_ARRAY_CHANNELS):
        raise ValueError(
            f"an array must have one axis of at most {_MAX_ARRAY_CHANNELS} channels and one of more samples than that, but "
            f"has shape {array.shape}, whose layout is ambiguous or unknown; pass one channel as (samples,)"
        )
    return array if array.shape[1] == shorter else array.T


def _resampled(blocks: Iterator[Block], channel: int | None, name: str) -> Iterator[np.ndarray]:
    """Mono blocks at 16 kHz from blocks at any rate, bit for bit what resampling the whole recording at once gives."""
    resampler: soxr.ResampleStream | None = None
    try:
        for samples, rate_hz in _mono(blocks, channel, name):
            if rate_hz == SAMPLE_RATE_HZ:
                yield samples
                continue
            if resampler is None:
                resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="VHQ")
            yield resampler.resample_chunk(samples)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    finally:
        resampler = None  # its library prints a report of leaks if the traceback of an error keeps it to the end


def _mono(blocks: Iterator[Block], channel: int | None, name: str) -> Iterator[tuple[np.ndarray, int]]:
    """Checked samples (samples,) of one channel or of the mix, and their rate."""
    num_samples = 0
    has_warned = False
    for frames_TC, rate_hz in _batched(blocks):
        check_channel(channel, frames_TC.shape[1], name)
        samples = mixed(frames_TC, channel)
        if channel is None and frames_TC.shape[1] > 1 and (kept := channel_to_keep(frames_TC, samples)) is not None:
            samples = mixed(frames_TC, kept)
            if not has_warned:
                has_warned = True
                logger.warning(
                    "the channels of %s cancel each other from %.2f s on (one is in antiphase); channel %d is used "
                    "instead of their mean",
                    name,
                    num_samples / rate_hz,
                    kept,
                )
        check_samples(samples, rate_hz, num_samples, name)
        num_samples += len(samples)
        yield samples, rate_hz


def _batched(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same frames, all at one rate, in blocks of at least `_BATCH_SAMPLES`; shorter ones are the last, and the last
    before the number of channels changes."""
    waiting: list[Block] = []
    num_waiting = 0
    for block in blocks:
        if waiting and waiting[0].frames_TC.shape[1] != block.frames_TC.shape[1]:
            yield _joined(waiting)
            waiting, num_waiting = [], 0
        waiting.append(block)
        num_waiting += len(block.frames_TC)
        if num_waiting >= _BATCH_SAMPLES:
            yield _joined(waiting)
            waiting, num_waiting = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[Block]) -> Block:
    return blocks[0] if len(blocks) == 1 else Block(np.concatenate([b.frames_TC for b in blocks]), blocks[0].rate_hz)


def _regrouped(blocks: Iterator[np.ndarray], block_samples: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of `block_samples`, the last one shorter."""
    waiting: list[np.ndarray] = []
    num_waiting = 0
    for block in blocks:
        waiting.append(block)
        num_waiting += len(block)
        if num_waiting < block_samples:
            continue
        joined = np.concatenate(waiting)
        end = num_waiting - num_waiting % block_samples
        for start in range(0, end, block_samples):
            yield joined[start : start + block_samples]
        waiting, num_waiting = [joined[end:].copy()], num_waiting - end
    if num_waiting:
        yield np.concatenate(waiting)
