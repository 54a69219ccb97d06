"""Reverberation in training: (samples,) at 16 kHz in, the same speech as it sounds in a room out, of the same length.

The response of a room is the direct sound and, from 2.5 ms on, noise that decays by 60 dB within the reverberation time
(Polack's model, 1988), at a random level. No recordings of rooms are needed.
"""

import math
from dataclasses import dataclass

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.config import require_fields
from zipasr.errors import ConfigError

_FIRST_REFLECTION_S = 0.0025
"""Time from the direct sound to the first reflections: less than a meter of detour."""


@dataclass(frozen=True, kw_only=True)
class ReverberationConfig:
    """Which rooms are drawn, and how often. The ranges go from a furnished room to a bare one."""

    prob: float = 0.3
    """Probability that an utterance is reverberated."""
    decay_s: tuple[float, float] = (0.15, 0.6)
    """Range of the reverberation time (T60) in seconds, drawn uniformly."""
    direct_db: tuple[float, float] = (0.0, 12.0)
    """Range of the ratio of the energies of direct sound and reflections in decibels, drawn uniformly: the distance."""

    def __post_init__(self) -> None:
        require_fields(self, "within 0 and 1", "prob")
        if not 0.01 <= self.decay_s[0] <= self.decay_s[1] <= 5.0:
            raise ConfigError(f"decay_s must be the ends of a range within 0.01 and 5 s, but is {self.decay_s}")
        if not -40.0 <= self.direct_db[0] <= self.direct_db[1] <= 60.0:
            raise ConfigError(f"direct_db must be the ends of a range within -40 and 60 dB, but is {self.direct_db}")


def draw_room(config: ReverberationConfig, rng: np.random.Generator) -> np.ndarray | None:
    """The response of a random room, (samples,) at 16 kHz with the direct sound first; None where nothing is to change.

    Args:
        config: which rooms.
        rng: the number of its draws does not depend on their outcome.
    """
    is_drawn = rng.random() < config.prob
    decay_s, direct_db = rng.uniform(*config.decay_s), rng.uniform(*config.direct_db)
    reflections = np.random.default_rng(rng.integers(2**63))
    return room_response(decay_s, direct_db, reflections) if is_drawn else None


def room_response(decay_s: float, direct_db: float, rng: np.random.Generator) -> np.ndarray:
    """The response of a room, (samples,) float32 at 16 kHz, its first sample 1.

    Args:
        decay_s: time in which reflections decay by 60 dB; the response ends then.
        direct_db: energy of the direct sound over that of all reflections, in decibels.
        rng: draws the reflections.
    """
    time_s = np.arange(max(2, round(decay_s * SAMPLE_RATE_HZ))) / SAMPLE_RATE_HZ
    response = rng.standard_normal(len(time_s)) * 10.0 ** (-3.0 * time_s / decay_s)
    response[time_s < _FIRST_REFLECTION_S] = 0.0
    energy = float(np.sum(np.square(response)))
    response *= math.sqrt(10.0 ** (-direct_db / 10.0) / energy)
    response[0] = 1.0
    return response.astype(np.float32)


def reverberated(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Samples in a room: convolved with its response, cut to their length, and at the energy that they had.

    Args:
        samples: (samples,) float32.
        response: (samples,) of the room.
    """
    if not len(samples):
        return samples
    size = 1 << (len(samples) + len(response) - 1).bit_length()
    mixed = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    before, after = (float(np.sum(np.square(x, dtype=np.float64))) for x in (samples, mixed))
    return (mixed * math.sqrt(before / after) if after > 0.0 else mixed).astype(np.float32)
