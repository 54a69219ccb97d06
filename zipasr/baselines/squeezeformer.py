"""Squeezeformer: features (N, T, F) at 100 Hz -> `Encoded` frames (N, T', D) at 25 Hz, T' = ceil(T / 4).

Blocks of attention, feed-forward, convolution and feed-forward modules, normalized after each and scaled before each by
learned factors. A U-Net over time: the blocks in the middle work at 12.5 Hz, the last ones at 25 Hz again.
Source: Kim et al. 2022, arXiv:2206.00888. tests/baselines/test_published.py counts parameters and FLOPs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.baselines.attention import RelativeAttention, relative_positions
from zipasr.baselines.blocks import MaskedBatchNorm, check_positive, zero_padding
from zipasr.baselines.encoder import BaselineConfig
from zipasr.baselines.subsampling import SeparableSubsampling
from zipasr.errors import ConfigError
from zipasr.nn.convolution import DepthwiseConv
from zipasr.nn.encoded import Encoded, check_input, padding_mask
from zipasr.nn.feedforward import SwishFeedForward

_REDUCE_KERNEL_SIZE = 5


@dataclass(frozen=True, kw_only=True)
class SqueezeformerConfig(BaselineConfig):
    """Configuration of a Squeezeformer. The defaults are the published medium model."""

    kind: ClassVar[str] = "squeezeformer"
    """Name of this encoder family in JSON."""
    min_features: ClassVar[int] = 1
    subsampling_channels: int = 324
    num_layers: int = 20
    channels: int = 324
    num_heads: int = 4
    reduce_at: int = 9
    """Number of blocks before the rate is halved to 12.5 Hz."""
    recover_at: int = 19
    """Number of blocks before the rate returns to 25 Hz; more than `reduce_at`, at most `num_layers`."""
    feedforward: int = 1296
    """Hidden width of the feed-forward modules; 4 times `channels` as published."""
    dropout: float = 0.1
    """Dropout rate for the frames and after every module; attention weights have none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(feedforward=self.feedforward)
        if not 0 <= self.reduce_at < self.recover_at <= self.num_layers:
            raise ConfigError(
                f"0 <= reduce_at < recover_at <= num_layers must hold, but they are {self.reduce_at}, {self.recover_at} "
                f"and {self.num_layers}; set all three"
            )


# GFLOPs match within 2 %, the rest being element-wise operations.


def extra_small() -> SqueezeformerConfig:
    """Squeezeformer-XS: 9.0 M parameters with its CTC layer and 18.2 GFLOPs published; ours has 9.03 M."""
    return _published(16, 144, 4, reduce_at=7, recover_at=15)


def small() -> SqueezeformerConfig:
    """Squeezeformer-S: 18.6 M parameters with its CTC layer and 33.7 GFLOPs published; ours has 18.57 M."""
    return _published(18, 196, 4, reduce_at=8, recover_at=17)


def small_medium() -> SqueezeformerConfig:
    """Squeezeformer-SM: 28.2 M parameters with its CTC layer and 47.6 GFLOPs published; ours has 28.18 M."""
    return _published(16, 256, 4, reduce_at=7, recover_at=15)


def medium() -> SqueezeformerConfig:
    """Squeezeformer-M: 55.6 M parameters with its CTC layer and 88.4 GFLOPs published; ours has 55.62 M."""
    return _published(20, 324, 4, reduce_at=9, recover_at=19)


def medium_large() -> SqueezeformerConfig:
    """Squeezeformer-ML: 125.1 M parameters with its CTC layer and 183.3 GFLOPs published; ours has 125.03 M."""
    return _published(18, 512, 8, reduce_at=8, recover_at=17)


def large() -> SqueezeformerConfig:
    """Squeezeformer-L: 236.3 M parameters with its CTC layer and 333.7 GFLOPs published; ours has 236.25 M."""
    return _published(22, 640, 8, reduce_at=10, recover_at=21)


def _published(num_layers: int, channels: int, num_heads: int, *, reduce_at: int, recover_at: int) -> SqueezeformerConfig:
    return SqueezeformerConfig(
        subsampling_channels=channels,
        num_layers=num_layers,
        reduce_at=reduce_at,
        recover_at=recover_at,
        channels=channels,
        num_heads=num_heads,
        feedforward=4 * channels,
    )


class Scale(nn.Module):
    """Learned scale and bias of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return x * self.weight + self.bias


class ConvolutionModule(nn.Module):
    """Pointwise to twice the width, Swish, depthwise convolution, BatchNorm, Swish, projection."""

    def __init__(self, channels: int, kernel_size: int, *, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, 2 * channels)
        self.depthwise = DepthwiseConv(2 * channels, kernel_size)
        self.norm = MaskedBatchNorm(2 * channels)
        self.out_proj = nn.Linear(2 * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D); `padding_mask` bool (N, T), True at padding."""
        convolved = self.depthwise(zero_padding(functional.silu(self.in_proj(x)), padding_mask))
        return self.dropout(self.out_proj(functional.silu(self.norm(convolved, padding_mask))))


