"""Noise augmentation in training: samples in, samples out, (samples,) float32 at 16 kHz.

The noise comes from a manifest of lhotse cuts, `noise_cuts.jsonl.gz`, which `zipasr prepare musan:DIR` writes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.audio_paths import read_located
from zipasr.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How noise is mixed in. The defaults are those of the published recipes."""

    cuts: str = "data/musan/noise_cuts.jsonl.gz"
    """Manifest of the noise, from `zipasr prepare musan:DIR --out data/musan`."""
    prob: float = 0.5
    """Probability that an utterance gets noise."""
    snr_db: tuple[float, float] = (10.0, 20.0)
    """Range of the signal-to-noise ratio in decibels, which is drawn uniformly."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.prob <= 1.0:
            raise ConfigError(f"prob must be within 0 and 1, but is {self.prob}")
        if not self.snr_db[0] <= self.snr_db[1]:
            raise ConfigError(f"snr_db must be the lower and the upper end of a range, but is {self.snr_db}")


class NoiseMixer:
    """Draws noise and mixes it in. The manifest is read on first use, and the audio of the noise every time."""

    def __init__(self, config: NoiseConfig) -> None:
        """Create a mixer.

        Raises:
            DataError: the manifest does not exist.
        """
        if not Path(config.cuts).is_file():
            raise DataError(
                f"batch.noise.cuts must be a manifest of noise, but {config.cuts} does not exist; create it with: "
                f"zipasr prepare musan:DIR --out {Path(config.cuts).parent}, or train without: --set batch.noise=none"
            )
        self.config = config
        self._cuts: list[Any] = []

    def mix(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Mix noise into an utterance with probability `config.prob`.

        Args:
            samples: (samples,) the utterance.
            generator: source of randomness; the number of draws is always the same.
        Returns:
            (samples,) float32; `samples` itself if no noise was drawn, or it or the noise is silent.
        Raises:
            DataError: the manifest or the noise cannot be read.
        """
        config = self.config
        # Always make all draws, so that one utterance does not affect the draws for the next.
        is_noisy = generator.random() < config.prob
        snr_db = generator.uniform(*config.snr_db)
        choice, offset = generator.random(2)
        if not is_noisy:
            return samples
        noise = self._noise(choice)
        return add_noise(samples, np.roll(noise, -int(offset * len(noise))), snr_db)

    def _noise(self, choice: float) -> np.ndarray:
        """The noise (samples,) at the relative position `choice`, in [0, 1), of the manifest."""
        self._cuts = self._cuts or _read(Path(self.config.cuts))
        try:
            cut = self._cuts[int(choice * len(self._cuts))]
            noise: np.ndarray = cut.load_audio()[0]
        except Exception as error:  # lhotse's readers raise many types, and the manifest may be empty
            raise _unreadable(Path(self.config.cuts), error) from error
        if cut.sampling_rate != SAMPLE_RATE_HZ:
            raise DataError(
                f"noise must be at {SAMPLE_RATE_HZ} Hz, but {cut.id} in {self.config.cuts} is at {cut.sampling_rate} Hz"
            )
        return noise


def noise_digest(manifest: Path) -> tuple[int, str]:
    """Number of cuts in a manifest of noise, and a SHA-256 of their ids, starts and durations in order.

    Raises:
        DataError: the manifest cannot be read.
    """
    cuts = _read(manifest)
    digest = hashlib.sha256()
    for cut in cuts:
        digest.update(f"{cut.id} {getattr(cut, 'start', 0.0)} {cut.duration}\n".encode("utf-8", "surrogatepass"))
    return len(cuts), digest.hexdigest()


def _read(manifest: Path) -> list[Any]:
    try:
        return list(read_located(manifest))
    except Exception as error:  # lhotse's readers raise many types
        raise _unreadable(manifest, error) from error


def _unreadable(manifest: Path, error: Exception) -> DataError:
    reason = next(iter(str(error).splitlines()), type(error).__name__).removesuffix(".")
    return DataError(f"the noise of {manifest} cannot be read: {reason}; prepare it again")


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise, repeated or truncated to the length of the utterance, at a signal-to-noise ratio.

    Args:
        samples: (samples,) the utterance.
        noise: (n,) the noise.
        snr_db: 10 log10 of the mean square of the utterance over that of the noise.
    Returns:
        (samples,) float32, a new array; `samples` itself if it or the noise is silent.
    """
    repeated = np.resize(noise.astype(np.float32, copy=False), len(samples))
    energy, noise_energy = _mean_square(samples), _mean_square(repeated)
    if energy == 0.0 or noise_energy == 0.0:
        return samples
    gain = np.sqrt(energy / (noise_energy * 10.0 ** (snr_db / 10.0)))
    return (samples + np.float32(gain) * repeated).astype(np.float32, copy=False)


def _mean_square(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
