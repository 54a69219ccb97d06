"""Replacements for the modules of a Zipformer block and of Conv-Embed in a graph; `export.graph` inserts them.

Each computes the same (N, T, D) as the module that it replaces does in eval mode. Constants are computed in advance.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.encoder.frontend import ConvEmbed
from zipasr.encoder.layer import Bypass
from zipasr.encoder.rates import FRAMES_AHEAD
from zipasr.nn.attention import AttentionWeights, NonlinAttention, RelativePositionalEncoding, SelfAttention
from zipasr.nn.convolution import ChunkCausalDepthwiseConv, ConvolutionModule, depthwise_conv
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.norm import BiasNorm
from zipasr.nn.past import Past, join
from zipasr.nn.swoosh import SHIFT_AND_OFFSET, SLOPE, ActivationKind, SwooshLinear


def swoosh(shifted: Tensor) -> Tensor:
    """SwooshL or SwooshR without its offset: ln(1 + e^x) - 0.08 x, where x is the input minus the shift.

    Softplus is slow in onnxruntime. ln(1 + e^x) = max(x, 0) - ln sigmoid(|x|), exact for every x, is four times as fast,
    and max(x, 0) - 0.08 x is one leaky ReLU.
    """
    slope = 1.0 - SLOPE
    return slope * functional.leaky_relu(shifted, -SLOPE / slope) - shifted.abs().sigmoid().log()


def _shift(kind: ActivationKind) -> float:
    return SHIFT_AND_OFFSET[kind][0]


def _excess(kind: ActivationKind) -> float:
    """The constant by which `swoosh` exceeds the activation."""
    shift, offset = SHIFT_AND_OFFSET[kind]
    return SLOPE * shift + offset


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return linear


def _shifted_linear(linear: nn.Linear, kind: ActivationKind) -> nn.Linear:
    """A linear layer whose output is the input of `swoosh`."""
    return _linear(linear.weight, linear.bias - _shift(kind))


def _linear_after_swoosh(weight: Tensor, bias: Tensor, kind: ActivationKind) -> nn.Linear:
    """A linear layer that takes the output of `swoosh`."""
    return _linear(weight, bias - _excess(kind) * weight.sum(1))


class TracedSwooshLinear(nn.Module):
    """Replaces `SwooshLinear`; its input must be shifted already."""

    def __init__(self, module: SwooshLinear) -> None:
        super().__init__()
        assert module.bias is not None
        self.linear = _linear_after_swoosh(module.weight, module.bias, module.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, in) to (N, T, out)."""
        return self.linear(swoosh(x))


