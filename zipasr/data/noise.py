"""Noise augmentation in training: features in, features out, (T, F) log-mel energies at 100 Hz.

The noise comes from a manifest of lhotse cuts, `noise_cuts.jsonl.gz`, which `zipasr prepare musan:DIR` writes, and
`zipasr prepare SOURCE --as noise`. It is mixed as in the published runs, by the rules of lhotse's `CutMix` on stored
features: different noises, each from its start, follow one another to the end of the longest utterance of the batch, over
the padding of the shorter ones, and the mel energies of speech and noise are added. A sum of waveforms has other energies:
the product of both signals cancels only on average. Noise may also replace an utterance, which then has no text, so that a
model learns to write nothing where nobody speaks.
"""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.config import require_fields
from zipasr.data.audio_paths import read_located
from zipasr.errors import ConfigError, DataError
from zipasr.features import Fbank

MAX_NOISE_S = 10.0
"""Longer noise is cut into windows of this duration, those of MUSAN in the published recipes."""
MIN_WINDOW_S = 5.0
"""Windows of this duration or less, at the end of a recording, are not used."""
_MIN_NOISE_S = 0.1
"""Shorter noise is not used: it would have few frames or none."""
_UNCOVERED_SAMPLES = SAMPLE_RATE_HZ // 20
"""Noise starts at least 50 ms before the end of the longest utterance, as with `CutMix`."""
_MIN_ENERGY = 1e-10
"""Floor of mixed mel energies: lhotse's, and the padding of batches."""
_LOOKAHEAD_SAMPLES = 280
"""Samples that the last frame needs beyond its time (`zipasr.features`)."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How noise is mixed in. The defaults are those of the published recipes."""

    cuts: str = "data/musan/noise_cuts.jsonl.gz"
    """Manifest of the noise, from `zipasr prepare musan:DIR --out data/musan`, or `zipasr prepare SOURCE --as noise`."""
    prob: float = 0.5
    """Probability that an utterance gets noise."""
    snr_db: tuple[float, float] = (10.0, 20.0)
    """Range of the signal-to-noise ratio in decibels, which is drawn uniformly. It is the ratio of the energy of the whole
    utterance to that of one noise: a noise of 10 s in an utterance of 20 s is 3 dB louder."""
    alone_prob: float = 0.0
    """Probability that noise, as loud as it would be otherwise, replaces an utterance and its text."""

    def __post_init__(self) -> None:
        require_fields(self, "within 0 and 1", "prob", "alone_prob")
        if not self.snr_db[0] <= self.snr_db[1]:
            raise ConfigError(f"snr_db must be the lower and the upper end of a range, but is {self.snr_db}")


class NoiseDraws(NamedTuple):
    """What is mixed into the utterances of a batch."""

    snr_db: tuple[float | None, ...]
    """Signal-to-noise ratio for each utterance; None: no noise."""
    noises: Iterator[int]
    """Numbers of the noises, in the order in which the utterances take them."""
    is_alone: tuple[bool, ...] | None = None
    """Whether the noise replaces the utterance, for each; None: nowhere."""


