"""Law: the same draws give the same features as lhotse's `CutMix` on stored features, as in the published runs."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from tests.train.tones import RATE_HZ, cut_of, write_cuts
from zipasr.data.noise import NoiseConfig, NoiseDraws, NoiseMixer
from zipasr.features import PADDING_VALUE, Fbank

FBANK = Fbank()


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Windows of recordings of 12 and 17 s, shorter recordings, and one of digital silence, with stored features."""
    folder = tmp_path_factory.mktemp("noises")
    lengths = [12 * RATE_HZ + 37, 17 * RATE_HZ + 1230, 6 * RATE_HZ - 61, 8 * RATE_HZ + 79, 5 * RATE_HZ + 80]
    cuts: list[Any] = []
    for i, num_samples in enumerate(lengths):
        whole = cut_of(wave(folder / f"n{i}.wav", num_samples, seed=i, level=0.3 / 4**i), "-").drop_supervisions()
        cuts += [cut for cut in whole.cut_into_windows(10.0) if cut.duration > 2.0]
    silent = folder / "silent.wav"
    soundfile.write(silent, np.zeros(7 * RATE_HZ), RATE_HZ)
    return [with_features(cut) for cut in [*cuts, cut_of(silent, "-").drop_supervisions()]]


def wave(path: Path, num_samples: int, *, seed: int, level: float) -> Path:
    """A recording of noise whose color and power change over time."""
    generator = np.random.default_rng(seed)
    samples = generator.standard_normal(num_samples)
    samples[1:] -= generator.uniform(-0.9, 0.9) * samples[:-1]
    envelope = 10 ** np.interp(np.linspace(0, 9, num_samples), range(10), generator.uniform(-2.0, 0.0, 10))
    soundfile.write(path, level * envelope * samples / np.abs(samples).max(), RATE_HZ, subtype="FLOAT")
    return path


def with_features(cut: Any) -> Any:
    """The cut with features of its own samples that lhotse reads from memory, exactly."""
    from lhotse.features.base import Features
    from lhotse.features.io import MemoryRawWriter
    from lhotse.utils import fastcopy

    matrix = FBANK(cut.load_audio()[0]).numpy()
    stored = Features(
        type="kaldi-fbank",
        num_frames=len(matrix),
        num_features=matrix.shape[1],
        frame_shift=0.01,
        sampling_rate=RATE_HZ,
        start=cut.start,
        duration=cut.duration,
        storage_type=MemoryRawWriter.name,
        storage_path="",
        storage_key=MemoryRawWriter().write("", matrix),
    )
    return fastcopy(cut, features=stored)


def draws_of(cuts: Any) -> NoiseDraws:
    """What lhotse drew: the ratio of each mixed cut, and the noises in the order in which it took them."""
    ratios, order = [], []
    for cut in cuts:
        tracks = getattr(cut, "tracks", [])[1:]
        ratios.append(tracks[0].snr if tracks else None)
        order += [(track.cut.recording_id, track.cut.start) for track in tracks]
    return NoiseDraws(tuple(ratios), iter(order))  # type: ignore[arg-type]


def batches(folder: Path) -> list[list[Any]]:
    """Cuts of 0.03 to 24 s, whose lengths end anywhere within a frame; the longest of a batch is not always noisy."""
    generator = np.random.default_rng(4)
    numbers = [[RATE_HZ * s + int(generator.integers(0, 320)) for s in (1, 9, 10, 24)] for _ in range(2)]
    numbers += [(160 * generator.integers(100, 1300, 4) + [79, 80, 81, 159]).tolist() for _ in range(4)]
    numbers += [[10 * RATE_HZ + 700, 4 * RATE_HZ], [15 * RATE_HZ + 10, 900], [480, 1000]]
    cuts = []
    for i, lengths in enumerate(numbers):
        paths = [wave(folder / f"s{i}_{j}.wav", n, seed=100 * i + j, level=0.2) for j, n in enumerate(lengths)]
        cuts.append([with_features(cut_of(path, "A")) for path in paths])
    return cuts


def test_same_draws_give_the_features_of_cut_mix(noises: list[Any], tmp_path: Path) -> None:
    from lhotse import CutSet
    from lhotse.dataset.collation import collate_features
    from lhotse.dataset.cut_transforms import CutMix

    write_cuts(tmp_path / "noise_cuts.jsonl.gz", [cut.drop_features() for cut in noises])
    mixer = NoiseMixer(NoiseConfig(cuts=str(tmp_path / "noise_cuts.jsonl.gz")), FBANK)
    numbers = {(cut.recording_id, cut.start): number for number, cut in enumerate(noises)}
    transform = CutMix(CutSet(noises), snr=(10, 20), p=0.7, preserve_id=True, seed=random.Random(7))
    num_noises, num_noisy = 0, 0
    for cuts in batches(tmp_path):
        mixed = transform(CutSet(cuts))
        draws = draws_of(mixed)
        order = [numbers[key] for key in draws.noises]  # type: ignore[index]
        features = [FBANK(cut.load_audio()[0]) for cut in cuts]
        num_samples = [cut.num_samples for cut in cuts]
        remaining = iter(order)
        rows = mixer.mix(features, num_samples, NoiseDraws(draws.snr_db, remaining))
        assert list(remaining) == [], "every noise that lhotse took is used"
        expected, _ = collate_features(mixed)
        ours = pad_sequence(rows, batch_first=True, padding_value=PADDING_VALUE)
        assert ours.shape == expected.shape
        for row, found, theirs, clean in zip(rows, ours, expected, features, strict=True):
            torch.testing.assert_close(row, theirs[: len(row)], rtol=0, atol=2e-4)
            # Padding beyond the last noise is log(1e-10) here; lhotse adds its own padding to that: log(2e-10).
            torch.testing.assert_close(found[len(row) :], theirs[len(row) :], rtol=0, atol=0.7)
            assert len(row) in (len(clean), len(found)) or len(found) - len(row) <= 6
        num_noises, num_noisy = num_noises + len(order), num_noisy + sum(r is not None for r in draws.snr_db)
    assert num_noisy > 20 and num_noises > 30, "enough cases"
