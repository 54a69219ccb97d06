"""Conformer as the Zipformer paper reproduced it: features (N, T, F) at 100 Hz -> `Encoded` (N, T', D) at 25 Hz.

Pre-norm blocks of half a feed-forward module, attention, convolution, half a feed-forward module. Unlike the original it
has LayerNorm in place of BatchNorm inside the convolution module.
Source: Gulati et al. 2020, arXiv:2005.08100; sizes of the rows "Conformer (reproduced)" of Yao et al. 2024,
arXiv:2310.11230, table 2. tests/baselines/test_published.py counts parameters and FLOPs.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from zipasr.baselines.attention import RelativeAttention
from zipasr.baselines.blocks import check_positive, zero_padding
from zipasr.baselines.encoder import BaselineConfig, BlockEncoder
from zipasr.nn.convolution import DepthwiseConv
from zipasr.nn.feedforward import SwishFeedForward


@dataclass(frozen=True, kw_only=True)
class ConformerConfig(BaselineConfig):
    """Configuration of a Conformer. The defaults are the published medium model."""

    kind: ClassVar[str] = "conformer"
    """Name of this encoder family in JSON."""
    subsampling_channels: int = 256
    num_layers: int = 16
    channels: int = 256
    num_heads: int = 4
    feedforward: int = 1024
    """Hidden width of the feed-forward modules."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(feedforward=self.feedforward)


# Parameters are counted with the transducer head of that recipe; only the style of that head is inferred.


def small() -> ConformerConfig:
    """Conformer-S: 9.8 M parameters and 29.1 GFLOPs published; ours has 9,789,436."""
    return ConformerConfig(subsampling_channels=144, channels=144, feedforward=576)


def medium() -> ConformerConfig:
    """Conformer-M: 28.4 M parameters and 77.0 GFLOPs published; ours has 28,417,500."""
    return ConformerConfig()


def large() -> ConformerConfig:
    """Conformer-L: 122.5 M parameters and 294.2 GFLOPs published; ours has 122,457,052.

    It has 18 blocks, one more than the original Conformer-L.
    """
    return ConformerConfig(subsampling_channels=512, num_layers=18, channels=512, num_heads=8, feedforward=2048)


class ConvolutionModule(nn.Module):
    """Gated linear unit, depthwise convolution, LayerNorm, Swish, projection."""

    def __init__(self, channels: int, kernel_size: int, *, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, 2 * channels)
        self.depthwise = DepthwiseConv(channels, kernel_size)
        self.norm = nn.LayerNorm(channels)
        self.out_proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D); `padding_mask` bool (N, T), True at padding."""
        convolved = self.depthwise(zero_padding(functional.glu(self.in_proj(x)), padding_mask))
        return self.dropout(self.out_proj(functional.silu(self.norm(convolved))))


class ConformerBlock(nn.Module):
    """x += FF(x) / 2, x += attention(x), x += convolution(x), x += FF(x) / 2, each of a LayerNorm of x; LayerNorm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        channels, dropout = config.channels, config.dropout
        self.feedforward1_norm = nn.LayerNorm(channels)
        self.feedforward1 = SwishFeedForward(channels, config.feedforward, dropout=dropout)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = RelativeAttention(channels, config.num_heads, dropout=dropout)
        self.convolution_norm = nn.LayerNorm(channels)
        self.convolution = ConvolutionModule(channels, config.kernel_size, dropout=dropout)
        self.feedforward2_norm = nn.LayerNorm(channels)
        self.feedforward2 = SwishFeedForward(channels, config.feedforward, dropout=dropout)
        self.out_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D), given positions (2T - 1, D) and a mask (N, T), True at padding."""
        x = x + 0.5 * self.feedforward1(self.feedforward1_norm(x))
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, padding_mask))
        x = x + self.convolution(self.convolution_norm(x), padding_mask)
        x = x + 0.5 * self.feedforward2(self.feedforward2_norm(x))
        return self.out_norm(x)


class Conformer(BlockEncoder):
    """The Conformer encoder; the module's docstring gives rates and lengths."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(config, (ConformerBlock(config) for _ in range(config.num_layers)))
