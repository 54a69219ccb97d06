"""Law: noise has the energy that was drawn, is determined by the generator, and differs in every epoch. Contract: noise that
cannot be mixed is refused. Run: the reader of batches mixes it in."""

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.train.tones import RATE_HZ, cut_of, say, write_cuts
from zipasr.config import from_json, to_json
from zipasr.data.batching import BatchConfig, BatchReader, Item
from zipasr.data.noise import NoiseConfig, NoiseMixer, add_noise
from zipasr.errors import ConfigError, DataError
from zipasr.features import FbankConfig
from zipasr.tokenizer import Tokenizer

SPEECH = say(["LO", "HI"], np.random.default_rng(0))


@pytest.fixture
def noise(tmp_path: Path) -> NoiseConfig:
    """Three noises of half a second with different pitches."""
    cuts = []
    for i, freq_hz in enumerate((100, 1000, 5000)):
        wave = 0.2 * np.sin(2 * np.pi * freq_hz * np.arange(RATE_HZ // 2) / RATE_HZ)
        soundfile.write(tmp_path / f"n{i}.wav", wave, RATE_HZ)
        cuts.append(cut_of(tmp_path / f"n{i}.wav", "-"))
    write_cuts(tmp_path / "noise_cuts.jsonl.gz", cuts)
    return NoiseConfig(cuts=str(tmp_path / "noise_cuts.jsonl.gz"), prob=1.0)


@pytest.mark.parametrize("num_samples", [100, 7_000, 16_000, 50_000])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 17.3])
def test_ratio_of_energies_is_the_one_asked_for(num_samples: int, snr_db: float) -> None:
    generator = np.random.default_rng(1)
    samples, noise = generator.standard_normal((2, num_samples)).astype(np.float32)
    noise = noise[: max(50, num_samples // 3)]
    mixed = add_noise(samples, noise, snr_db)
    added = mixed - samples
    assert mixed.dtype == np.float32 and mixed.shape == samples.shape
    assert 10 * np.log10(np.mean(samples**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.01)
    np.testing.assert_allclose(added[: len(noise)] * noise[0], added[0] * noise, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(added[len(noise) : 2 * len(noise)], added[: len(noise)], rtol=1e-3, atol=1e-5)  # repeated


def test_silence_stays_silent() -> None:
    silence = np.zeros(1000, np.float32)
    assert add_noise(silence, SPEECH, 10.0) is silence
    assert add_noise(SPEECH, silence, 10.0) is SPEECH
    assert len(add_noise(silence[:0], SPEECH, 10.0)) == 0


def test_draws_follow_from_the_generator_and_cover_range_noises_and_offsets(noise: NoiseConfig) -> None:
    mixer = NoiseMixer(noise)
    ratios_db, pitches, starts = [], set(), set()
    for seed in range(60):
        mixed = mixer.mix(SPEECH, np.random.default_rng(seed))
        np.testing.assert_array_equal(mixed, NoiseMixer(noise).mix(SPEECH, np.random.default_rng(seed)))
        added = mixed - SPEECH
        ratios_db.append(10 * np.log10(np.mean(SPEECH**2) / np.mean(added**2)))
        pitches.add(round(np.abs(np.fft.rfft(added[: RATE_HZ // 4])).argmax() * 4, -2))
        starts.add(round(float(added[0] / np.abs(added).max()), 2))
    assert 10.0 <= min(ratios_db) + 0.01 and max(ratios_db) <= 20.01 and max(ratios_db) - min(ratios_db) > 8.0
    assert pitches == {100, 1000, 5000} and len(starts) > 10


def test_probability(noise: NoiseConfig) -> None:
    mixer = NoiseMixer(dataclasses.replace(noise, prob=0.5))
    generator = np.random.default_rng(0)
    noisy = sum(mixer.mix(SPEECH, generator) is not SPEECH for _ in range(400))
    assert 160 < noisy < 240
    never = NoiseMixer(dataclasses.replace(noise, prob=0.0))
    assert all(never.mix(SPEECH, generator) is SPEECH for _ in range(20))


def test_utterances_do_not_move_each_others_chance(noise: NoiseConfig) -> None:
    states = []
    for prob in (0.0, 1.0):
        generator = np.random.default_rng(3)
        NoiseMixer(dataclasses.replace(noise, prob=prob)).mix(SPEECH, generator)
        states.append(generator.bit_generator.state)
    assert states[0] == states[1]


def test_refused(tmp_path: Path, noise: NoiseConfig) -> None:
    with pytest.raises(DataError, match=r"does not exist; create it with: zipasr prepare musan:DIR --out"):
        NoiseMixer(NoiseConfig(cuts=str(tmp_path / "absent.jsonl.gz")))
    with pytest.raises(ConfigError, match="prob must be within 0 and 1, but is 2"):
        NoiseConfig(prob=2.0)
    with pytest.raises(ConfigError, match="snr_db must be the lower and the upper end"):
        NoiseConfig(snr_db=(20.0, 10.0))
    with pytest.raises(ConfigError, match="set cache_mb=0"):
        BatchConfig(noise=noise, cache_mb=1)
    (tmp_path / "n0.wav").unlink()
    (tmp_path / "n1.wav").unlink()
    (tmp_path / "n2.wav").unlink()
    with pytest.raises(DataError, match=r"the noise of .* cannot be read"):
        NoiseMixer(noise).mix(SPEECH, np.random.default_rng(0))


def test_noise_at_another_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", np.ones(8000, np.float32), 8000)
    write_cuts(tmp_path / "noise_cuts.jsonl.gz", [cut_of(tmp_path / "slow.wav", "-")])
    mixer = NoiseMixer(NoiseConfig(cuts=str(tmp_path / "noise_cuts.jsonl.gz"), prob=1.0))
    with pytest.raises(DataError, match="noise must be at 16000 Hz, but slow"):
        mixer.mix(SPEECH, np.random.default_rng(0))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., torch.Tensor]:
    """Features of the first batch of two utterances at (epoch, index)."""
    cuts: list[Any] = []
    for i in range(2):
        soundfile.write(tmp_path / f"s{i}.flac", SPEECH, RATE_HZ)
        cuts.append(cut_of(tmp_path / f"s{i}.flac", "LO HI"))
    tokenizer = Tokenizer.train(["LO HI"], kind="char", vocab_size=None)

    def features(noise: NoiseConfig | None, epoch: int = 0, index: int = 0, seed: int = 1) -> torch.Tensor:
        config = BatchConfig(spec_augment=None, noise=noise)
        reader = BatchReader(cuts, tokenizer, FbankConfig(), config, seed=seed)
        reader = pickle.loads(pickle.dumps(reader))  # as a process that reads ahead receives it
        return reader[epoch, index, (Item((0,), 1.0), Item((1,), 1.0))].features

    return features


def test_noise_of_batches_is_reproducible_and_new_in_each_epoch(
    noise: NoiseConfig, read: Callable[..., torch.Tensor]
) -> None:
    clean, noisy = read(None), read(noise)
    assert noisy.shape == clean.shape and not torch.equal(noisy, clean)
    assert not torch.equal(noisy[0], noisy[1]), "each utterance has noise of its own"
    assert torch.equal(read(noise), noisy)
    for place in ((1, 0), (0, 1)):
        assert not torch.equal(read(noise, *place), noisy)
    assert not torch.equal(read(noise, seed=2), noisy)
    assert torch.equal(read(dataclasses.replace(noise, prob=0.0)), clean)


def test_settings_survive_json(noise: NoiseConfig) -> None:
    config = BatchConfig(noise=noise)
    assert from_json(BatchConfig, to_json(config)) == config
    assert BatchConfig().noise is None
