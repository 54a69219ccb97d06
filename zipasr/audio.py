"""Recordings in, samples out: a file, bytes or an array becomes (samples,) float32, mono, 16 kHz, about [-1, 1].

WAV and FLAC are read by soundfile, which reads them exactly and notices damage; everything else (mp3, ogg, opus, m4a,
webm, G.722, ...) by PyAV; soxr resamples. A recording that is shorter than its own header promises raises instead of
coming back cut. Formats whose header promises nothing (ogg, raw AAC, mp3 without a Xing frame, G.722, raw samples) give
whatever is there. No other file of zipasr opens audio.
"""

import io
import math
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np
import soundfile
import soxr

from zipasr.errors import AudioError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16_000
"""Rate of all samples inside zipasr."""

PCM_FORMATS = frozenset({"alaw", "mulaw", "s8", "u8"}) | {
    f"{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be")
}
"""Raw mono samples without a header, by FFmpeg's names; `format=` and `sample_rate_hz=` describe them."""
HEADERLESS_FORMATS = PCM_FORMATS | {"g722", "gsm"}
"""All that `format=` accepts. The last two have a fixed rate and are also known by their file names."""

# FFmpeg guesses among hundreds of formats, some of which fetch other files or URLs named inside (HLS, DASH, concat).
# Only formats that carry their own audio are allowed, so an upload cannot make the reader open anything else.
_ALLOWED_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,m4a,matroska,mj2,mov,mp2,mp3,mp4,mpeg,mpegts,"
    "nistsphere,ogg,tta,voc,w64,wav,webm,wv"
)
_LENGTH_IN_HEADER = frozenset({"aiff", "au", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "wav"} | HEADERLESS_FORMATS)
_KNOWN_SIGNATURES = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"\x1aE\xdf\xa3")
# Programs that write WAV into a pipe leave 0, 0xFFFFFFFF (FFmpeg) or 0x7FFFF000 and up (SoX) as the size of the data.
_WAV_LENGTH_UNKNOWN = 0x7FFFF000
# Some recorders count the header or padding into the WAV data size; a shortage of less than this is let pass.
_WAV_SLACK_S = 0.1
# Lossy formats round their stated length to packets (AAC up to 2048 samples) and count encoder delay in it, which
# weighs more in short recordings: the slack is at most half of what is stated.
_LENGTH_SLACK_S = 0.5
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 768_000
_MAX_ARRAY_CHANNELS = 8
_BLOCK_SAMPLES = 1 << 20


def load_audio(
    source: "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | torch.Tensor",
    *,
    sample_rate_hz: int | None = None,
    format: str | None = None,
    channel: int | None = None,
) -> np.ndarray:
    """Return any recording as mono float32 samples at 16 kHz.

    Args:
        source: a path; the bytes of a file; a binary file object, read to its end; or an array (numpy or torch):
            (samples,), (channels, samples) or (samples, channels), where the channels are the shorter axis, at most 8,
            and the other axis is longer than 8. Floats are taken as they are, integers of 8, 16 and 32 bits are scaled
            to [-1, 1).
        sample_rate_hz: rate of an array (default 16 kHz) or of headerless samples (required). Files state their own.
        format: name of a headerless format (`HEADERLESS_FORMATS`); needed unless the file name ends in .g722 or .gsm.
        channel: which channel to take, from 0; the mean of all without it.
    Returns:
        (samples,) float32; empty where the recording holds no samples.
    Raises:
        AudioError: missing, empty, unknown, damaged or cut file, no such channel, NaN or infinite samples.
        ValueError: an argument that contradicts the source or has no effect on it, or an array of unclear layout.
    """
    if channel is not None and channel < 0:
        raise ValueError(f"Expected channel to count from 0, got {channel}; leave it out for the mean of all channels.")
    if sample_rate_hz is not None and not _MIN_RATE_HZ <= sample_rate_hz <= _MAX_RATE_HZ:
        raise ValueError(f"Expected sample_rate_hz from {_MIN_RATE_HZ} to {_MAX_RATE_HZ}, got {sample_rate_hz}.")
    array = _as_array(source)
    if array is not None:
        if format is not None:
            raise ValueError(f"Expected no format for an array, got format={format!r}; leave it out.")
        name, samples = "the array", _array_to_mono(array, channel)
        rate_hz = SAMPLE_RATE_HZ if sample_rate_hz is None else sample_rate_hz
    else:
        name = _name_of(source)
        headerless = _headerless_format(source, format, sample_rate_hz)
        with _file_errors(name), _opened(source, name) as file:
            headerless = _without_signature(file, headerless, name, is_given=format is not None)
            samples, rate_hz = _read_file(file, name, headerless, sample_rate_hz, channel)
            _check_rate(rate_hz, name)
    if not np.isfinite(samples).all():
        num_bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise AudioError(
            f"Expected finite samples in {name}, got {num_bad} that are NaN or infinite out of {samples.size}; "
            "record or export it again."
        )
    return _resample(samples, rate_hz)


