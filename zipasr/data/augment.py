"""Augmentation while training: SpecAugment on features (N, T, F) at 100 Hz, by lhotse, under a seed of ours.

Speed perturbation happens on the sound, where it is read (`zipasr.data.batching`).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from zipasr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Time warping and masks. The defaults are the published LibriSpeech recipe."""

    time_warp_frames: int = 80
    """Largest shift of the warped centre; utterances shorter than about twice this are not warped. 0: none."""
    num_frequency_masks: int = 2
    """Bands of mel bins set to the mean."""
    frequency_mask_bins: int = 27
    """A band is narrower than this."""
    num_time_masks: int = 10
    """Most spans of frames set to the mean."""
    time_mask_frames: int = 100
    """A span is shorter than this."""
    max_time_share: float = 0.15
    """Share of the frames that all spans together may take."""
    prob: float = 0.9
    """Probability of the warp, and again of the masks, for each utterance."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.prob <= 1.0:
            raise ConfigError(f"prob must be within 0 and 1, but is {self.prob}")
        if not 0.0 <= self.max_time_share <= 1.0:
            raise ConfigError(f"max_time_share must be within 0 and 1, but is {self.max_time_share}")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under its own random state of torch's CPU generator and of `random`, which lhotse draws from."""
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    torch.manual_seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)


def spec_augment(features: Tensor, lens: Tensor, config: SpecAugmentConfig) -> Tensor:
    """Warp and mask a padded batch.

    Args:
        features: (N, T, F).
        lens: (N,) valid frames; only they are warped, while masks may fall on padding as in the published recipe.
        config: what to do.
    Returns:
        (N, T, F), a new tensor. Draws come from `random` and torch's generator: call inside `seeded`.
    """
    from lhotse.dataset import SpecAugment

    transform = SpecAugment(
        time_warp_factor=config.time_warp_frames,
        num_feature_masks=config.num_frequency_masks,
        features_mask_size=config.frequency_mask_bins,
        num_frame_masks=config.num_time_masks,
        frames_mask_size=config.time_mask_frames,
        max_frames_mask_fraction=config.max_time_share,
        p=config.prob,
    )
    segments = torch.stack([torch.arange(len(lens)), torch.zeros_like(lens), lens], dim=1).int()
    return transform(features, segments)
