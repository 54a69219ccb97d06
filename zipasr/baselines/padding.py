"""What every comparison encoder does about padding: mark the frames beyond `lens` (N,), and zero them."""

import torch
from torch import Tensor

from zipasr.nn.placement import moved


def padding_mask(lens: Tensor, x: Tensor) -> Tensor:
    """Bool (N, T) on the device of `x` (N, T, ...), True at the frames beyond `lens` (N,)."""
    return torch.arange(x.shape[1], device=x.device) >= moved(lens, x.device).unsqueeze(1)


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (N, T, ...) with zeros where `mask` (N, T) is True, as a convolution sees what lies beyond the ends."""
    return x.masked_fill(mask.view(*mask.shape, *(1,) * (x.dim() - 2)), 0.0)
