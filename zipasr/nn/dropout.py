"""Dropout with a scheduled rate, and masks that drop whole sequences."""

import torch
from torch import Tensor
from torch.nn import functional

from zipasr.nn.schedule import Schedule, ScheduledModule

DROPOUT = Schedule(((0.0, 0.3), (20000.0, 0.1)))
"""The published dropout rate of feed-forward modules and Conv-Embed."""


class Dropout(ScheduledModule):
    """Elementwise dropout; with `is_shared_over_time` all frames share one mask (N, 1, D)."""

    def __init__(self, rate: Schedule | float, *, is_shared_over_time: bool = False) -> None:
        super().__init__()
        self.rate, self.is_shared_over_time = rate, is_shared_over_time

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of (N, T, D) in training mode and rescale the rest."""
        rate = self.value(self.rate) if self.training else 0.0
        if rate <= 0.0:
            return x
        if not self.is_shared_over_time:
            return functional.dropout(x, rate)
        mask = torch.rand(x.shape[0], 1, *x.shape[2:], device=x.device) > rate
        return x * (mask.to(x.dtype) / (1.0 - rate))


def sequence_mask(x: Tensor, rate: float) -> Tensor:
    """0/1 mask (N, 1, ..., 1) that is 0 with probability `rate` for each sequence of `x` (N, ...); no rescaling."""
    shape = (x.shape[0],) + (1,) * (x.dim() - 1)
    return (torch.rand(shape, device=x.device) > rate).to(x.dtype)