def audio_duration_s(path: str | os.PathLike[str]) -> float:
    """Return the length of a recording in seconds, from its header where that tells, by decoding it otherwise.

    A header is believed: damage inside the file shows only in `load_audio`. Lossy formats may state up to a packet
    more or less than they decode to.

    Raises:
        AudioError: as `load_audio`, for what can be seen without decoding.
    """
    name = _name_of(path)
    headerless = _headerless_format(path, None, None)
    with _file_errors(name), _opened(path, name) as file:
        headerless = _without_signature(file, headerless, name, is_given=False)
        if headerless is None and _is_for_soundfile(file, name):
            with _soundfile_or_none(file) as sound:
                if sound is not None:
                    return float(sound.frames / sound.samplerate)
        file.seek(0)
        with _opened_by_av(file, name, headerless, None) as container:
            stream = _audio_stream(container, name)
            promised_s = _promised_s(container, stream, file)
            if promised_s is not None:
                return promised_s
            return sum(frame.samples / frame.sample_rate for frame in _frames(container, stream))


def save_flac(path: str | os.PathLike[str], samples: np.ndarray) -> None:
    """Write mono 16 kHz samples as 16-bit FLAC, whole or not at all: a temporary file beside it is renamed into place.

    Samples outside [-1, 1) are clipped. What came from 16-bit audio at 16 kHz is written back bit for bit.

    Raises:
        ValueError: not (samples,) of floats, no samples, or not finite.
        AudioError: the file cannot be written (missing folder, full disk, no permission).
    """
    if samples.ndim != 1 or samples.size == 0 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(
            f"Expected one or more samples (samples,) of floats to save, got shape {samples.shape} of {samples.dtype}; "
            "load_audio gives them so, and a FLAC file cannot be empty."
        )
    if not np.isfinite(samples).all():
        raise ValueError("Expected finite samples to save, got NaN or infinite ones; check them with numpy.isfinite.")
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
            f"Expected to write {path}, got: {error.strerror or error}; check the folder, its permissions and its free "
            "space."
        ) from error


# Arrays


def _as_array(source: object) -> np.ndarray | None:
    """The samples of an array or a torch tensor (known by its methods: audio does not need torch), None for a file."""
    if hasattr(source, "detach") and hasattr(source, "is_floating_point"):
        tensor = source.detach().cpu()
        source = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return source if isinstance(source, np.ndarray) else None