class TracedFeedForward(nn.Module):
    """Replaces `FeedForward`."""

    def __init__(self, module: FeedForward) -> None:
        super().__init__()
        self.in_proj = _shifted_linear(module.in_proj, module.out_proj.activation)
        self.out_proj = TracedSwooshLinear(module.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D)."""
        return self.out_proj(self.in_proj(x))


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


class TracedPositions(nn.Module):
    """Replaces `RelativePositionalEncoding`: computed in the graph, for sequences of any length."""

    def __init__(self, module: RelativePositionalEncoding) -> None:
        super().__init__()
        self.length = math.sqrt(module.channels)
        self.frequency = 2.0 * math.pi / (module.length_factor * module.channels)
        self.multiples: Tensor
        self.register_buffer("multiples", torch.arange(1.0, module.channels // 2 + 1))

    def forward(self, num_frames: Tensor | int, left_context: Tensor | int) -> Tensor:
        """Encodings (2T + left, D) of the offsets -(T + left) ... T - 1; the first only makes `_relative_shift` simple."""
        reach = num_frames + left_context
        offsets = torch.arange(num_frames + reach).to(torch.float32).unsqueeze(1) - reach  # type: ignore[arg-type]
        compressed = offsets.sign() * ((offsets.abs() + self.length) / self.length).log() * self.length
        angles = (compressed * self.frequency).atan() * self.multiples
        table = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
        return torch.cat([table[:, :-1], torch.ones_like(table[:, :1])], dim=1)


def _relative_shift(scores: Tensor) -> Tensor:
    """out[i, j] = scores[i, T - i + j], j < K, of (N, H, T, T + K): without the first T, rows are one shorter."""
    batch, heads, num_frames, width = scores.shape
    rows = scores.reshape(batch, heads, num_frames * width)[:, :, num_frames:]
    return rows.reshape(batch, heads, num_frames, width - 1)[:, :, :, : width - num_frames]


class TracedAttentionWeights(nn.Module):
    """Replaces `AttentionWeights`. The mask is a score that is added for each key, times an extra channel of 1."""

    def __init__(self, module: AttentionWeights) -> None:
        super().__init__()
        self.num_heads, self.query_head_dim, self.pos_head_dim = module.num_heads, module.query_head_dim, module.pos_head_dim
        heads, dim = module.num_heads, module.query_head_dim
        weight, bias = module.in_proj.weight, module.in_proj.bias
        query, key, pos = weight.split([heads * dim, heads * dim, heads * module.pos_head_dim])
        query_bias, key_bias, pos_bias = bias.split([len(query), len(key), len(pos)])
        query = functional.pad(query.view(heads, dim, -1), (0, 0, 0, 1)).flatten(0, 1)
        query_bias = functional.pad(query_bias.view(heads, dim), (0, 1), value=1.0).flatten()
        self.query_proj, self.key_proj = _linear(query, query_bias), _linear(key, key_bias)
        self.pos_proj = _linear(pos, pos_bias)
        self.linear_pos = module.linear_pos

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, past: Past | None = None) -> Tensor:
        """Weights (N, H, T, L + T).

        Args:
            x: (N, T, D).
            positions: (2T + L, pos_channels) from `TracedPositions`.
            mask: (N, L + T, H, 1), a score for each key.
            past: keys of earlier chunks.
        """
        batch, num_frames, heads = x.shape[0], x.shape[1], self.num_heads
        query = self.query_proj(x).reshape(batch, num_frames, heads, self.query_head_dim + 1).transpose(1, 2)
        pos_query = self.pos_proj(x).reshape(batch, num_frames, heads, self.pos_head_dim).transpose(1, 2)
        key = join(past, self.key_proj(x))
        key = torch.cat([key.reshape(batch, key.shape[1], heads, self.query_head_dim), mask], dim=3).permute(0, 2, 3, 1)
        encoded_HKP = self.linear_pos(positions).reshape(-1, heads, self.pos_head_dim).permute(1, 2, 0)
        return (query @ key + _relative_shift(pos_query @ encoded_HKP)).softmax(-1)


class TracedSelfAttention(nn.Module):
    """Replaces `SelfAttention`."""

    def __init__(self, module: SelfAttention) -> None:
        super().__init__()
        self.num_heads, self.in_proj, self.out_proj = module.num_heads, module.in_proj, module.out_proj

    def forward(self, x: Tensor, weights: Tensor, past: Past | None = None) -> Tensor:
        """Map (N, T, D) under weights (N, H, T, L + T) to (N, T, D)."""
        values, width = join(past, self.in_proj(x)), self.in_proj.out_features
        values_NHTK = values.reshape(x.shape[0], values.shape[1], self.num_heads, width // self.num_heads).transpose(1, 2)
        return self.out_proj((weights @ values_NHTK).transpose(1, 2).reshape(x.shape[0], x.shape[1], width))


class TracedNonlinAttention(nn.Module):
    """Replaces `NonlinAttention`."""

    def __init__(self, module: NonlinAttention) -> None:
        super().__init__()
        parts = zip(module.in_proj.weight.chunk(3), module.in_proj.bias.chunk(3), strict=True)
        self.gate_proj, self.content_proj, self.outer_proj = (_linear(weight, bias) for weight, bias in parts)
        self.out_proj = module.out_proj

    def forward(self, x: Tensor, weights: Tensor, past: Past | None = None) -> Tensor:
        """Map (N, T, D) under the weights (N, T, L + T) of one head to (N, T, D)."""
        gated = join(past, self.content_proj(x) * self.gate_proj(x).tanh())
        return self.out_proj((weights @ gated) * self.outer_proj(x))


class TracedChunkConv(nn.Module):
    """Replaces `ChunkCausalDepthwiseConv` where all frames are one chunk: offline, or the chunk of a stream."""

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

    def forward(self, x: Tensor, chunk_frames: int, past: Past | None = None) -> Tensor:
        """Map (N, T, D) to (N, T, D); see `ChunkCausalDepthwiseConv.forward`."""
        num_frames, reach = x.shape[1], self.kernel_size // 2
        reached = functional.pad(x, (0, 0, reach, 0)) if past is None else past.join(x)
        causal = depthwise_conv(reached, self.causal_weight, self.causal_bias)
        chunked = depthwise_conv(x, self.chunkwise_weight, self.chunkwise_bias, padding=reach)
        from_start = torch.arange(num_frames)
        from_end = from_start + (self.kernel_size + 1 - num_frames)
        start = self.start_scale.index_select(0, from_start.clamp(max=self.kernel_size))
        return causal + chunked * (start + self.end_scale.index_select(0, from_end.clamp(min=0)))


class TracedConvolution(nn.Module):
    """Replaces `ConvolutionModule`."""

    def __init__(self, module: ConvolutionModule) -> None:
        super().__init__()
        parts = zip(module.in_proj.weight.chunk(2), module.in_proj.bias.chunk(2), strict=True)
        self.content_proj, self.gate_proj = (_linear(weight, bias) for weight, bias in parts)
        self.out_proj, shift = TracedSwooshLinear(module.out_proj), _shift(module.out_proj.activation)
        self.depthwise: nn.Module = module.depthwise
        if isinstance(module.depthwise, ChunkCausalDepthwiseConv):
            self.depthwise = TracedChunkConv(module.depthwise, shift=shift)
        else:
            assert module.depthwise.bias is not None
            module.depthwise.bias.data -= shift

    def forward(self, x: Tensor, keep: Tensor, chunk_frames: int = -1, past: Past | None = None) -> Tensor:
        """Map (N, T, D) to (N, T, D); `keep` (N, T, 1) is 1, at padding 0."""
        gated = self.content_proj(x) * self.gate_proj(x).sigmoid() * keep
        return self.out_proj(self.depthwise(gated, chunk_frames, past))


class TracedConvEmbed(nn.Module):
    """Replaces `ConvEmbed`; images are (N, C, T, F) in the convolutions, (N, T, F, C) after them."""

    def __init__(self, module: ConvEmbed) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = module.conv1, module.conv2, module.conv3
        self.depthwise, kind = module.convnext.depthwise, module.activation
        self.excess = _excess(kind)
        for conv in (self.conv1, self.conv2, self.conv3):
            assert conv.bias is not None
            conv.bias.data -= _shift(kind)
        for conv in (self.conv2, self.conv3):  # they have no padding, so a constant input is a constant output
            assert conv.bias is not None
            conv.bias.data -= self.excess * conv.weight.sum((1, 2, 3))
        inner = module.convnext
        self.pointwise1 = _shifted_linear(inner.pointwise1, inner.activation)
        self.pointwise2 = _linear_after_swoosh(inner.pointwise2.weight, inner.pointwise2.bias, inner.activation)
        channels = self.conv3.out_channels
        width = module.out.in_features // channels
        weight = module.out.weight.view(-1, channels, width).transpose(1, 2).flatten(1)
        self.out = _linear(weight, module.out.bias)
        norm = module.out_norm
        assert isinstance(norm, BiasNorm)
        self.out_norm = TracedNorm(norm)

    def forward(self, features: Tensor, past: Past | None = None) -> Tensor:
        """Map (N, T, F) to (N, T', D); see `ConvEmbed.forward`. A past is (N, 3, F', C)."""
        image = swoosh(self.conv1(features.unsqueeze(1)))
        image = swoosh(self.conv2(image))
        image = swoosh(self.conv3(image)) - self.excess
        if past is None:
            reached, image = self.depthwise(image).permute(0, 2, 3, 1), image.permute(0, 2, 3, 1)
        else:
            image = image.permute(0, 2, 3, 1)
            joined, conv = past.join(image, num_ahead=FRAMES_AHEAD).permute(0, 3, 1, 2), self.depthwise
            y = functional.conv2d(joined, conv.weight, conv.bias, padding=(0, FRAMES_AHEAD), groups=conv.groups)
            reached, image = y.permute(0, 2, 3, 1), image[:, :-FRAMES_AHEAD]
        image = image + self.pointwise2(swoosh(self.pointwise1(reached)))
        return self.out_norm(self.out(image.flatten(2)))
