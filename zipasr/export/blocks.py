"""Replacements for the modules of a Zipformer block and of Conv-Embed in a graph; `export.graph` inserts them.

Each computes the same values as the module that it replaces does in eval mode. Constants are computed in advance.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.encoder.layer import Bypass
from zipasr.export.scan import scan
from zipasr.nn.convolution import ChunkCausalDepthwiseConv, ConvolutionModule, depthwise_conv
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.norm import BiasNorm
from zipasr.nn.swoosh import SHIFT_AND_OFFSET, SLOPE, ActivationKind, SwooshLinear


class Blocks(NamedTuple):
    """Division of T frames into M blocks of R frames; the last frame, repeated, fills the last block."""

    num_frames: int
    """M · R."""
    numbers: Tensor
    """(M · R,) numbers of the frames."""
    starts: Tensor
    """(M,) number of the first frame of each block."""
    rows: Tensor
    """(R,), counting from 0."""


BLOCK_ROWS = 128
"""Most frames in a block of a stack."""


def blocks_of(num_frames: int, most: int = BLOCK_ROWS) -> Blocks:
    """As few blocks as possible of at most `most` frames, all of the same size."""
    num_blocks = (num_frames + (most - 1)) // most
    num_rows = (num_frames + num_blocks - 1) // num_blocks
    num_filled = num_blocks * num_rows
    numbers = torch.arange(num_filled).clamp(max=num_frames - 1)
    return Blocks(num_filled, numbers, torch.arange(num_blocks) * num_rows, torch.arange(num_rows))


def swoosh(shifted: Tensor) -> Tensor:
    """SwooshL or SwooshR without its offset: ln(1 + e^x) - 0.08 x, where x is the input minus the shift.

    Softplus is slow in onnxruntime. ln(1 + e^x) = max(x, 0) - ln sigmoid(|x|), exact for every x, is four times as fast,
    and max(x, 0) - 0.08 x is one leaky ReLU.
    """
    slope = 1.0 - SLOPE
    return slope * functional.leaky_relu(shifted, -SLOPE / slope) - shifted.abs().sigmoid().log()


def shift_of(kind: ActivationKind) -> float:
    return SHIFT_AND_OFFSET[kind][0]


def excess(kind: ActivationKind) -> float:
    """The constant by which `swoosh` exceeds the activation."""
    shift, offset = SHIFT_AND_OFFSET[kind]
    return SLOPE * shift + offset


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer of these weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return linear


def parts_of(linear: nn.Linear, sizes: int | list[int]) -> Iterator[nn.Linear]:
    """Linear layers that compute parts of the output of one; `sizes` as of `Tensor.split`."""
    return map(linear_of, linear.weight.split(sizes), linear.bias.split(sizes))


def shifted_linear(linear: nn.Linear, kind: ActivationKind) -> nn.Linear:
    """A linear layer whose output is the input of `swoosh`."""
    return linear_of(linear.weight, linear.bias - shift_of(kind))


def linear_after_swoosh(weight: Tensor, bias: Tensor, kind: ActivationKind) -> nn.Linear:
    """A linear layer that takes the output of `swoosh`."""
    return linear_of(weight, bias - excess(kind) * weight.sum(1))


class TracedSwooshLinear(nn.Module):
    """Replaces `SwooshLinear`; its input must be shifted already."""

    def __init__(self, module: SwooshLinear) -> None:
        super().__init__()
        assert module.bias is not None
        self.linear = linear_after_swoosh(module.weight, module.bias, module.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self.linear(swoosh(x))


class TracedFeedForward(nn.Module):
    """Replaces `FeedForward`."""

    def __init__(self, module: FeedForward) -> None:
        super().__init__()
        self.in_proj = shifted_linear(module.in_proj, module.out_proj.activation)
        self.out_proj = TracedSwooshLinear(module.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.out_proj(self.in_proj(x))


class BlockedFeedForward(nn.Module):
    """`TracedFeedForward` of utterances: block by block, since its hidden channels are large."""

    def __init__(self, module: FeedForward) -> None:
        super().__init__()
        self.block, self.width = TracedFeedForward(module), module.in_proj.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (N T, D) to rows."""
        blocks = blocks_of(x.shape[0])
        filled = x.index_select(0, blocks.numbers).reshape(-1, blocks.rows.shape[0], self.width)
        return scan(self.block, [filled]).reshape(-1, self.width)[: x.shape[0]]


