"""Augmentation of features in training: lhotse's SpecAugment on (N, T, F) at 100 Hz with our own seed; one view of every
utterance, or two views (2N, T, F) for consistency training.

Speed perturbation applies to the audio when it is read (`zipasr.data.batching`).
"""

import dataclasses
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zipasr.config import require_fields


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Time warping and masks. The defaults are those of the published LibriSpeech recipe."""

    time_warp_frames: int = 80
    """Upper bound on the shift of the warped center; utterances shorter than about twice this are not warped. 0: none."""
    num_frequency_masks: int = 2
    """Number of bands of mel bins that are set to the mean; 0: none."""
    frequency_mask_bins: int = 27
    """Exclusive upper bound on the width of a band."""
    num_time_masks: int = 10
    """Upper bound on the number of spans of frames that are set to the mean; 0: none."""
    time_mask_frames: int = 100
    """Exclusive upper bound on the length of a span."""
    max_time_share: float = 0.15
    """Upper bound on the share of frames in all spans together; 0: none."""
    prob: float = 0.9
    """Probability of the warp, and independently of the masks, for each utterance."""

    def __post_init__(self) -> None:
        require_fields(self, "within 0 and 1", "prob", "max_time_share")
        require_fields(self, "0 or more", "time_warp_frames")
        require_fields(self, "from 0 to 1000", "num_frequency_masks", "num_time_masks")
        require_fields(self, "at least 1", "frequency_mask_bins", "time_mask_frames")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with seeded generators (torch's CPU generator, `random`, numpy), and restore their states after it."""
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def spec_augment(features: Tensor, lens: Tensor, config: SpecAugmentConfig) -> Tensor:
    """Warp and mask a padded batch.

    Args:
        features: (N, T, F).
        lens: (N,) valid frames; only these are warped, while masks may cover padding as in the published recipe.
        config: the warp and the masks.
    Returns:
        (N, T, F), a new tensor. It draws from the global generators of three libraries: call it inside `seeded`.
    """
    from lhotse.dataset import SpecAugment

    # Lhotse divides by zero, or draws from an empty range, if no frame may be masked: use a span of 0 frames instead.
    masked_frames = config.max_time_share * features.shape[1]
    num_spans = min(config.num_time_masks, math.ceil(masked_frames / config.time_mask_frames))
    has_spans = num_spans > 0 and masked_frames >= num_spans
    transform = SpecAugment(
        time_warp_factor=config.time_warp_frames,
        num_feature_masks=config.num_frequency_masks,
        features_mask_size=min(config.frequency_mask_bins, features.shape[2] + 1),
        num_frame_masks=config.num_time_masks if has_spans else 1,
        frames_mask_size=config.time_mask_frames if has_spans else 1,
        max_frames_mask_fraction=config.max_time_share if has_spans else 1.0,
        p=config.prob,
    )
    segments = torch.stack([torch.arange(len(lens)), torch.zeros_like(lens), lens], dim=1).int()
    return transform(features, segments)


def two_views(features: Tensor, lens: Tensor, config: SpecAugmentConfig, *, time_mask_ratio: float) -> Tensor:
    """Warp a padded batch once, and mask two copies of it independently with more time masks.

    Args:
        features: (N, T, F).
        lens: (N,) valid frames.
        config: the warp, the frequency masks, and the time masks for training with one view.
        time_mask_ratio: factor of the number of time masks of a view, and of the share of frames that they may cover.
    Returns:
        (2N, T, F): row n and row N + n are views of one utterance. It draws like `spec_augment`.
    Source: Yao et al. 2024, arXiv:2410.05101, section 3.2; the published recipe has 2.5 times the masks.
    """
    warped = spec_augment(features, lens, dataclasses.replace(config, num_frequency_masks=0, num_time_masks=0))
    masks = dataclasses.replace(
        config,
        time_warp_frames=0,
        num_time_masks=int(min(config.num_time_masks * time_mask_ratio, 1000)),  # the most that a configuration may have
        max_time_share=min(config.max_time_share * time_mask_ratio, 1.0),
    )
    return spec_augment(warped.repeat(2, 1, 1), lens.repeat(2), masks)
