"""Two Conformer-style blocks that replace one Zipformer block, for the paper's ablation. (N, T, D) -> (N, T, D).

Each has feed-forward, self-attention with its own weights, convolution, feed-forward, normalization and Bypass, built from
the modules of Zipformer. The hidden widths of its two feed-forwards add up to twice that of the Zipformer block.
Source: Yao et al. 2024, arXiv:2310.11230, table 5; the widths are inferred from the published parameter count.
"""

from torch import Tensor, nn

from zipasr.encoder.ablation import NoBypass
from zipasr.encoder.layer import (
    ATTENTION_SKIP,
    CONV_SKIP,
    FEED_FORWARD_SKIP,
    Bypass,
    LayerShape,
    SkippingBlock,
    masked,
)
from zipasr.nn.attention import whitening_limit
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.schedule import Schedule


class ConformerStyleBlock(SkippingBlock):
    """One Conformer-style block; shapes and constraints as in the Zipformer block."""

    def __init__(self, shape: LayerShape, *, skip_rate: Schedule | float = 0.0) -> None:
        super().__init__()
        channels, ablation = shape.channels, shape.ablation
        self.feed_forward1 = shape.feed_forward(shape.feedforward)
        self.attention_weights = shape.attention_weights()
        self.self_attention = shape.self_attention()
        self.conv = shape.convolution()
        self.feed_forward2 = shape.feed_forward(shape.feedforward)
        self.norm = ablation.make_norm(channels)
        self.bypass = Bypass(channels, skip_rate=skip_rate) if ablation.has_bypass else NoBypass()
        self.balancer1 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.2, max_abs=4.0)
        self.balancer2 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.1, max_abs=4.0)
        self.whiten = Whiten(whitening_limit(4.0, 3.0))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, padding_mask: Tensor, chunk_frames: int = -1) -> Tensor:
        """Map (N, T, D) to (N, T, D); arguments as in `ZipformerLayer.forward`."""
        before = x
        x = x + self.feed_forward1(x)
        weights = self.attention_weights(x, positions, mask)
        x = x + masked(self.self_attention(x, weights), self._keep(x, ATTENTION_SKIP))
        x = x + masked(self.conv(x, padding_mask, chunk_frames), self._keep(x, CONV_SKIP))
        x = x + masked(self.feed_forward2(x), self._keep(x, FEED_FORWARD_SKIP))
        x = self.bypass(before, self.norm(self.balancer1(x)))
        return self.whiten(self.balancer2(x))


class ConformerPair(nn.Module):
    """Two Conformer-style blocks, one after the other."""

    def __init__(self, shape: LayerShape, *, skip_rate: Schedule | float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConformerStyleBlock(shape, skip_rate=skip_rate) for _ in range(2))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, padding_mask: Tensor, chunk_frames: int = -1) -> Tensor:
        """Map (N, T, D) to (N, T, D); arguments as in `ZipformerLayer.forward`."""
        for block in self.blocks:
            x = block(x, positions, mask, padding_mask, chunk_frames)
        return x
