"""Batch normalisation that does not see padding: (N, T, D) -> (N, T, D).

In training, mean and variance are those of the valid frames of the batch, in float32; in eval mode, running averages.
Source: Ioffe and Szegedy 2015, arXiv:1502.03167; momentum and epsilon as published for Squeezeformer.
"""

import torch
from torch import Tensor, nn


class MaskedBatchNorm(nn.Module):
    """BatchNorm over the channels. Equals `nn.BatchNorm1d` where nothing is padding, and has the names of its tensors."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.015, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Normalise (N, T, D); `padding_mask` bool (N, T), True at padding."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = (
            self._batch_statistics(wide, padding_mask) if self.training else (self.running_mean, self.running_var)
        )
        y = (wide - mean) * (self.weight * (variance + self.epsilon).rsqrt()) + self.bias
        return y.to(x.dtype)

    def _batch_statistics(self, x: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (D,) of the valid frames; they enter the running ones unless there is no valid frame."""
        valid = (~padding_mask).unsqueeze(-1).to(x.dtype)
        num_valid = valid.sum()
        count = num_valid.clamp(min=1.0)
        mean = (x * valid).sum((0, 1)) / count
        variance = ((x - mean).square() * valid).sum((0, 1)) / count
        with torch.no_grad():
            rate = self.momentum * num_valid.clamp(max=1.0)
            unbiased = variance * (count / (count - 1.0).clamp(min=1.0))
            self.running_mean += rate * (mean - self.running_mean)
            self.running_var += rate * (unbiased - self.running_var)
        return mean, variance
