"""Recordings of a set, and the same with noise: shared by the benchmarks that measure in noise."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from zipasr.audio import AUDIO_SUFFIXES, load_audio
from zipasr.evaluate import ReferenceUtterance, read_cuts
from zipasr.prepare import open_references


def utterances_of(source: str) -> list[ReferenceUtterance]:
    """The readable recordings of a set."""
    with open_references(source) as references:
        return [utterance for utterance in read_cuts(references.cuts) if utterance.samples is not None]


def noises_of(folder: Path) -> list[np.ndarray]:
    """The noises of a folder, in the order of their names, without silence."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    noises = [load_audio(path) for path in files]
    return [noise for noise in noises if np.any(noise)]


def with_noise(
    utterances: Sequence[ReferenceUtterance], noises: Sequence[np.ndarray], snr_db: float
) -> Iterator[ReferenceUtterance]:
    """The recordings with noise, the same for every spotter."""
    for number, utterance in enumerate(utterances):
        assert utterance.samples is not None
        noise = np.resize(noises[number % len(noises)], len(utterance.samples))
        energy, noise_energy = (float(np.mean(np.square(x, dtype=np.float64))) for x in (utterance.samples, noise))
        gain = np.sqrt(energy / max(noise_energy, 1e-12) * 10.0 ** (-snr_db / 10.0))
        yield utterance._replace(samples=(utterance.samples + gain * noise).astype(np.float32))
