"""Convolutions over time of the comparison encoders: depthwise, and the gating MLP of both Branchformers.

Everything is (N, T, D). Padding frames count as zeros, like what lies beyond the ends.
Source: Peng et al. 2022, arXiv:2207.02971, section 3.3 (gating MLP).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.baselines.padding import zero_padding
from zipasr.nn.convolution import depthwise_conv


class DepthwiseConv(nn.Module):
    """Depthwise convolution over time that sees k//2 frames on both sides; it starts like `nn.Conv1d`."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, kernel_size, groups=channels)
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D); `padding_mask` bool (N, T), True at padding."""
        return depthwise_conv(zero_padding(x, padding_mask), self.weight, self.bias, padding=self.weight.shape[2] // 2)


class GatingMlp(nn.Module):
    """MLP whose hidden half is gated by the other half, normalised and convolved over time."""

    def __init__(self, channels: int, hidden_channels: int, kernel_size: int, *, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden_channels)
        self.gate_norm = nn.LayerNorm(hidden_channels // 2)
        self.gate_conv = DepthwiseConv(hidden_channels // 2, kernel_size)
        with torch.no_grad():  # the gate begins at about 1, whatever it sees
            self.gate_conv.weight.normal_(std=1e-6)
            self.gate_conv.bias.fill_(1.0)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_channels // 2, channels)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D); `padding_mask` bool (N, T), True at padding."""
        content, gate = functional.gelu(self.in_proj(x)).chunk(2, dim=-1)
        gated = content * self.gate_conv(self.gate_norm(gate), padding_mask)
        return self.out_proj(self.dropout(gated))