class TracedNorm(nn.Module):
    """Replaces `BiasNorm`."""

    def __init__(self, module: BiasNorm) -> None:
        super().__init__()
        self.bias = module.bias
        self.scale = float(module.log_scale.exp()) * len(module.bias) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (..., D)."""
        return x * (self.scale / torch.linalg.vector_norm(x - self.bias, dim=-1, keepdim=True))


class TracedBypass(nn.Module):
    """Replaces `Bypass` within a block."""

    def __init__(self, module: Bypass) -> None:
        super().__init__()
        self.scale = module.scale

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return before + (after - before) · scale."""
        return before + (after - before) * self.scale


class TracedChunkConv(nn.Module):
    """Replaces `ChunkCausalDepthwiseConv` where all frames are one chunk."""

    def __init__(self, module: ChunkCausalDepthwiseConv, *, shift: float) -> None:
        super().__init__()
        self.kernel_size = module.kernel_size
        self.causal_weight, self.causal_bias = module.causal_weight, nn.Parameter(module.causal_bias - shift)
        self.chunkwise_weight, self.chunkwise_bias = module.chunkwise_weight, module.chunkwise_bias
        self.start_scale: Tensor
        self.end_scale: Tensor
        scale_2KD = module.edge_scale.detach().transpose(1, 2)
        self.register_buffer("start_scale", 1.0 + functional.pad(scale_2KD[0], (0, 0, 0, 1)))  # far from the start: 1
        self.register_buffer("end_scale", functional.pad(scale_2KD[1], (0, 0, 1, 0)))  # far from the end: 0

    def forward(self, x: Tensor, chunk_frames: Tensor | int) -> Tensor:
        """Map (N, T, D) to (N, T, D); see `ChunkCausalDepthwiseConv.forward`. Frames after those of the chunk are zero."""
        reach = self.kernel_size // 2
        causal = depthwise_conv(functional.pad(x, (0, 0, reach, 0)), self.causal_weight, self.causal_bias)
        chunked = depthwise_conv(x, self.chunkwise_weight, self.chunkwise_bias, padding=reach)
        from_start = torch.arange(x.shape[1])
        from_end = from_start + (self.kernel_size + 1 - chunk_frames)
        start = self.start_scale.index_select(0, from_start.clamp(max=self.kernel_size))
        return causal + chunked * (start + self.end_scale.index_select(0, from_end.clamp(min=0, max=self.kernel_size)))


class TracedConvolution(nn.Module):
    """Replaces `ConvolutionModule`."""

    def __init__(self, module: ConvolutionModule) -> None:
        super().__init__()
        self.content_proj, self.gate_proj = parts_of(module.in_proj, module.in_proj.out_features // 2)
        self.out_proj, shift = TracedSwooshLinear(module.out_proj), shift_of(module.out_proj.activation)
        self.depthwise: nn.Module = module.depthwise
        if isinstance(module.depthwise, ChunkCausalDepthwiseConv):
            self.depthwise = TracedChunkConv(module.depthwise, shift=shift)
        else:
            assert module.depthwise.bias is not None
            module.depthwise.bias.data -= shift

    def forward(self, x: Tensor, keep: Tensor, chunk_frames: Tensor | int, past: None = None) -> Tensor:
        """Map rows (N T, D) to rows; `keep` (N, T, 1) is 1, at padding 0."""
        width = self.content_proj.out_features
        gated = (self.content_proj(x) * self.gate_proj(x).sigmoid()).reshape(-1, keep.shape[1], width) * keep
        y = self.depthwise(gated, chunk_frames) if isinstance(self.depthwise, TracedChunkConv) else self.depthwise(gated)
        return self.out_proj(y.reshape(-1, width))
