"""Variation of utterances in training, for data with few voices: features (T, F) at 100 Hz in, features out.

Each utterance is read with another length of the vocal tract, at another level, and with silence of its own before and
after it, all drawn at random. A model that has heard few people, in recordings that were trimmed to the speech, otherwise
takes their voices, and the place of the first word, for what the words sound like.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.errors import ConfigError
from zipasr.features import FbankConfig, filter_centers_hz

_NYQUIST_HZ = 8000.0
_STRAIGHT_HZ = 4800.0
"""Frequency up to which the warp is a factor; from there it leads straight to the Nyquist frequency, which stays."""
_QUIET_SHARE = 0.1
"""Share of the frames of an utterance, the quietest, from which silence is drawn."""
_NEPERS_PER_DB = math.log(10.0) / 10.0


@dataclass(frozen=True, kw_only=True)
class VariationConfig:
    """How far utterances vary."""

    frequency_warp: float = 0.12
    """Largest relative change of all frequencies (vocal tract length perturbation), drawn uniformly; 0: none."""
    gain_db: float = 6.0
    """Largest change of the level in decibels, drawn uniformly; 0: none."""
    edge_s: float = 0.4
    """Longest silence before and after an utterance in seconds, drawn uniformly in one of three cases each; 0: none."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.frequency_warp <= 0.5:
            raise ConfigError(f"frequency_warp must be within 0 and 0.5, but is {self.frequency_warp}")
        for name in ("gain_db", "edge_s"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more, but is {getattr(self, name)}")


class Variation:
    """Varies utterances. It keeps nothing between them."""

    def __init__(self, config: VariationConfig, features: FbankConfig) -> None:
        self.config, self._centers_hz = config, filter_centers_hz(features)

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """A variation of an utterance.

        Args:
            frames: (T, F) log-mel energies, before any normalization.
            rng: draws what is varied; the number of draws does not depend on the outcome.
        Returns:
            (T', F), T' from T to T and twice the longest silence.
        """
        config = self.config
        factor = 1.0 + config.frequency_warp * rng.uniform(-1.0, 1.0)
        gain_db = config.gain_db * rng.uniform(-1.0, 1.0)
        lead, trail = (round(config.edge_s * FEATURE_RATE_HZ * max(0.0, rng.uniform(-2.0, 1.0))) for _ in range(2))
        silence = np.random.default_rng(rng.integers(2**63))
        if not len(frames):
            return frames
        if factor != 1.0:
            frames = warp_frequencies(frames, factor, self._centers_hz)
        frames = frames + gain_db * _NEPERS_PER_DB
        quiet = frames.mean(1).argsort()[: math.ceil(_QUIET_SHARE * len(frames))]
        edges = frames[quiet[torch.from_numpy(silence.integers(len(quiet), size=lead + trail))]]
        return torch.cat([edges[:lead], frames, edges[lead:]])


def warp_frequencies(frames: Tensor, factor: float, centers_hz: np.ndarray) -> Tensor:
    """Frames as if all frequencies of the audio were divided by a factor: a shorter vocal tract for factors below 1.

    The energy of the filter at f is taken from f * factor, linearly between the two filters around it, and from the last
    filter beyond it. Above 4.8 kHz the warp leads straight to the Nyquist frequency, so that nothing is taken from beyond.

    Args:
        frames: (T, F) log-mel energies.
        factor: above 0.
        centers_hz: (F,) centers of the filters, rising.
    Source: Jaitly & Hinton 2013, "Vocal tract length perturbation (VTLP) improves speech recognition", with other knees.
    """
    knee_hz = _STRAIGHT_HZ / max(factor, 1.0)
    slope = (_NYQUIST_HZ - knee_hz * factor) / (_NYQUIST_HZ - knee_hz)
    beyond_hz = _NYQUIST_HZ - slope * (_NYQUIST_HZ - centers_hz)
    source_hz = np.where(centers_hz <= knee_hz, centers_hz * factor, beyond_hz)
    places = np.interp(source_hz, centers_hz, np.arange(len(centers_hz)))
    low = np.minimum(np.floor(places), len(centers_hz) - 2).astype(np.int64)
    share_F = torch.from_numpy((places - low).astype(np.float32))
    low_F = torch.from_numpy(low)
    return frames[:, low_F].lerp(frames[:, low_F + 1], share_F)
