"""The frame of Conformer, Branchformer and E-Branchformer: subsampling, a sequence of blocks, LayerNorm.

Features (N, T, F) at 100 Hz -> `Encoded` frames (N, T', D) at 25 Hz, T' = ((T - 1) // 2 - 1) // 2.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from zipasr.baselines.attention import relative_positions
from zipasr.baselines.blocks import padding_mask
from zipasr.baselines.subsampling import MIN_FRAMES, Conv2dSubsampling, output_length, output_lengths
from zipasr.nn.constraint import chance
from zipasr.nn.encoded import Encoded, check_input


class BlockEncoder(nn.Module):
    """An encoder made of the given blocks.

    A block maps x (N, T, D), positions (2T - 1, D) and a padding mask (N, T) to (N, T, D). In training, each block is
    skipped for the whole batch with probability `layer_drop`.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        num_features: int,
        subsampling_channels: int,
        channels: int,
        dropout: float,
        layer_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features, self.output_channels, self.layer_drop = num_features, channels, layer_drop
        self.subsampling = Conv2dSubsampling(num_features, subsampling_channels, channels, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels)

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
        check_input(features, lens, num_features=self.num_features, min_frames=MIN_FRAMES)
        x, lens = self.subsampling(features), output_lengths(lens)
        mask, positions = padding_mask(lens, x), self.dropout(relative_positions(x))
        for block in self.blocks:
            if not (self.training and chance(self.layer_drop)):
                x = block(x, positions, mask)
        return Encoded(self.norm(x), lens)
