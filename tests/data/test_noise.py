"""Law: noise has the energy that was drawn, is determined by the generator, and differs in every epoch (test_cut_mix.py
compares it with lhotse's). Contract: noise that cannot be mixed is refused. Run: the reader of batches mixes it in."""

import dataclasses
import itertools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.train.tones import RATE_HZ, cut_of, say, write_cuts
from zipasr.config import from_json, to_json
from zipasr.data.batching import BatchConfig, BatchReader, Item
from zipasr.data.noise import NoiseConfig, NoiseDraws, NoiseMixer
from zipasr.errors import ConfigError, DataError
from zipasr.features import Fbank, FbankConfig
from zipasr.tokenizer import Tokenizer

SPEECH = say(["LO", "HI"], np.random.default_rng(0))
FBANK = Fbank()


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


def mixer_of(config: NoiseConfig) -> NoiseMixer:
    return NoiseMixer(config, FBANK)


def energies(features: torch.Tensor) -> torch.Tensor:
    return features.double().exp()


def mixed(mixer: NoiseMixer, seed: int, utterances: Sequence[np.ndarray] = (SPEECH,)) -> list[torch.Tensor]:
    """Features of a batch with noise."""
    draws = mixer.draw(len(utterances), np.random.default_rng(seed))
    return mixer.mix([FBANK(samples) for samples in utterances], [len(samples) for samples in utterances], draws)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 17.3])