class NoiseMixer:
    """Draws noise and mixes it in. The manifest is read on first use, and the audio of the noise every time."""

    def __init__(self, config: NoiseConfig, fbank: Fbank) -> None:
        """Create a mixer.

        Args:
            config: which noise, how often and how loud.
            fbank: features of the noise; those of the utterances must be the same.
        Raises:
            DataError: the manifest does not exist.
        """
        if not Path(config.cuts).is_file():
            raise DataError(
                f"batch.noise.cuts must be a manifest of noise, but {config.cuts} does not exist; create it with: "
                f"zipasr prepare musan:DIR --out {Path(config.cuts).parent}, or train without: --set batch.noise=none"
            )
        self.config, self.fbank = config, fbank

    def draw(self, num_utterances: int, generator: np.random.Generator) -> NoiseDraws:
        """Draw which utterances of a batch get noise, at which ratios, and the order of the noises.

        No noise is drawn twice before all were drawn once.

        Args:
            num_utterances: number of utterances in the batch.
            generator: source of randomness, which the order of the noises continues to use while the draws are in use.
        """
        is_noisy = generator.random(num_utterances) < self.config.prob
        snr_db = generator.uniform(*self.config.snr_db, num_utterances)
        is_alone = None
        if self.config.alone_prob > 0.0:  # runs without it draw the same as they always did
            is_alone = generator.random(num_utterances) < self.config.alone_prob
            is_noisy |= is_alone
        ratios = (float(ratio) if noisy else None for noisy, ratio in zip(is_noisy, snr_db, strict=True))
        return NoiseDraws(tuple(ratios), self._shuffled(generator), None if is_alone is None else tuple(is_alone.tolist()))

    def mix(self, features: Sequence[Tensor], num_samples: Sequence[int], draws: NoiseDraws) -> list[Tensor]:
        """Mix noise into the utterances of a batch as drawn.

        Args:
            features: (T, F) of each utterance, without padding.
            num_samples: samples of each utterance at 16 kHz.
            draws: which utterances get which noises, from `draw`.
        Returns:
            Features of each utterance: the same tensor where no noise was drawn, otherwise up to the end of its noise,
            (T', F) with T <= T' <= the longest T of the batch; of the noise alone where it replaces the utterance.
        Raises:
            DataError: the manifest or a noise cannot be read.
        """
        num_frames, end_samples = max(map(len, features)), max(num_samples)
        mixed = []
        for utterance, ratio, is_alone in zip(
            features, draws.snr_db, draws.is_alone or (False,) * len(features), strict=True
        ):
            if ratio is not None:
                # Differs: of utterances that were concatenated, lhotse takes the energy of the first alone.
                noise_energy = _sum(utterance.exp()) * 10.0 ** (-ratio / 10.0)
                speech = torch.full_like(utterance, -math.inf) if is_alone else utterance
                utterance = self._with_noise(speech, noise_energy, num_frames, end_samples, draws.noises)
            mixed.append(utterance)
        return mixed

    def _with_noise(
        self, features: Tensor, noise_energy: float, num_frames: int, end_samples: int, noises: Iterator[int]
    ) -> Tensor:
        """One utterance with noises one after another up to `end_samples`, at most (num_frames, F)."""
        energies = torch.zeros(num_frames, features.shape[1])
        energies[: len(features)] = features.exp()
        offset_samples, num_covered = 0, len(features)
        while offset_samples == 0 or offset_samples < end_samples - _UNCOVERED_SAMPLES:
            noise, length_samples = self._noise(next(noises), end_samples - offset_samples)
            start = self.fbank.num_frames(offset_samples)
            energies[start : start + len(noise)] += noise_energy / _sum(noise) * noise[: max(0, num_frames - start)]
            energies.clamp_(min=_MIN_ENERGY)
            offset_samples += length_samples
            num_covered = max(num_covered, start + len(noise))
        end = max(len(features), self.fbank.num_frames(min(offset_samples, end_samples)))
        # The start and the length of a noise are rounded to frames, which can leave the last frame without noise; lhotse
        # repeats the one before.
        energies[num_covered:end] = energies[num_covered - 1 : num_covered]
        return energies[:end].log()

    @functools.cached_property
    def _pieces(self) -> list[Any]:
        """The noises of the manifest; windows of those that are longer than `MAX_NOISE_S`."""
        manifest, pieces = Path(self.config.cuts), []
        for cut in _read(manifest):
            if cut.duration > MAX_NOISE_S:
                pieces += [window for window in cut.cut_into_windows(MAX_NOISE_S) if window.duration > MIN_WINDOW_S]
            elif cut.duration >= _MIN_NOISE_S:
                pieces.append(cut)
        if not pieces:
            raise _unreadable(manifest, ValueError(f"it holds no noise of at least {_MIN_NOISE_S} s"))
        return pieces

    def _shuffled(self, generator: np.random.Generator) -> Iterator[int]:
        """The numbers of all noises in random order, again and again."""
        while True:
            yield from generator.permutation(len(self._pieces)).tolist()

    def _noise(self, number: int, max_samples: int) -> tuple[Tensor, int]:
        """Mel energies (t, F) of the first `max_samples` samples of a noise, t >= 1, and the number of all its samples."""
        piece = self._pieces[number]
        if piece.sampling_rate != SAMPLE_RATE_HZ:
            raise DataError(
                f"noise must be at {SAMPLE_RATE_HZ} Hz, but {piece.id} in {self.config.cuts} is at {piece.sampling_rate} Hz"
            )
        needed_samples = max_samples + _LOOKAHEAD_SAMPLES
        try:
            is_longer = piece.num_samples > needed_samples
            used = piece.truncate(duration=needed_samples / SAMPLE_RATE_HZ) if is_longer else piece
            samples: np.ndarray = used.load_audio()[0]
            if not np.isfinite(samples).all():
                raise ValueError(f"{piece.id} contains samples that are not finite")
        except Exception as error:  # lhotse's readers raise many types
            raise _unreadable(Path(self.config.cuts), error) from error
        num_frames = max(1, self.fbank.num_frames(min(max_samples, piece.num_samples)))
        return self.fbank(samples)[:num_frames].exp(), piece.num_samples


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


def _sum(energies: Tensor) -> float:
    return energies.sum(dtype=torch.float64).item()
