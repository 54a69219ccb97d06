"""Cuts of tones, and comparison of their batches, for tests of plans, batches and reading."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from tests.train.tones import RATE_HZ, cut_of, say
from zipasr.data.augment import SpecAugmentConfig
from zipasr.data.batching import Batch, BatchConfig
from zipasr.tokenizer import Tokenizer

TEXTS = ("LO", "MID HI", "UP", "DOWN LO MID", "HI", "UP DOWN", "MID")
CONFIG = BatchConfig(
    max_duration_s=2.5,
    num_buckets=2,
    concat_prob=0.5,
    concat_max_s=2.0,
    spec_augment=SpecAugmentConfig(time_warp_frames=10, time_mask_frames=10, prob=1.0),
)


def tone_cuts(folder: Path) -> list[Any]:
    """One cut for each of the texts, the same every time."""
    generator = np.random.default_rng(0)
    cuts = []
    for i, text in enumerate(TEXTS):
        soundfile.write(folder / f"{i}.flac", say(text.split(), generator), RATE_HZ)
        cuts.append(cut_of(folder / f"{i}.flac", text))
    return cuts


def tone_tokenizer() -> Tokenizer:
    """A tokenizer of the characters in the texts."""
    return Tokenizer.train(TEXTS, kind="char", vocab_size=14)


def assert_same(a: Batch, b: Batch) -> None:
    """Check that two batches are equal bit by bit."""
    for name in ("features", "feature_lens", "labels", "label_lens"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.ids, a.audio_s) == (b.ids, b.audio_s)