class SqueezeformerBlock(nn.Module):
    """Four times x = LayerNorm(x + module(scale(x))): attention, feed-forward, convolution, feed-forward."""

    def __init__(self, config: SqueezeformerConfig) -> None:
        super().__init__()
        channels, dropout = config.channels, config.dropout
        self.attention_scale = Scale(channels)
        self.attention = RelativeAttention(channels, config.num_heads, dropout=0.0)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward1_scale = Scale(channels)
        self.feedforward1 = SwishFeedForward(channels, config.feedforward, dropout=dropout)
        self.feedforward1_norm = nn.LayerNorm(channels)
        self.convolution_scale = Scale(channels)
        self.convolution = ConvolutionModule(channels, config.kernel_size, dropout=dropout)
        self.convolution_norm = nn.LayerNorm(channels)
        self.feedforward2_scale = Scale(channels)
        self.feedforward2 = SwishFeedForward(channels, config.feedforward, dropout=dropout)
        self.feedforward2_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D), given positions (2T - 1, D) and a mask (N, T), True at padding."""
        attended = self.attention(self.attention_scale(x), positions, padding_mask)
        x = self.attention_norm(x + self.dropout(attended))
        x = self.feedforward1_norm(x + self.feedforward1(self.feedforward1_scale(x)))
        x = self.convolution_norm(x + self.convolution(self.convolution_scale(x), padding_mask))
        return self.feedforward2_norm(x + self.feedforward2(self.feedforward2_scale(x)))


class TimeReduction(nn.Module):
    """Halves the rate by a depthwise convolution of stride 2 and a pointwise one; frame t depends on frames 2t to 2t + 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, _REDUCE_KERNEL_SIZE, stride=2, groups=channels)
        self.pointwise = nn.Linear(channels, channels)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, ceil(T / 2), D); `padding_mask` bool (N, T), True at padding."""
        padded = functional.pad(zero_padding(x, padding_mask), (0, 0, 0, _REDUCE_KERNEL_SIZE - 1))
        return self.pointwise(self.depthwise(padded.transpose(1, 2)).transpose(1, 2))


class Squeezeformer(nn.Module):
    """The Squeezeformer encoder; the module's docstring gives rates and lengths."""

    def __init__(self, config: SqueezeformerConfig) -> None:
        super().__init__()
        self.config = config
        self.output_channels = channels = config.channels
        self.subsampling = SeparableSubsampling(
            config.num_features, config.subsampling_channels, channels, dropout=config.dropout
        )
        self.norm = nn.LayerNorm(channels)
        blocks = [SqueezeformerBlock(config) for _ in range(config.num_layers)]
        self.first_blocks = nn.ModuleList(blocks[: config.reduce_at])
        self.reduce = TimeReduction(channels)
        self.reduced_blocks = nn.ModuleList(blocks[config.reduce_at : config.recover_at])
        self.recover = nn.Linear(channels, channels)
        self.last_blocks = nn.ModuleList(blocks[config.recover_at :])

    def output_length(self, num_frames: int) -> int:
        """Number of frames at 25 Hz that come from `num_frames` features at 100 Hz."""
        return (num_frames + 3) // 4

    def forward(self, features: Tensor, lens: Tensor) -> Encoded:
        """Encode a padded batch. The result depends neither on what the padding holds nor on the other utterances.

        In training it does depend on the other utterances: BatchNorm uses the statistics of all valid frames of the batch.

        Args:
            features: (N, T, F) log-mel features at 100 Hz, T >= 1.
            lens: (N,) valid frames of each, int64.
        Returns:
            Frames (N, ceil(T / 4), D) at 25 Hz and their lengths.
        Raises:
            ValueError: shapes or lengths disagree.
        """
        check_input(features, lens, num_features=self.config.num_features, min_frames=1)
        x = self.norm(self.subsampling(features, lens))
        lens = (lens + 3) // 4
        mask, positions = padding_mask(lens, x), relative_positions(x)
        skip = _run(self.first_blocks, x, positions, mask)
        x = self.reduce(skip, mask)
        x = _run(self.reduced_blocks, x, relative_positions(x), padding_mask((lens + 1) // 2, x))
        x = skip + self.recover(x.repeat_interleave(2, dim=1)[:, : skip.shape[1]])
        return Encoded(_run(self.last_blocks, x, positions, mask), lens)


def _run(blocks: nn.ModuleList, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, positions, mask)
    return x