def _array_to_mono(array: np.ndarray, channel: int | None) -> np.ndarray:
    if array.ndim not in (1, 2):
        raise ValueError(f"Expected an array of (samples,) or two axes, got shape {array.shape}; flatten it.")
    scaled = _scaled(array)
    if scaled.size == 0:
        return np.zeros(0, np.float32)
    if scaled.ndim == 1:
        frames_TC = scaled[:, None]
    else:
        shorter, longer = sorted(scaled.shape)
        if shorter > _MAX_ARRAY_CHANNELS or (shorter > 1 and longer <= _MAX_ARRAY_CHANNELS):
            raise ValueError(
                f"Expected one axis of at most {_MAX_ARRAY_CHANNELS} channels and one of more samples than that, got "
                f"shape {array.shape}, which can be read either way or not at all; pass one channel as (samples,)."
            )
        frames_TC = scaled if scaled.shape[1] == shorter else scaled.T
    if channel is not None and channel >= frames_TC.shape[1]:
        raise ValueError(f"Expected a channel below {frames_TC.shape[1]} for shape {array.shape}, got {channel}.")
    return _mixed(frames_TC, channel)


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Samples of any type as float32, integers divided by half their range."""
    if samples.dtype == np.uint8:  # 8-bit audio is unsigned, its silence 128
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int8, np.int16, np.int32):
        return (samples / float(np.iinfo(samples.dtype).max + 1)).astype(np.float32)
    if np.issubdtype(samples.dtype, np.floating):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the caller reports
            return samples.astype(np.float32)
    raise ValueError(
        f"Expected samples as floats or as integers of 8, 16 or 32 bits, got {samples.dtype}; convert them, "
        "for example with samples.astype('int16')."
    )


def _mixed(frames_TC: np.ndarray, channel: int | None) -> np.ndarray:
    if channel is not None:
        return np.ascontiguousarray(frames_TC[:, channel])
    if frames_TC.shape[1] == 1:
        return np.ascontiguousarray(frames_TC[:, 0])
    return frames_TC.mean(axis=1, dtype=np.float32)


def _resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    if rate_hz == SAMPLE_RATE_HZ or samples.size == 0:
        return samples
    return np.ascontiguousarray(soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="VHQ"), dtype=np.float32)


def _check_rate(rate_hz: int, name: str) -> None:
    if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
        raise AudioError(
            f"Expected a sample rate of {_MIN_RATE_HZ} to {_MAX_RATE_HZ} Hz for {name}, got {rate_hz}; the header is "
            "damaged or the rate was given in other units."
        )


# Files: which reader, with what


def _name_of(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    return "the bytes" if isinstance(source, (bytes, bytearray, memoryview)) else "the file object"


def _headerless_format(source: object, format: str | None, sample_rate_hz: int | None) -> str | None:
    """The headerless format that the arguments or the file name ask for, None for a file with a header."""
    if format is not None and format not in HEADERLESS_FORMATS:
        raise ValueError(
            f"Expected format to name a headerless format ({', '.join(sorted(HEADERLESS_FORMATS))}), got {format!r}; "
            "leave it out for files with a header, they say themselves what they are."
        )
    if format in PCM_FORMATS:
        if sample_rate_hz is None:
            raise ValueError(f"Expected sample_rate_hz with format={format!r}, got none; raw samples do not state it.")
        return format
    if sample_rate_hz is not None:
        raise ValueError(
            f"Expected no sample_rate_hz for {_name_of(source)}, got {sample_rate_hz}; files state their own rate, "
            "only arrays and raw samples (format='s16le' and the like) need it."
        )
    if format is None and isinstance(source, (str, os.PathLike)):
        suffix = os.path.splitext(os.fsdecode(source))[1].lower()
        return {".g722": "g722", ".gsm": "gsm"}.get(suffix)
    return format


def _without_signature(file: BinaryIO, headerless: str | None, name: str, *, is_given: bool) -> str | None:
    """Withdraw a headerless format from a file that begins as WAV, FLAC, Ogg, ... and so has a header after all."""
    if headerless is None or not _head(file).startswith(_KNOWN_SIGNATURES):
        return headerless
    if is_given:
        raise AudioError(
            f"Expected headerless {headerless} in {name}, got a file with a header ({_head(file)[:4]!r}); leave format out."
        )
    return None


@contextmanager
def _opened(source: object, name: str) -> Iterator[BinaryIO]:
    """The source as a seekable binary file that holds at least one byte."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            _check_not_empty(os.fstat(file.fileno()).st_size, name)
            yield file
        return
    if isinstance(source, (bytes, bytearray, memoryview)):
        data: object = bytes(source)
    elif hasattr(source, "read"):
        data = source.read()
    else:
        data = source
    if not isinstance(data, bytes):
        raise _CallerError(
            f"Expected a path, bytes, a file opened in binary mode or an array, got {type(source).__name__}"
            f"{' that reads ' + type(data).__name__ if data is not source else ''}; open files with mode 'rb'."
        )
    _check_not_empty(len(data), name)
    yield io.BytesIO(data)


class _CallerError(ValueError):
    """A caller's mistake seen while the file is open; `_file_errors` lets it pass, unlike a library's ValueError."""


