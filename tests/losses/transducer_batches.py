"""Random batches for the tests of the transducer losses, all three losses of a batch, and parameters of these tests."""

import pytest
import torch

from zipasr.losses import full_transducer_loss, prune_ranges, pruned_transducer_loss, simple_transducer_loss
from zipasr.losses.lattice import KINDS

SCALES = ((0.25, 0.0), (0.0, 0.0), (0.1, 0.3))
"""Pairs of lm_scale and am_scale."""
all_kinds = pytest.mark.parametrize("kind", KINDS)


def make_batch(size=3, num_frames=9, num_labels=5, vocab_size=7, seed=0, is_ragged=True):
    """Random am, lm, labels and lens in float64; `regular` and other lattices both have paths."""
    generator = torch.Generator().manual_seed(seed)
    am = torch.randn(size, num_frames, vocab_size, generator=generator, dtype=torch.float64) * 2
    lm = torch.randn(size, num_labels + 1, vocab_size, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(1, vocab_size, (size, num_labels), generator=generator)
    frame_lens, label_lens = torch.full((size,), num_frames), torch.full((size,), num_labels)
    if is_ragged:
        frame_lens[1:] = torch.randint(num_labels, num_frames + 1, (size - 1,), generator=generator)
        label_lens[1:] = torch.randint(0, num_labels + 1, (size - 1,), generator=generator)
    return am, lm, labels, frame_lens, label_lens


def all_losses(am, lm, labels, frame_lens, label_lens, kind="regular", width=3):
    """Simple, pruned and full loss, side by side, with the joiner tanh(am + lm)."""
    simple = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0, kind=kind)
    band = prune_ranges(*simple[1:], frame_lens, label_lens, width, kind)
    index = band.positions_NTR.flatten(1)[:, :, None].expand(-1, -1, am.shape[2])
    rows = lm.gather(1, index).view(*band.positions_NTR.shape, am.shape[2])
    lens = labels, frame_lens, label_lens
    banded = torch.tanh(am[:, :, None] + rows) * 3
    pruned = pruned_transducer_loss(banded, band.first_label_NT, *lens, blank=0, kind=kind)
    full = full_transducer_loss(torch.tanh(am[:, :, None] + lm[:, None]) * 3, *lens, blank=0, kind=kind)
    return torch.stack([simple.loss_N, pruned, full])
