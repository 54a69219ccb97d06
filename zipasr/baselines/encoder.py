"""The settings that the comparison encoders share, and the frame of Conformer, Branchformer and E-Branchformer: subsampling,
a sequence of blocks, LayerNorm.

Features (N, T, F) at 100 Hz -> `Encoded` frames (N, T', D) at 25 Hz, T' = ((T - 1) // 2 - 1) // 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from zipasr.baselines.attention import relative_positions
from zipasr.baselines.blocks import check_heads, check_odd, check_positive, check_rates, zero_padding
from zipasr.baselines.subsampling import MIN_FRAMES, Conv2dSubsampling, output_length, output_lengths
from zipasr.config import require_fields
from zipasr.errors import ConfigError
from zipasr.nn.constraint import chance
from zipasr.nn.encoded import Encoded, check_input, padding_mask


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """The settings that the comparison encoders share; the defaults are those of the published Branchformer."""

    min_features: ClassVar[int] = MIN_FRAMES
    """Fewest mel bins that the subsampling takes."""

    num_features: int = 80
    """Mel bins F of the input."""
    subsampling_channels: int = 512
    """Channels of the subsampling convolutions; the published models have as many as `channels`."""
    num_layers: int = 18
    """Number of blocks."""
    channels: int = 512
    """Width D of the frames; even, a multiple of `num_heads`."""
    num_heads: int = 8
    """Attention heads H."""
    kernel_size: int = 31
    """Kernel size of the depthwise convolutions in frames, at the rate of their block; odd."""
    dropout: float = 0.1
    """Dropout rate for frames, positions, attention weights and every module."""

    def __post_init__(self) -> None:
        if self.num_features < self.min_features:
            raise ConfigError(f"num_features must be at least {self.min_features}, but is {self.num_features}")
        check_positive(subsampling_channels=self.subsampling_channels, num_layers=self.num_layers)
        require_fields(self, "at most 1000", "num_layers")  # built one by one: a billion without end
        check_heads(self.channels, self.num_heads)
        check_odd(kernel_size=self.kernel_size)
        check_rates(dropout=self.dropout)


class BlockEncoder(nn.Module):
    """An encoder made of the given blocks.

    A block maps x (N, T, D), positions (2T - 1, D) and a padding mask (N, T) to (N, T, D). In training, each block is
    skipped for the whole batch with probability `layer_drop`.
    """

    def __init__(self, config: BaselineConfig, blocks: Iterable[nn.Module], *, layer_drop: float = 0.0) -> None:
        super().__init__()
        self.config, self.output_channels, self.layer_drop = config, config.channels, layer_drop
        self.subsampling = Conv2dSubsampling(
            config.num_features, config.subsampling_channels, config.channels, dropout=config.dropout
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.channels)

    def output_length(self, num_frames: int) -> int:
        """Number of frames at 25 Hz that come from `num_frames` features at 100 Hz."""
        return output_length(num_frames)

    def forward(self, features: Tensor, lens: Tensor) -> Encoded:
        """Encode a padded batch. The result depends neither on what the padding holds nor on the other utterances.

        Args:
            features: (N, T, F) log-mel features at 100 Hz, T >= 7.
            lens: (N,) valid frames of each, int64.
        Returns:
            Frames (N, ((T - 1) // 2 - 1) // 2, D) at 25 Hz and their lengths.
        Raises:
            ValueError: shapes or lengths disagree.
        """
        check_input(features, lens, num_features=self.config.num_features, min_frames=MIN_FRAMES)
        features = zero_padding(features, padding_mask(lens, features))  # nan would spread, even with a weight of 0
        x, lens = self.subsampling(features), output_lengths(lens)
        mask, positions = padding_mask(lens, x), self.dropout(relative_positions(x))
        for block in self.blocks:
            if not (self.training and chance(self.layer_drop)):
                x = block(x, positions, mask)
        return Encoded(self.norm(x), lens)
