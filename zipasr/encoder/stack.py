"""A stack: blocks at a fraction of 50 Hz, with the Downsample, upsampling and Bypass around them.

(N, T, D) at 50 Hz -> (N, T, D) at 50 Hz.
Source: Yao et al. 2024, arXiv:2310.11230, section 3.1 and figure 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zipasr.encoder.conformer_pair import ConformerPair
from zipasr.encoder.layer import Bypass, LayerPast, LayerShape, ZipformerLayer, masked
from zipasr.nn.attention import RelativePositionalEncoding
from zipasr.nn.schedule import Schedule


class Downsample(nn.Module):
    """Average groups of `factor` frames with learned weights; the last frame is repeated to fill the last group."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, ceil(T / factor), D)."""
        fill = -x.shape[1] % self.factor
        if fill:
            x = torch.cat([x, x[:, -1:].expand(-1, fill, -1)], dim=1)
        groups = x.unflatten(1, (-1, self.factor))
        # Not a matrix product: under autocast that would round the residual stream to half precision.
        return (groups * self.bias.softmax(0).unsqueeze(1)).sum(2)


def upsample(x: Tensor, factor: int, num_frames: int) -> Tensor:
    """Repeat each frame of (N, T, D) `factor` times and keep the first `num_frames`."""
    return x.unsqueeze(2).expand(-1, -1, factor, -1).flatten(1, 2)[:, :num_frames]


class ZipformerStack(nn.Module):
    """Blocks that run at 50 Hz / `downsample_factor`; input and output are at 50 Hz."""

    def __init__(
        self,
        shape: LayerShape,
        *,
        num_layers: int,
        downsample_factor: int,
        pos_dropout: float,
        warmup: tuple[float, float],
    ) -> None:
        super().__init__()
        self.factor = downsample_factor
        self.positions = RelativePositionalEncoding(shape.pos_dim, dropout=pos_dropout)
        block = ConformerPair if shape.ablation.block == "conformer_pair" else ZipformerLayer
        self.layers = nn.ModuleList(
            block(shape, skip_rate=_layer_skip(i, num_layers, warmup, downsample_factor)) for i in range(num_layers)
        )
        for layer in self.layers[1:]:  # the published model initializes all layers of a stack alike
            layer.load_state_dict(self.layers[0].state_dict())
        if downsample_factor > 1:
            self.downsample = Downsample(downsample_factor)
            self.bypass = Bypass(shape.channels)

    def forward(
        self,
        x: Tensor,
        feature_mask: Tensor | None,
        attention_mask: Tensor | None,
        padding_mask: Tensor,
        chunk: int,
        pasts: Sequence[LayerPast] | None = None,
    ) -> Tensor:
        """Map (N, T, D) to (N, T, D) at 50 Hz.

        Args:
            x: (N, T, D) at 50 Hz.
            feature_mask: (N, 1, D) of 0 and 1, or None.
            attention_mask: bool (T, T) at 50 Hz, True where attention is masked, or None.
            padding_mask: bool (N, L + T) at 50 Hz, True at padding; L cached frames first, 0 without a past.
            chunk: frames at 50 Hz in a chunk, a multiple of the factor, or -1.
            pasts: cached left context of each block, or None.
        """
        before, factor = x, self.factor
        if factor > 1:
            x = self.downsample(x)
            padding_mask = padding_mask[:, ::factor]
            chunk = chunk // factor if chunk > 0 else chunk
        mask = padding_mask[:, None, None, :]
        if attention_mask is not None:
            mask = mask | attention_mask[::factor, ::factor]
        left = padding_mask.shape[1] - x.shape[1]
        given = (self.positions(x.shape[1], left), mask, padding_mask[:, left:], chunk)
        x = masked(x, feature_mask)
        for i, layer in enumerate(self.layers):
            # Blocks of an ablation that cannot stream take no past.
            x = masked(layer(x, *given) if pasts is None else layer(x, *given, pasts[i]), feature_mask)
        if factor > 1:
            x = self.bypass(before, upsample(x, factor, before.shape[1]))
        return x


def _layer_skip(index: int, num_layers: int, warmup: tuple[float, float], factor: int) -> Schedule:
    """Layer-skip rate: 1/2 until this layer's turn in the warm-up, then a small rate that grows with the factor."""
    begin, end = warmup
    width = (end - begin) / num_layers
    return Schedule(((begin + index * width, 0.5), (begin + (index + 1) * width, 0.035 * math.sqrt(factor))))