def test_each_noise_has_the_energy_asked_for(noise: NoiseConfig, snr_db: float) -> None:
    """The energy of the whole utterance is `snr_db` above that of each noise, which adds to every mel energy."""
    speech = FBANK(np.random.default_rng(1).standard_normal(RATE_HZ * 3 // 2).astype(np.float32))
    (row,) = mixer_of(noise).mix([speech], [RATE_HZ * 3 // 2], NoiseDraws((snr_db,), iter([0, 1, 2])))
    added = (energies(row) - energies(speech)).view(3, 50, -1)  # three noises of half a second
    expected = energies(speech).sum() * 10 ** (-snr_db / 10)
    torch.testing.assert_close(added.sum((1, 2)), expected.expand(3), rtol=1e-3, atol=0.0)
    peaks = added.sum(1).argmax(1).tolist()
    assert peaks == sorted(set(peaks)), "100, 1000 and 5000 Hz, in the order that was drawn"
    shapes = added.sum(2) / expected
    torch.testing.assert_close(shapes[:, 5:45], torch.full((3, 40), 1 / 50, dtype=torch.float64), rtol=0.15, atol=0.0)


def test_noise_continues_over_the_padding_to_the_longest_utterance(noise: NoiseConfig) -> None:
    """Every row ends at the same frame; an utterance without noise stays as it is."""
    speech = [np.tile(SPEECH, 3), SPEECH, SPEECH[:2000]]
    clean = [FBANK(samples) for samples in speech]
    draws = NoiseDraws((None, 10.0, 20.0), itertools.cycle([0, 1, 2]))
    rows = mixer_of(noise).mix(clean, [len(samples) for samples in speech], draws)
    assert rows[0] is clean[0]
    assert len(rows[1]) == len(clean[0])
    assert len(rows[2]) == len(clean[0])
    for row, utterance in zip(rows[1:], clean[1:], strict=True):
        level = row.exp().sum(1)
        assert level[len(utterance) :].min() > 1e-3 * level[len(utterance) :].max(), "no gap"
        assert (row[: len(utterance)] >= utterance - 1e-4).all()


def test_silence_gives_finite_features(noise: NoiseConfig) -> None:
    """Digital silence has mel energies above zero, so that it takes noise at its own level, and is noise at another."""
    silence = np.zeros(RATE_HZ, np.float32)
    (row,) = mixed(mixer_of(noise), 0, [silence])
    assert row.isfinite().all() and row.max() < FBANK(silence).max() + 10.0
    soundfile.write(Path(noise.cuts).parent / "n0.wav", np.zeros(RATE_HZ // 2), RATE_HZ)
    speech = FBANK(SPEECH)
    (row,) = mixer_of(noise).mix([speech], [len(SPEECH)], NoiseDraws((10.0,), itertools.repeat(0)))
    assert row.isfinite().all() and (row >= speech - 1e-4).all()


def test_draws_follow_from_the_generator_and_cover_ratios_and_noises(noise: NoiseConfig) -> None:
    mixer = mixer_of(noise)
    firsts, ratios_db = set(), []
    for seed in range(40):
        draws = mixer.draw(5, np.random.default_rng(seed))
        again = mixer_of(noise).draw(5, np.random.default_rng(seed))
        order = list(itertools.islice(draws.noises, 7))
        assert draws.snr_db == again.snr_db and order == list(itertools.islice(again.noises, 7))
        assert sorted(order[:3]) == sorted(order[3:6]) == [0, 1, 2], "each noise once before any noise again"
        firsts.add(tuple(order[:3]))
        ratios_db += [ratio for ratio in draws.snr_db if ratio is not None]
    assert len(firsts) == 6 and len(ratios_db) == 200
    assert 10.0 <= min(ratios_db) < 10.5 and 19.5 < max(ratios_db) <= 20.0


def test_probability(noise: NoiseConfig) -> None:
    half = mixer_of(dataclasses.replace(noise, prob=0.5)).draw(400, np.random.default_rng(0))
    assert 160 < sum(ratio is not None for ratio in half.snr_db) < 240
    assert mixer_of(dataclasses.replace(noise, prob=0.0)).draw(20, np.random.default_rng(0)).snr_db == (None,) * 20


def test_noise_alone_is_what_is_added_to_silence(noise: NoiseConfig) -> None:
    """Its level is that of noise in the utterance that it replaces; the others are what they would be."""
    speech, ratio_db = FBANK(SPEECH), 3.0
    num_samples = [len(SPEECH)] * 2
    both = NoiseDraws((ratio_db, ratio_db), iter([0, 1, 2] * 2), (False, True))
    in_speech, alone = mixer_of(noise).mix([speech] * 2, num_samples, both)
    first, second = mixer_of(noise).mix([speech] * 2, num_samples, NoiseDraws((ratio_db,) * 2, iter([0, 1, 2] * 2)))
    assert torch.equal(in_speech, first)
    torch.testing.assert_close(energies(alone) + energies(speech), energies(second), rtol=1e-3, atol=1e-8)
    num_noises = np.ceil(2 * len(SPEECH) / RATE_HZ)
    assert energies(alone).sum() < 1.01 * energies(speech).sum() * 10 ** (-ratio_db / 10) * num_noises


def test_probability_of_noise_alone(noise: NoiseConfig) -> None:
    """The other draws of a run without it stay as they were before there was such a setting."""
    draws = mixer_of(dataclasses.replace(noise, prob=0.2, alone_prob=0.3)).draw(1000, np.random.default_rng(0))
    plain = mixer_of(dataclasses.replace(noise, prob=0.2)).draw(1000, np.random.default_rng(0))
    assert plain.is_alone is None and draws.is_alone is not None
    assert 250 < sum(draws.is_alone) < 350
    for alone, ratio, ratio_without in zip(draws.is_alone, draws.snr_db, plain.snr_db, strict=True):
        assert ratio is not None if alone else ratio == ratio_without


def test_long_noise_is_used_in_windows(tmp_path: Path) -> None:
    """All of a long recording is used, without a short rest; so is short noise, unless it has no frames to speak of."""
    generator = np.random.default_rng(0)
    cuts = []
    for name, duration_s in (("long", 33.0), ("rest", 26.0), ("ten", 10.0), ("short", 0.5), ("click", 0.05)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * generator.standard_normal(round(duration_s * RATE_HZ)), RATE_HZ)
        cuts.append(cut_of(tmp_path / f"{name}.wav", "-"))
    write_cuts(tmp_path / "noise_cuts.jsonl.gz", cuts)
    mixer = mixer_of(NoiseConfig(cuts=str(tmp_path / "noise_cuts.jsonl.gz"), prob=1.0))
    pieces = [(piece.recording_id, piece.start, piece.duration) for piece in mixer._pieces]
    long = [("long", start_s, 10.0) for start_s in (0.0, 10.0, 20.0)]
    rest = [("rest", 0.0, 10.0), ("rest", 10.0, 10.0), ("rest", 20.0, 6.0)]
    assert pieces == [*long, *rest, ("ten", 0.0, 10.0), ("short", 0.0, 0.5)]
    assert sorted(itertools.islice(mixer.draw(1, generator).noises, 8)) == list(range(8))
    write_cuts(tmp_path / "noise_cuts.jsonl.gz", cuts[-1:])
    with pytest.raises(DataError, match=r"it holds no noise of at least 0\.1 s"):
        mixed(mixer_of(mixer.config), 0)


def test_short_end_of_long_noise_has_the_frames_of_the_whole(noise: NoiseConfig) -> None:
    """Only as much of a noise is read as is used; its features are those of the whole noise nevertheless."""
    mixer = mixer_of(noise)
    whole, num_samples = mixer._noise(2, 10 * RATE_HZ)
    for max_samples in (81, 1600, 3999, 7800):
        part, same = mixer._noise(2, max_samples)
        assert same == num_samples == RATE_HZ // 2
        assert len(part) == FBANK.num_frames(max_samples)
        torch.testing.assert_close(part, whole[: len(part)], rtol=0, atol=0)


def test_refused(tmp_path: Path, noise: NoiseConfig) -> None:
    with pytest.raises(DataError, match=r"does not exist; create it with: zipasr prepare musan:DIR --out"):
        mixer_of(NoiseConfig(cuts=str(tmp_path / "absent.jsonl.gz")))
    with pytest.raises(ConfigError, match="prob must be within 0 and 1, but is 2"):
        NoiseConfig(prob=2.0)
    with pytest.raises(ConfigError, match="alone_prob must be within 0 and 1, but is -1"):
        NoiseConfig(alone_prob=-1.0)
    with pytest.raises(ConfigError, match="snr_db must be the lower and the upper end"):
        NoiseConfig(snr_db=(20.0, 10.0))
    (tmp_path / "n0.wav").unlink()
    (tmp_path / "n1.wav").unlink()
    (tmp_path / "n2.wav").unlink()
    with pytest.raises(DataError, match=r"the noise of .* cannot be read"):
        mixed(mixer_of(noise), 0)


def test_noise_at_another_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", np.ones(8000, np.float32), 8000)
    write_cuts(tmp_path / "noise_cuts.jsonl.gz", [cut_of(tmp_path / "slow.wav", "-")])
    mixer = mixer_of(NoiseConfig(cuts=str(tmp_path / "noise_cuts.jsonl.gz"), prob=1.0))
    with pytest.raises(DataError, match="noise must be at 16000 Hz, but slow"):
        mixed(mixer, 0)


def test_noise_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    samples = np.full(RATE_HZ, 0.1, np.float32)
    samples[100] = np.nan
    soundfile.write(tmp_path / "broken.wav", samples, RATE_HZ, subtype="FLOAT")
    write_cuts(tmp_path / "noise_cuts.jsonl.gz", [cut_of(tmp_path / "broken.wav", "-")])
    with pytest.raises(DataError, match="broken contains samples that are not finite"):
        mixed(mixer_of(NoiseConfig(cuts=str(tmp_path / "noise_cuts.jsonl.gz"), prob=1.0)), 0)


@pytest.fixture
def reader(tmp_path: Path) -> Callable[..., BatchReader]:
    """A reader of two utterances, one of them shorter, as a process that reads ahead receives it."""
    cuts: list[Any] = []
    for i, samples in enumerate((SPEECH, np.tile(SPEECH, 2))):
        soundfile.write(tmp_path / f"s{i}.flac", samples, RATE_HZ)
        cuts.append(cut_of(tmp_path / f"s{i}.flac", "LO HI"))
    tokenizer = Tokenizer.train(["LO HI"], kind="char", vocab_size=None)

    def make(noise: NoiseConfig | None, *, seed: int = 1, cache_mb: int = 0) -> BatchReader:
        config = BatchConfig(spec_augment=None, noise=noise, cache_mb=cache_mb)
        made = BatchReader(cuts, tokenizer, FbankConfig(), config, seed=seed)
        return pickle.loads(pickle.dumps(made))  # type: ignore[no-any-return]

    return make


def features_of(reader: BatchReader, epoch: int = 0, index: int = 0, speed: float = 1.0) -> torch.Tensor:
    return reader[epoch, index, (Item((0,), speed), Item((1,), 1.0))].features


def test_noise_of_batches_is_reproducible_and_new_in_each_epoch(
    noise: NoiseConfig, reader: Callable[..., BatchReader]
) -> None:
    """A batch has the same noise in a new process, after other batches, and with a cache."""
    clean, noisy = features_of(reader(None)), features_of(reader(noise))
    assert noisy.shape == clean.shape and (noisy > clean).float().mean() > 0.9
    assert torch.equal(features_of(reader(noise)), noisy)
    for other in (reader(noise), reader(noise, cache_mb=1)):
        places = ((1, 0), (0, 1), (2, 7))
        assert not any(torch.equal(features_of(other, *place), noisy) for place in places)
        assert torch.equal(features_of(other), noisy)
        assert bool(other._cache) == (other.config.cache_mb > 0)
    assert not torch.equal(features_of(reader(noise, seed=2)), noisy)
    assert torch.equal(features_of(reader(dataclasses.replace(noise, prob=0.0))), clean)


def test_noise_covers_the_padding_of_a_batch_but_not_its_lengths(
    noise: NoiseConfig, reader: Callable[..., BatchReader]
) -> None:
    """The valid frames are those of the utterance, at its speed."""
    for speed in (1.0, 0.9):
        batch = reader(noise)[0, 0, (Item((0,), speed), Item((1,), 1.0))]
        assert batch.feature_lens.tolist() == [FBANK.num_frames(round(len(SPEECH) / speed)), batch.features.shape[1]]
        assert batch.audio_s == pytest.approx(float(batch.feature_lens.sum()) / 100)
        padding = batch.features[0, batch.feature_lens[0] :]
        assert len(padding) > 20 and (padding.exp().sum(1) > 1e-6).all()


def test_settings_survive_json(noise: NoiseConfig) -> None:
    config = BatchConfig(noise=noise)
    assert from_json(BatchConfig, to_json(config)) == config
    assert BatchConfig().noise is None


def test_noise_alone_has_no_labels(noise: NoiseConfig, reader: Callable[..., BatchReader]) -> None:
    items = (Item((0,), 1.0), Item((1,), 1.0))
    batch = reader(dataclasses.replace(noise, alone_prob=1.0))[0, 0, items]
    assert batch.label_lens.tolist() == [0, 0] and batch.labels.shape == (2, 0)
    (whole,) = set(reader(noise)[0, 0, items].label_lens.tolist())
    half = reader(dataclasses.replace(noise, alone_prob=0.5))
    lens = torch.stack([half[0, i, items].label_lens for i in range(20)])
    assert set(lens.flatten().tolist()) == {0, whole}
