"""E-Branchformer: features (N, T, F) at 100 Hz -> `Encoded` frames (N, T', D) at 25 Hz.

A Branchformer block between two half feed-forward modules, whose merge also uses neighboring frames: a depthwise
convolution of the two concatenated branches precedes the linear layer. In training, whole blocks are skipped at random.
Source: Kim et al. 2023, arXiv:2210.00077. tests/baselines/test_published.py counts parameters and FLOPs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zipasr.baselines.attention import RelativeAttention
from zipasr.baselines.blocks import GatingMlp, check_halves, check_odd, check_positive, check_rates, zero_padding
from zipasr.baselines.encoder import BaselineConfig, BlockEncoder
from zipasr.nn.convolution import DepthwiseConv
from zipasr.nn.feedforward import SwishFeedForward


@dataclass(frozen=True, kw_only=True)
class EBranchformerConfig(BaselineConfig):
    """Configuration of an E-Branchformer. The defaults are the published large model."""

    kind: ClassVar[str] = "e_branchformer"
    """Name of this encoder family in JSON."""
    num_layers: int = 17
    feedforward: int = 1024
    """Hidden width of the feed-forward modules."""
    gating_channels: int = 3072
    """Hidden width of the gating MLP, even: one half is gated by the other."""
    merge_kernel_size: int = 31
    """Kernel size of the merge's convolution in frames at 25 Hz; odd."""
    layer_drop: float = 0.1
    """Probability of skipping a block in a training step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(feedforward=self.feedforward)
        check_halves(gating_channels=self.gating_channels)
        check_odd(merge_kernel_size=self.merge_kernel_size)
        check_rates(layer_drop=self.layer_drop)


def base() -> EBranchformerConfig:
    """E-Branchformer-B: 41.1 M parameters with its attention decoder and CTC layer, and 78.1 GFLOPs published.

    Inferred: no source states width, heads, blocks and hidden widths. They were chosen to fit these two numbers and give
    41.13 M parameters.
    """
    return EBranchformerConfig(
        subsampling_channels=256, num_layers=16, channels=256, num_heads=4, feedforward=512, gating_channels=1536
    )


def large() -> EBranchformerConfig:
    """E-Branchformer-L: 148.9 M parameters with its attention decoder and CTC layer, and 284.4 GFLOPs published.

    Matches: the published recipe gives 148,923,152 parameters.
    """
    return EBranchformerConfig()


class EBranchformerBlock(nn.Module):
    """x += FF(x) / 2, x += merge(attention(x), gating(x)), x += FF(x) / 2, each of a LayerNorm of x; LayerNorm."""

    def __init__(self, config: EBranchformerConfig) -> None:
        super().__init__()
        channels, dropout = config.channels, config.dropout
        self.feedforward1_norm = nn.LayerNorm(channels)
        self.feedforward1 = SwishFeedForward(channels, config.feedforward, dropout=dropout)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = RelativeAttention(channels, config.num_heads, dropout=dropout)
        self.gating_norm = nn.LayerNorm(channels)
        self.gating = GatingMlp(channels, config.gating_channels, config.kernel_size, dropout=dropout)
        self.merge_conv = DepthwiseConv(2 * channels, config.merge_kernel_size)
        self.merge = nn.Linear(2 * channels, channels)
        self.feedforward2_norm = nn.LayerNorm(channels)
        self.feedforward2 = SwishFeedForward(channels, config.feedforward, dropout=dropout)
        self.out_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D), given positions (2T - 1, D) and a mask (N, T), True at padding."""
        x = x + 0.5 * self.feedforward1(self.feedforward1_norm(x))
        far = self.dropout(self.attention(self.attention_norm(x), positions, padding_mask))
        near = self.dropout(self.gating(self.gating_norm(x), padding_mask))
        both = torch.cat([far, near], dim=-1)
        both = both + self.merge_conv(zero_padding(both, padding_mask))
        x = x + self.dropout(self.merge(both))
        x = x + 0.5 * self.feedforward2(self.feedforward2_norm(x))
        return self.out_norm(x)


class EBranchformer(BlockEncoder):
    """The E-Branchformer encoder; the module's docstring gives rates and lengths."""

    def __init__(self, config: EBranchformerConfig) -> None:
        super().__init__(
            config, (EBranchformerBlock(config) for _ in range(config.num_layers)), layer_drop=config.layer_drop
        )
