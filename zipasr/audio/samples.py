"""Operations on samples that all readers share: scale, mix to mono, check. Shapes (samples,) or frames_TC, any rate."""

import os
from typing import NamedTuple

import numpy as np

from zipasr.errors import AudioError

SAMPLE_RATE_HZ = 16_000
"""Rate of all samples inside zipasr, in Hz."""

STDIN = "-"
"""The path that means the standard input; a file of this name is ./-"""

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000

MAX_LEVEL = 10.0
"""Largest absolute value of a sample. Loud masters in floats exceed 1, but not by 20 dB; 16-bit integers passed as floats
reach 32768."""
INT16_CURE = "if it is int16 as floats, divide by 32768"
ANOTHER_FILE_CURE = "record or export it again"
"""The cure for samples beyond `MAX_LEVEL`; short, since the close reason of a WebSocket is limited to 123 bytes."""
ALLOW_DAMAGED_CURE = ", or take what can be decoded with --allow-damaged (in Python allow_damaged=True)"
"""The second cure for a damaged recording, which no client of a server can follow."""
_CANCELED = 0.2
"""Channels cancel each other where the power of their mix is below this share of the power that a mix of unrelated channels
has. For stereo that is 10 dB below the channels, a correlation of -0.8; two microphones and wide stereo stay above -0.5."""


class Block(NamedTuple):
    """Consecutive frames_TC float32 with any number of channels, and their rate."""

    frames_TC: np.ndarray
    rate_hz: int


class FileOptions(NamedTuple):
    """How to read a file: arguments of `load_audio`, which describes them."""

    sample_rate_hz: int | None = None
    format: str | None = None
    audio_track: int | None = None
    allow_damaged: bool = False


def name_of(source: object) -> str:
    """The name of a source in messages."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        return "the standard input" if path == STDIN else path
    if isinstance(source, np.ndarray) or hasattr(source, "is_floating_point"):  # the second: a tensor
        return "the array"
    return "the bytes" if isinstance(source, (bytes, bytearray, memoryview)) else "the file object"


def scaled(samples: np.ndarray) -> np.ndarray:
    """A copy of samples of any type as float32; integers are divided by half their range."""
    if samples.dtype == np.uint8:  # 8-bit audio is unsigned, its silence 128
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.newbyteorder("=") in (np.int8, np.int16, np.int32):
        return (samples / float(np.iinfo(samples.dtype).max + 1)).astype(np.float32)
    if np.issubdtype(samples.dtype, np.floating):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the caller reports
            return samples.astype(np.float32)
    raise ValueError(
        f"samples must be floats or integers of 8, 16 or 32 bits, but are {samples.dtype}; convert them, for example with "
        "samples.astype('int16')"
    )


def mixed(frames_TC: np.ndarray, channel: int | None) -> np.ndarray:
    """One channel of frames, or the mean of all channels: (samples,) float32."""
    if channel is not None:
        return np.ascontiguousarray(frames_TC[:, channel])
    if frames_TC.shape[1] == 1:
        return np.ascontiguousarray(frames_TC[:, 0])
    return frames_TC.mean(axis=1, dtype=np.float32)


def channel_to_keep(frames_TC: np.ndarray, mix: np.ndarray) -> int | None:
    """The channel to use instead of the mean where channels cancel each other, as in antiphase; otherwise None."""
    num_channels = frames_TC.shape[1]
    powers = np.square(frames_TC, dtype=np.float64).mean(axis=0)
    if not np.square(mix, dtype=np.float64).mean() < _CANCELED * powers.mean() / num_channels:
        return None
    return int((powers >= powers.max() / 2).argmax())  # not the loudest: the choice would alternate between equal channels


def check_channel(channel: int | None, num_channels: int, name: str) -> None:
    """Raise AudioError for a channel that a file does not have."""
    if channel is not None and channel >= num_channels:
        raise AudioError(f"{name} must have a channel {channel}, but has {num_channels}; channels count from 0")


def check_rate(rate_hz: int, name: str) -> None:
    """Raise AudioError for a sample rate that no recording has."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"the sample rate of {name} must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, but is {rate_hz}; the header is damaged "
            "or the rate was given in other units"
        )


def check_samples(samples: np.ndarray, rate_hz: int, start_samples: int, name: str) -> None:
    """Raise AudioError for samples that cannot be audio: NaN, infinite or far beyond full scale.

    Args:
        samples: (samples,) float32 at `rate_hz`.
        start_samples: position of the first sample in the recording.
        name: name of the recording in messages.
    """
    is_good = np.abs(samples) <= MAX_LEVEL  # NaN is not
    if is_good.all():
        return
    is_finite = np.isfinite(samples)
    if not is_finite.all():
        num_bad = int(np.count_nonzero(~is_finite))
        first_s = (start_samples + int(is_finite.argmin())) / rate_hz
        raise AudioError(
            f"samples of {name} must be finite, but {num_bad} are NaN or infinite from {first_s:.2f} s on; "
            f"{ANOTHER_FILE_CURE}"
        )
    first = int(is_good.argmin())
    raise AudioError(
        f"samples of {name} must be -1 to 1, but one is {samples[first]:g} at {(start_samples + first) / rate_hz:.2f} s; "
        f"{INT16_CURE}"
    )


def truncated(name: str, promised: str, found: str) -> AudioError:
    """The error for a recording that is shorter than its header states."""
    return AudioError(
        f"{name} must hold {promised}, as its header states, but holds {found}: the file is truncated; copy or download it "
        "again"
    )