def _check_not_empty(num_bytes: int, name: str) -> None:
    if num_bytes == 0:
        raise AudioError(f"Expected a recording in {name}, got zero bytes; copy or record it again.")


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    """Turn what the operating system, libsndfile and FFmpeg raise into AudioError."""
    try:
        yield
    except _CallerError:
        raise
    except FileNotFoundError as error:
        raise AudioError(f"Expected a recording at {name}, got no such file; check the path.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise AudioError(f"Expected a readable file at {name}, got: {error.strerror}; check the path.") from error
    except (av.FFmpegError, soundfile.SoundFileError, OSError, ValueError, RuntimeError) as error:
        raise AudioError(
            f"Expected a whole recording in {name}, got damaged or unsupported data ({_reason(error)}); copy it again "
            "or convert it to WAV or FLAC."
        ) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return str(text).strip().rstrip(".") or type(error).__name__


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(12)


def _read_file(
    file: BinaryIO, name: str, headerless: str | None, sample_rate_hz: int | None, channel: int | None
) -> tuple[np.ndarray, int]:
    """Samples (samples,) float32 of one file and their rate."""
    if headerless is None and _is_for_soundfile(file, name):
        with _soundfile_or_none(file) as sound:
            if sound is not None:
                return _read_by_soundfile(sound, name, channel), int(sound.samplerate)
    file.seek(0)
    return _read_by_av(file, name, headerless, sample_rate_hz, channel)


def _check_channel(channel: int | None, num_channels: int, name: str) -> None:
    if channel is not None and channel >= num_channels:
        raise AudioError(f"Expected more than {channel} channels in {name}, got {num_channels}; channels count from 0.")


def _truncated(name: str, promised: str, found: str) -> AudioError:
    return AudioError(
        f"Expected {promised} in {name} as its header says, got {found}: the file is cut; copy or download it again."
    )


# WAV and FLAC


def _is_for_soundfile(file: BinaryIO, name: str) -> bool:
    """Whether a file is WAV or FLAC of stated length, which soundfile reads exactly; raises for a WAV that was cut."""
    head = _head(file)
    if head[:4] == b"fLaC":
        file.seek(18)  # STREAMINFO: 36 bits number of samples end at byte 26; 0 is unknown, which libsndfile cannot read
        return int.from_bytes(file.read(8), "big") & 0xFFFFFFFFF != 0
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE" and _is_wav_of_stated_length(file, name)


def _is_wav_of_stated_length(file: BinaryIO, name: str) -> bool:
    """Walk the chunks of a WAV file to its data. libsndfile would give a cut file, or none of a piped one, silently."""
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    riff_size = struct.unpack("<I", file.read(4))[0]
    position, bytes_per_s = 12, 0
    while position + 8 <= size:
        file.seek(position)
        chunk, length = struct.unpack("<4sI", file.read(8))
        if chunk == b"fmt " and position + 24 <= size:
            bytes_per_s = struct.unpack("<8xI", file.read(12))[0]
        if chunk == b"data":
            present = size - position - 8
            if length >= _WAV_LENGTH_UNKNOWN or (length == 0 and present > 0 and riff_size + 8 < size):
                return False
            if length - present > _WAV_SLACK_S * bytes_per_s:
                raise _truncated(name, f"{length} bytes of samples", f"{present}")
            return True
        position += 8 + length + length % 2
    return False


@contextmanager
def _soundfile_or_none(file: BinaryIO) -> Iterator[soundfile.SoundFile | None]:
    """The file opened by soundfile, or None where it does not know the codec inside."""
    file.seek(0)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError:
        sound = None
    if sound is not None and sound.subtype.startswith("MPEG"):  # libsndfile stops early in mp3 of varying bit rate
        sound.close()
        sound = None
    if sound is None:
        yield None
        return
    with sound:
        yield sound


def _read_by_soundfile(sound: soundfile.SoundFile, name: str, channel: int | None) -> np.ndarray:
    _check_channel(channel, sound.channels, name)
    blocks: list[np.ndarray] = []
    num_read = 0
    # In blocks: a header may promise terabytes, which must not be allocated before the samples are seen.
    while (frames_TC := sound.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)).size:
        num_read += len(frames_TC)
        blocks.append(_mixed(frames_TC, channel))
    if num_read < sound.frames:
        raise _truncated(name, f"{sound.frames} samples", f"{num_read}")
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


# Everything else, by FFmpeg


@contextmanager
def _opened_by_av(
    file: BinaryIO, name: str, headerless: str | None, sample_rate_hz: int | None
) -> Iterator["av.container.InputContainer"]:
    options = {"format_whitelist": headerless or _ALLOWED_CONTAINERS}
    if headerless in PCM_FORMATS:
        options["sample_rate"] = str(sample_rate_hz)
    try:
        container = av.open(file, format=headerless, options=options, metadata_errors="replace")
    except (av.InvalidDataError, av.ArgumentError) as error:
        raise AudioError(
            "Expected a recording (wav, flac, mp3, ogg, opus, m4a, webm, ...) in "
            f"{name}, got an unknown or damaged format that begins {_head(file)!r}; convert it to WAV or "
            "FLAC, or name a headerless format, for example format='g722'."
        ) from error
    with container:
        yield container


