"""SpecAugment. Law: the seed determines everything and nothing outside the masks changes; masks stay within their bounds."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zipasr.data.augment import SpecAugmentConfig, seeded, spec_augment, two_views
from zipasr.errors import ConfigError

F = 80


def augment(features: Tensor, config: SpecAugmentConfig, seed: int = 0) -> Tensor:
    lens = torch.full((len(features),), features.shape[1])
    with seeded(seed):
        return spec_augment(features, lens, config)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) - 5.0


def test_seed_decides_everything() -> None:
    features = noise(4, 300, F)
    random.seed(1)
    np.random.seed(1)
    first = augment(features, SpecAugmentConfig(), seed=5)
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    assert torch.equal(augment(features, SpecAugmentConfig(), seed=5), first)
    assert not torch.equal(augment(features, SpecAugmentConfig(), seed=6), first)


def test_random_states_outside_are_untouched() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), np.random.random()

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = draw()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    augment(noise(2, 300, F), SpecAugmentConfig())
    assert draw() == expected


def test_input_is_untouched() -> None:
    features = noise(2, 300, F)
    before = features.clone()
    augment(features, SpecAugmentConfig(prob=1.0))
    assert torch.equal(features, before)


@settings(deadline=None, max_examples=60)
@given(
    num_frames=st.integers(1, 400),
    config=st.builds(
        SpecAugmentConfig,
        time_warp_frames=st.sampled_from([0, 1, 20, 80]),
        num_frequency_masks=st.integers(0, 3),
        frequency_mask_bins=st.sampled_from([1, 27, 81, 200]),
        num_time_masks=st.integers(0, 12),
        time_mask_frames=st.sampled_from([1, 3, 100]),
        max_time_share=st.sampled_from([0.0, 0.01, 0.15, 1.0]),
        prob=st.sampled_from([0.0, 0.9, 1.0]),
    ),
    seed=st.integers(0, 5),
)
def test_any_length_under_any_setting(num_frames: int, config: SpecAugmentConfig, seed: int) -> None:
    features = noise(2, num_frames, F)
    out = augment(features, config, seed)
    assert out.shape == features.shape
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("seed", range(10))
def test_masks_are_bounded(seed: int) -> None:
    config = SpecAugmentConfig(time_warp_frames=0, prob=1.0)
    features = noise(1, 500, F)
    changed = augment(features, config, seed)[0] != features[0]
    masked_bins, masked_frames = changed.all(0), changed.all(1)
    assert masked_bins.sum() <= 2 * 26
    assert masked_frames.sum() <= 0.15 * 500
    assert torch.equal(changed, masked_bins | masked_frames.unsqueeze(1))
    assert (augment(features, config, seed)[0][changed] - features.mean()).abs().max() < 1e-6


def test_no_masks_and_no_warp_change_nothing() -> None:
    features = noise(3, 200, F)
    off = SpecAugmentConfig(time_warp_frames=0, num_frequency_masks=0, num_time_masks=0, prob=1.0)
    assert torch.equal(augment(features, off), features)
    assert torch.equal(augment(features, SpecAugmentConfig(prob=0.0)), features)


def test_warp_leaves_padding_alone() -> None:
    features, lens = noise(2, 300, F), torch.tensor([300, 200])
    features[1, 200:] = -23.0
    config = SpecAugmentConfig(time_warp_frames=20, num_frequency_masks=0, num_time_masks=0, prob=1.0)
    with seeded(0):
        out = spec_augment(features, lens, config)
    assert not torch.equal(out[1, :200], features[1, :200])
    assert torch.equal(out[1, 200:], features[1, 200:])


# Two views


def views_of(features: Tensor, lens: Tensor, config: SpecAugmentConfig, ratio: float = 2.5, seed: int = 0) -> Tensor:
    with seeded(seed):
        return two_views(features, lens, config, time_mask_ratio=ratio)


def test_both_views_have_one_warp() -> None:
    features, lens = noise(2, 300, F), torch.tensor([300, 200])
    features[1, 200:] = -23.0
    config = SpecAugmentConfig(time_warp_frames=20, num_frequency_masks=0, num_time_masks=0, prob=1.0)
    first, second = views_of(features, lens, config).chunk(2)
    assert torch.equal(first, second)
    assert not torch.equal(first[1, :200], features[1, :200])
    assert torch.equal(first[1, 200:], features[1, 200:])
    with seeded(0):
        assert torch.equal(first, spec_augment(features, lens, config))


def test_views_are_masked_apart_and_nothing_else_is_changed() -> None:
    features, lens = noise(3, 400, F), torch.full((3,), 400)
    config = SpecAugmentConfig(time_warp_frames=0, prob=1.0)
    views = views_of(features, lens, config)
    assert views.shape == (6, 400, F)
    changed = views != features.repeat(2, 1, 1)
    for view in changed:
        assert torch.equal(view, view.all(0) | view.all(1).unsqueeze(1))
    for n in range(3):
        assert not torch.equal(changed[n], changed[n + 3])


@pytest.mark.parametrize(("ratio", "lowest", "highest"), [(1.0, 0.05, 0.15), (2.5, 0.16, 0.375), (20.0, 0.3, 1.0)])
def test_time_masks_grow_with_the_ratio(ratio: float, lowest: float, highest: float) -> None:
    config = SpecAugmentConfig(time_warp_frames=0, num_frequency_masks=0, prob=1.0)
    features, lens = noise(8, 1000, F), torch.full((8,), 1000)
    shares = (views_of(features, lens, config, ratio) != features.repeat(2, 1, 1)).all(2).float().mean(1)
    assert shares.max() <= highest + 1e-6
    assert shares.max() > lowest
    assert shares.mean() > 0.5 * lowest


def test_views_follow_from_the_seed() -> None:
    features, lens = noise(2, 300, F), torch.tensor([300, 250])
    expected = views_of(features, lens, SpecAugmentConfig(), seed=4)
    assert torch.equal(views_of(features, lens, SpecAugmentConfig(), seed=4), expected)
    assert not torch.equal(views_of(features, lens, SpecAugmentConfig(), seed=5), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prob": 1.1},
        {"prob": -0.1},
        {"max_time_share": 2.0},
        {"time_warp_frames": -1},
        {"num_frequency_masks": -1},
        {"num_time_masks": -1},
        {"frequency_mask_bins": 0},
        {"time_mask_frames": 0},
    ],
)
def test_wrong_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SpecAugmentConfig(**wrong)


@pytest.mark.parametrize("ratio", [2.5, 1e300])
def test_two_views_take_the_most_masks(ratio: float) -> None:
    config = SpecAugmentConfig(num_time_masks=1000)
    with seeded(0):
        views = two_views(torch.rand(1, 200, 80), torch.tensor([200]), config, time_mask_ratio=ratio)
    assert views.shape == (2, 200, 80)
