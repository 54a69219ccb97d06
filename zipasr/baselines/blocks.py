"""Parts that several of the comparison encoders share: gating MLP, batch normalization, padding, and
checks of configurations.

Modules map (N, T, D) to (N, T, D) at any rate. Padding frames count as zeros, like the frames beyond both ends.
Source: Peng et al. 2022, arXiv:2207.02971, section 3.3 (gating MLP); Ioffe and Szegedy 2015, arXiv:1502.03167 (batch
normalization; momentum and epsilon as published for Squeezeformer).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.errors import ConfigError
from zipasr.nn.convolution import DepthwiseConv
from zipasr.nn.precision import widened


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (N, T, ...) with zeros where `mask` (N, T) is True, so that a convolution treats padding like the end."""
    return x.masked_fill(mask.view(*mask.shape, *(1,) * (x.dim() - 2)), 0.0)


class GatingMlp(nn.Module):
    """MLP in which one half of the hidden channels, normalized and convolved over time, gates the other half."""

    def __init__(self, channels: int, hidden_channels: int, kernel_size: int, *, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden_channels)
        self.gate_norm = nn.LayerNorm(hidden_channels // 2)
        self.gate_conv = DepthwiseConv(hidden_channels // 2, kernel_size)
        with torch.no_grad():  # the gate starts at about 1 for any input
            self.gate_conv.weight.normal_(std=1e-6)
            self.gate_conv.bias.fill_(1.0)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_channels // 2, channels)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D); `padding_mask` bool (N, T), True at padding."""
        content, gate = functional.gelu(self.in_proj(x)).chunk(2, dim=-1)
        gated = content * self.gate_conv(zero_padding(self.gate_norm(gate), padding_mask))
        return self.out_proj(self.dropout(gated))


class MaskedBatchNorm(nn.Module):
    """Batch normalization that ignores padding; without padding it equals `nn.BatchNorm1d`, whose tensor names it uses.

    In training, mean and variance are those of the valid frames of the batch, in float32; in eval mode, running averages.
    """

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
        """Normalize (N, T, D); `padding_mask` bool (N, T), True at padding."""
        wide = widened(x)
        mean, variance = (
            self._batch_statistics(wide, padding_mask) if self.training else (self.running_mean, self.running_var)
        )
        y = (wide - mean) * (self.weight * (variance + self.epsilon).rsqrt()) + self.bias
        return y.to(x.dtype)

    def _batch_statistics(self, x: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (D,) of the valid frames. Updates the running averages if there is a valid frame."""
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


def check_positive(**values: int) -> None:
    """Raise ConfigError unless every value is at least 1."""
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, but is {value}")


def check_heads(channels: int, num_heads: int) -> None:
    """Raise ConfigError unless the heads divide the channels, which are even for the sines and cosines of positions."""
    check_positive(channels=channels, num_heads=num_heads)
    if channels % num_heads or channels % 2:
        raise ConfigError(f"channels must be even and a multiple of num_heads = {num_heads}, but is {channels}")


def check_odd(**kernel_sizes: int) -> None:
    """Raise ConfigError unless every kernel size is odd, so that the kernel is symmetric around its frame."""
    check_positive(**kernel_sizes)
    for name, value in kernel_sizes.items():
        if value % 2 == 0:
            raise ConfigError(f"{name} must be odd, but is {value}")


def check_rates(**rates: float) -> None:
    """Raise ConfigError unless every dropout rate is in [0, 1)."""
    for name, value in rates.items():
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"{name} must be at least 0 and less than 1, but is {value}")


def check_halves(**widths: int) -> None:
    """Raise ConfigError unless every width can be split into two halves."""
    check_positive(**widths)
    for name, value in widths.items():
        if value % 2:
            raise ConfigError(f"{name} must be even, but is {value}")