def _audio_stream(container: "av.container.InputContainer", name: str) -> "av.AudioStream":
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:  # no context: a codec that this FFmpeg does not know
        raise AudioError(
            f"Expected an audio track of a known codec in {name}, got a {container.format.name} file without one; "
            "export its sound as WAV or FLAC."
        )
    if container.format.name == "flac":
        stream.codec_context.options = {"err_detect": "crccheck+explode"}  # FFmpeg would pass over damaged frames
    return stream


def _frames(container: "av.container.InputContainer", stream: "av.AudioStream") -> Iterator["av.AudioFrame"]:
    """Decoded frames. Damage raises, except in mp3, where players step over junk between and after the frames."""
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.InvalidDataError:
            if container.format.name != "mp3":
                raise
            continue
        yield from decoded


def _read_by_av(
    file: BinaryIO, name: str, headerless: str | None, sample_rate_hz: int | None, channel: int | None
) -> tuple[np.ndarray, int]:
    with _opened_by_av(file, name, headerless, sample_rate_hz) as container:
        stream = _audio_stream(container, name)
        promised_s = _promised_s(container, stream, file)
        rate_hz = int(stream.rate or 0)
        _check_rate(rate_hz, name)
        blocks: list[np.ndarray] = []
        for frame in _frames(container, stream):
            if frame.sample_rate != rate_hz:
                if blocks:
                    raise AudioError(
                        f"Expected one sample rate in {name}, got {rate_hz} Hz and then {frame.sample_rate} Hz; "
                        "convert it to WAV or FLAC."
                    )
                rate_hz = frame.sample_rate
            blocks.append(_frame_to_mono(frame, channel, name))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    found_s = samples.size / rate_hz
    if promised_s is not None and found_s < promised_s - min(_LENGTH_SLACK_S, promised_s / 2):
        raise _truncated(name, f"{promised_s:.2f} s", f"{found_s:.2f} s")
    if samples.size == 0 and container.format.name == "mp3":
        raise AudioError(f"Expected mp3 frames in {name}, got none that decodes; convert it to WAV or FLAC.")
    return samples, rate_hz


def _frame_to_mono(frame: "av.AudioFrame", channel: int | None, name: str) -> np.ndarray:
    num_channels = frame.layout.nb_channels
    _check_channel(channel, num_channels, name)
    samples = _scaled(frame.to_ndarray())
    return _mixed(samples.T if frame.format.is_planar else samples.reshape(-1, num_channels), channel)


def _promised_s(container: "av.container.InputContainer", stream: "av.AudioStream", file: BinaryIO) -> float | None:
    """Length in seconds that the header states; None where FFmpeg's figure is only its guess from the bit rate."""
    limit_s = math.inf
    if container.format.name == "mp3":
        # With junk behind the sound FFmpeg mistrusts the header and guesses, so its figure is held against the header.
        limit_s = _xing_length_s(file, stream.rate)
    elif container.format.name not in _LENGTH_IN_HEADER:
        return None
    if limit_s == 0:
        return None
    if stream.duration:
        return min(float(stream.duration * stream.time_base), limit_s)
    if container.duration and len(container.streams) == 1:
        return float(min(container.duration / av.time_base, limit_s))
    return None


def _xing_length_s(file: BinaryIO, rate_hz: int) -> float:
    """Length that the first frame of an mp3 states (Xing or Info tag, flag 1), encoder delay included; 0 without it."""
    resume_at = file.tell()
    head = _head(file)
    start = 0
    if head[:3] == b"ID3":  # ID3v2: its size as four bytes of seven bits
        start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(64)
    file.seek(resume_at)
    for tag in (b"Xing", b"Info"):
        at = frame.find(tag)
        if at >= 0 and len(frame) >= at + 12:
            flags, num_frames = struct.unpack(">II", frame[at + 4 : at + 12])
            if flags & 1:
                return num_frames * (1152 if rate_hz >= 32_000 else 576) / rate_hz  # MPEG-1 : MPEG-2 and 2.5
    return 0.0
