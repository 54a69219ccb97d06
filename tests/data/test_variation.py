"""Variation of utterances. Reference: tones move as the warp says. Law: bounds of gain and silence, the seed decides
everything, nothing else changes. Contract: configuration."""

import numpy as np
import pytest
import torch
from torch import Tensor

from zipasr.data.variation import Variation, VariationConfig, warp_frequencies
from zipasr.errors import ConfigError
from zipasr.features import Fbank, FbankConfig, filter_centers_hz

CENTERS_HZ = filter_centers_hz(FbankConfig())


def utterance(num_frames: int = 200) -> Tensor:
    return torch.randn(num_frames, 80, generator=torch.Generator().manual_seed(0)) - 5.0


def varied(frames: Tensor, *, seed: int = 0, **settings: float) -> Tensor:
    config = VariationConfig(**({"frequency_warp": 0.0, "gain_db": 0.0, "edge_s": 0.0} | settings))
    return Variation(config, FbankConfig())(frames, np.random.default_rng(seed))


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.0, 1.1, 1.15])
@pytest.mark.parametrize("tone_hz", [500.0, 1700.0, 3500.0])
def test_tones_move_by_the_factor(factor: float, tone_hz: float) -> None:
    tone = 0.3 * np.sin(2 * np.pi * tone_hz * np.arange(8000) / 16_000)
    frames = Fbank()(tone.astype(np.float32))[10:40]
    moved = warp_frequencies(frames, factor, CENTERS_HZ).mean(0)
    expected = int(np.abs(CENTERS_HZ - tone_hz / factor).argmin())
    assert abs(int(moved.argmax()) - expected) <= 1  # the peak of a filter lies between two centers


@pytest.mark.parametrize("features", [FbankConfig(), FbankConfig(kind="whisper"), FbankConfig(num_mel_bins=23)])
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.2, 1.5])
def test_every_filter_takes_from_within_the_range_and_in_order(features: FbankConfig, factor: float) -> None:
    centers_hz = filter_centers_hz(features)
    places = warp_frequencies(torch.arange(float(len(centers_hz))).repeat(2, 1), factor, centers_hz)[0]
    assert (places.diff() >= 0).all()
    assert 0.0 <= places[0] and places[-1] <= len(centers_hz) - 1
    if factor == 1.0:
        torch.testing.assert_close(places, torch.arange(float(len(centers_hz))))
    else:
        assert (places[1] > 1.0) == (factor > 1.0)


def test_warp_is_linear_between_filters_and_straight_above_the_knee() -> None:
    centers_hz = np.array([1000.0, 2000.0, 4000.0, 7000.0])
    frames = torch.tensor([[0.0, 10.0, 20.0, 30.0]])
    # 1100 and 2200 Hz lie a tenth beyond their filters; 4000 Hz becomes 4400; 7000 Hz lies above 4363.6 Hz.
    knee_hz = 4800.0 / 1.1
    top_hz = 8000.0 - (8000.0 - 4800.0) / (8000.0 - knee_hz) * 1000.0
    expected = [1.0, 11.0, 20.0 + 10.0 * 400.0 / 3000.0, 20.0 + 10.0 * min(1.0, (top_hz - 4000.0) / 3000.0)]
    torch.testing.assert_close(warp_frequencies(frames, 1.1, centers_hz), torch.tensor([expected]))


def test_off_changes_nothing() -> None:
    frames = utterance()
    assert torch.equal(varied(frames), frames)


def test_gain_moves_all_energies_alike_within_its_bounds() -> None:
    frames = utterance()
    changes_db = []
    for seed in range(50):
        change = varied(frames, seed=seed, gain_db=6.0) - frames
        torch.testing.assert_close(change, change[:1, :1].expand_as(change), rtol=0, atol=2e-6)
        changes_db.append(float(change[0, 0]) * 10.0 / np.log(10.0))
    assert -6.0 <= min(changes_db) < -4.0 and 4.0 < max(changes_db) <= 6.0


def test_gain_is_that_of_louder_audio() -> None:
    audio = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    quiet, loud = Fbank()(audio), Fbank()(2.0 * audio)
    change_db = float((loud - quiet).mean()) * 10.0 / np.log(10.0)
    assert change_db == pytest.approx(20.0 * np.log10(2.0), abs=1e-3)


def test_silence_before_and_after_comes_from_the_quietest_frames() -> None:
    frames = utterance()
    frames[::10] -= 8.0  # a tenth is quiet
    leads, trails = [], []
    for seed in range(60):
        made = varied(frames, seed=seed, edge_s=0.4)
        (lead,) = [n for n in range(len(made) - len(frames) + 1) if torch.equal(made[n : n + len(frames)], frames)]
        leads.append(lead)
        trails.append(len(made) - len(frames) - lead)
        for row in (*made[:lead], *made[lead + len(frames) :]):
            assert any(torch.equal(row, quiet) for quiet in frames[::10])
    assert max(leads) <= 40 and max(trails) <= 40
    assert 30 <= leads.count(0) <= 50 and 30 <= trails.count(0) <= 50  # two of three have none
    assert max(leads) > 30 and max(trails) > 30
    assert leads != trails


def test_draws_do_not_depend_on_the_utterance() -> None:
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    vary = Variation(VariationConfig(), FbankConfig())
    vary(utterance(300), first)
    vary(utterance(0), second)
    assert first.random() == second.random()


def test_input_is_untouched_and_the_generator_decides() -> None:
    frames, vary = utterance(), Variation(VariationConfig(), FbankConfig())
    before = frames.clone()
    first, again, other = (vary(frames, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(frames, before)
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize(
    "settings", [{"frequency_warp": 0.6}, {"frequency_warp": -0.1}, {"gain_db": -1.0}, {"edge_s": -1.0}]
)
def test_wrong_values_are_refused(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"{name} must be .*but is {settings[name]}"):
        VariationConfig(**settings)
