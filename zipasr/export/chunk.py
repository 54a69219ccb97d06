"""Replacements for the modules of a Zipformer in a streaming graph; `export.graph` inserts them.

All sizes but the number N of streams are constants. Frames of a chunk are in time order, (T, N, D) or rows (T N, D): most
caches of published models are (L, N, D), so that a chunk is appended as it is, and onnxruntime adds the bias of a linear
layer within the product only of rows.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.encoder.frontend import ConvEmbed
from zipasr.encoder.layer import Bypass, ZipformerLayer
from zipasr.encoder.rates import embed_lengths
from zipasr.encoder.stack import Downsample, ZipformerStack
from zipasr.encoder.zipformer import Zipformer, join_outputs, to_width
from zipasr.export.attention import TracedNonlinAttention, TracedSelfAttention
from zipasr.export.blocks import TracedBypass, TracedChunkConv, TracedConvolution, TracedFeedForward, TracedNorm, parts_of
from zipasr.export.embed import EmbeddedBlock
from zipasr.export.scan import scan_several
from zipasr.nn.attention import MASKED_SCORE, AttentionWeights, NonlinAttention, SelfAttention
from zipasr.nn.convolution import ChunkCausalDepthwiseConv, ConvolutionModule
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.norm import BiasNorm

ModuleT = TypeVar("ModuleT", bound=nn.Module)
CACHE_AXES = (0, 2, 0, 0, 2, 2)
"""Axis of the frames in the published states of a block: key, nonlin, value1, value2, conv1, conv2."""


class Cache:
    """Frames of a module before a chunk, in the published layout; after `join`, `next` holds those before the next one."""

    def __init__(self, frames: Tensor, *, axis: int = 0) -> None:
        self.frames, self.axis = frames, axis
        self.next: Tensor | None = None

    def join(self, new: Tensor, num_new: int) -> Tensor:
        """The cached frames, followed by `num_new` new ones."""
        joined = torch.cat([self.frames, new], dim=self.axis)
        self.next = joined[(slice(None),) * self.axis + (slice(num_new, None),)]
        return joined


class LayerCaches(NamedTuple):
    """Caches of the modules of a block."""

    key: Cache
    """(L, N, H·query_head_dim)."""
    nonlin: Cache
    """(1, N, L, 3D/4)."""
    value1: Cache
    """(L, N, H·value_head_dim)."""
    value2: Cache
    """Likewise."""
    conv1: Cache
    """(N, D, k//2)."""
    conv2: Cache
    """Likewise."""


class ChunkAttentionWeights(nn.Module):
    """Replaces `AttentionWeights`."""

    def __init__(self, module: AttentionWeights, table: Tensor, num_frames: int) -> None:
        """`table` holds the encodings (2T + L - 1, D) of `num_frames` T frames."""
        super().__init__()
        self.num_heads, self.num_frames = module.num_heads, num_frames
        sizes = [module.num_heads * dim for dim in (module.query_head_dim, module.query_head_dim, module.pos_head_dim)]
        self.query_proj, self.key_proj, self.pos_proj = parts_of(module.in_proj, sizes)
        encoded = functional.pad(module.linear_pos(table), (0, 0, 1, 0))  # the first only makes the shift simple
        self.encoded: Tensor
        """(H, 1, d', 2T + L)."""
        self.register_buffer("encoded", encoded.unflatten(1, (self.num_heads, 1, -1)).permute(1, 2, 3, 0).contiguous())

    def forward(self, x: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Weights (H, N, T, L + T) of rows (T N, D); `mask` (N, 1, L + T) is added to scores."""
        heads, num_frames = self.num_heads, self.num_frames
        num_keys = self.encoded.shape[3] - num_frames
        joined = cache.join(self.key_proj(x).reshape(num_frames, -1, self.key_proj.out_features), num_frames)
        dim = self.key_proj.out_features // heads
        key = joined.reshape(num_keys, -1, heads, dim).permute(2, 1, 0, 3)
        # The exporter would merge this with the transposition for the product, which costs onnxruntime nothing by itself.
        key = key.reshape(heads, -1, num_keys, dim)
        query, pos = (
            proj(x).reshape(num_frames, -1, heads, proj.out_features // heads).permute(2, 1, 0, 3)
            for proj in (self.query_proj, self.pos_proj)
        )
        # The relative shift, shifted[i, j] = scores[i, T - i + j], drops the first T scores, so that rows are one shorter.
        scores = (pos @ self.encoded).reshape(heads, -1, num_frames * (num_frames + num_keys))[:, :, num_frames:]
        shifted = scores.reshape(heads, -1, num_frames, num_frames + num_keys - 1)[..., :num_keys]
        return (query @ key.transpose(2, 3) + shifted + mask).softmax(-1)


class ChunkSelfAttention(TracedSelfAttention):
    """Replaces `SelfAttention`."""

    def forward(self, x: Tensor, weights: Tensor, cache: Cache) -> Tensor:  # type: ignore[override]
        """Map rows (T N, D) under weights (H, N, T, L + T) to rows."""
        num_frames, num_keys = map(int, weights.shape[2:])
        width = self.in_proj.out_features
        joined = cache.join(self.in_proj(x).reshape(num_frames, -1, width), num_frames)
        values = joined.reshape(num_keys, -1, self.num_heads, width // self.num_heads).permute(2, 1, 0, 3)
        return self.out_proj((weights @ values).permute(2, 1, 0, 3).reshape(-1, width))


class ChunkNonlinAttention(TracedNonlinAttention):
    """Replaces `NonlinAttention`."""

    def forward(self, x: Tensor, weights: Tensor, cache: Cache) -> Tensor:  # type: ignore[override]
        """Map rows (T N, D) under the weights (1, N, T, L + T) of one head to rows."""
        num_frames, width = int(weights.shape[2]), self.content_proj.out_features
        gated = (self.content_proj(x) * self.gate_proj(x).tanh()).reshape(num_frames, 1, -1, width)
        attended = (weights @ cache.join(gated.permute(1, 2, 0, 3), num_frames)).permute(2, 0, 1, 3)
        return self.out_proj(attended.reshape(-1, width) * self.outer_proj(x))


class ChunkConvolution(TracedConvolution):
    """Replaces `ConvolutionModule`."""

    def __init__(self, module: ConvolutionModule, num_frames: int) -> None:
        super().__init__(module)
        assert isinstance(module.depthwise, ChunkCausalDepthwiseConv)
        self.num_frames = num_frames
        self.scale: Tensor
        """(D, 1, T) of the chunkwise convolution."""
        self.register_buffer("scale", module.depthwise.chunk_scale(num_frames).t().unsqueeze(1).contiguous())

    def forward(self, x: Tensor, keep: Tensor, cache: Cache) -> Tensor:  # type: ignore[override]
        """Map rows (T N, D) to rows; `keep` (T N, 1) is 1, at padding 0."""
        conv, width = self.depthwise, self.out_proj.linear.out_features
        assert isinstance(conv, TracedChunkConv)
        gated = self.content_proj(x) * self.gate_proj(x).sigmoid() * keep
        new = gated.reshape(self.num_frames, -1, width).permute(1, 2, 0)
        joined, reach = cache.join(new, self.num_frames), conv.kernel_size // 2
        causal = functional.conv2d(joined.unsqueeze(2), conv.causal_weight.unsqueeze(2), conv.causal_bias, groups=width)
        chunked = functional.conv2d(
            new.unsqueeze(2), conv.chunkwise_weight.unsqueeze(2), conv.chunkwise_bias, padding=(0, reach), groups=width
        )
        y = causal + chunked * self.scale
        return self.out_proj(y.squeeze(2).permute(2, 0, 1).reshape(-1, width))


def _the(kind: type[ModuleT], module: nn.Module | None) -> ModuleT:
    """The module, which is of this kind in a standard Zipformer."""
    assert isinstance(module, kind)
    return module


class ChunkLayer(nn.Module):
    """Replaces `ZipformerLayer`."""

    def __init__(self, module: ZipformerLayer, table: Tensor, num_frames: int) -> None:
        super().__init__()
        self.attention_weights = ChunkAttentionWeights(_the(AttentionWeights, module.attention_weights), table, num_frames)
        self.feed_forward1 = TracedFeedForward(_the(FeedForward, module.feed_forward1))
        self.nonlin_attention = ChunkNonlinAttention(_the(NonlinAttention, module.nonlin_attention))
        self.self_attention1 = ChunkSelfAttention(_the(SelfAttention, module.self_attention1))
        self.conv1 = ChunkConvolution(_the(ConvolutionModule, module.conv1), num_frames)
        self.feed_forward2 = TracedFeedForward(_the(FeedForward, module.feed_forward2))
        self.bypass_mid = TracedBypass(_the(Bypass, module.bypass_mid))
        self.self_attention2 = ChunkSelfAttention(_the(SelfAttention, module.self_attention2))
        self.conv2 = ChunkConvolution(_the(ConvolutionModule, module.conv2), num_frames)
        self.feed_forward3 = TracedFeedForward(_the(FeedForward, module.feed_forward3))
        self.norm = TracedNorm(_the(BiasNorm, module.norm))
        self.bypass = TracedBypass(_the(Bypass, module.bypass))

    def forward(self, x: Tensor, mask: Tensor, keep: Tensor, caches: LayerCaches) -> Tensor:
        """Map rows (T N, D) to rows; see `ZipformerLayer.forward`, and the modules for the arguments."""
        before = x
        weights = self.attention_weights(x, mask, caches.key)
        x = x + self.feed_forward1(x)
        x = x + self.nonlin_attention(x, weights[:1], caches.nonlin)
        x = x + self.self_attention1(x, weights, caches.value1)
        x = x + self.conv1(x, keep, caches.conv1)
        x = x + self.feed_forward2(x)
        x = self.bypass_mid(before, x)
        x = x + self.self_attention2(x, weights, caches.value2)
        x = x + self.conv2(x, keep, caches.conv2)
        x = x + self.feed_forward3(x)
        y: Tensor = self.bypass(before, self.norm(x))
        return y


class ChunkDownsample(nn.Module):
    """Replaces `Downsample`."""

    def __init__(self, module: Downsample, num_frames: int) -> None:
        super().__init__()
        self.factor, self.num_groups = module.factor, num_frames // module.factor
        self.weight: Tensor
        self.register_buffer("weight", module.bias.detach().softmax(0).unsqueeze(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, N, D) to (T / factor, N, D)."""
        groups = x.reshape(self.num_groups, self.factor, -1)
        return (self.weight @ groups).reshape(self.num_groups, -1, int(x.shape[2]))


class ChunkStack(nn.Module):
    """Replaces `ZipformerStack`."""

    def __init__(self, module: ZipformerStack, chunk: int, left: int) -> None:
        super().__init__()
        self.factor, num_frames = module.factor, chunk // module.factor
        self.num_frames = num_frames
        table = module.positions(num_frames, left // module.factor)
        self.layers = nn.ModuleList(ChunkLayer(_the(ZipformerLayer, layer), table, num_frames) for layer in module.layers)
        if self.factor > 1:
            self.downsample = ChunkDownsample(module.downsample, chunk)
            self.scale = _the(Bypass, module.bypass).scale

    def forward(self, x: Tensor, padding: Tensor, caches: Sequence[LayerCaches]) -> Tensor:
        """Map (T, N, D) to (T, N, D) at 50 Hz.

        Args:
            x: frames of the chunk.
            padding: (N, L + T) at 50 Hz, 1 at padding, else 0.
            caches: of each block.
        """
        before, width = x, int(x.shape[2])
        if self.factor > 1:
            x, padding = self.downsample(x), padding[:, :: self.factor]
        keep = (1.0 - padding[:, -self.num_frames :]).t().reshape(-1, 1)
        mask = (padding * MASKED_SCORE).unsqueeze(1)
        rows = x.reshape(-1, width)
        for layer, own in zip(self.layers, caches, strict=True):
            rows = layer(rows, mask, keep, own)
        if self.factor == 1:
            return rows.reshape(self.num_frames, -1, width)
        groups = (rows * self.scale).reshape(self.num_frames, 1, -1)
        repeated = torch.cat([groups] * self.factor, dim=1).reshape(self.num_frames * self.factor, -1, width)
        return before * (1.0 - self.scale) + repeated


class ChunkConvEmbed(nn.Module):
    """Replaces `ConvEmbed`: stream by stream, since its hidden channels are the largest tensor of a step."""

    def __init__(self, module: ConvEmbed, chunk: int) -> None:
        super().__init__()
        self.block, self.chunk = EmbeddedBlock(module), chunk

    def forward(self, features: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 2 T + 13, F) and the cache (N, C, 3, F') to frames (N, T, D) and the next cache."""
        channels, width = int(cache.shape[1]), int(cache.shape[3])
        images, following = scan_several(self._of_stream, [features, cache])
        frames = self.block.out_norm(self.block.out(images.reshape(-1, width * channels)))
        next_cache = following.reshape(-1, *map(int, cache.shape[1:]))
        return frames.reshape(-1, self.chunk, self.block.out.out_features), next_cache

    def _of_stream(self, features: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """The image (1, T, F', C) after the ConvNeXt layer and the next cache (1, C, 3, F') of a stream."""
        return self.block.image_of_chunk(features.unsqueeze(0), cache.unsqueeze(0), self.chunk)


class ChunkEncoder(nn.Module):
    """The encoder of a streaming graph; its modules have the names of those of `Zipformer`."""

    def __init__(self, encoder: Zipformer, chunk: int, left: int) -> None:
        """`chunk` and `left` are frames at 50 Hz."""
        super().__init__()
        self.config, self.chunk, self.left = encoder.config, chunk, left
        encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.frontend = ChunkConvEmbed(encoder.frontend, chunk)
        self.stacks = nn.ModuleList(ChunkStack(_the(ZipformerStack, stack), chunk, left) for stack in encoder.stacks)
        self.output_downsample = ChunkDownsample(encoder.output_downsample, chunk)

    def encode_chunk(self, x: Tensor, states: Sequence[Tensor], lens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode the next chunk of N streams.

        Args:
            x: window (N, 2 T + 13, F).
            states: the published ones.
            lens: (N,) valid features of each window, or (1,).
        Returns:
            Frames (N, T / 2, D) at 25 Hz, and the next states.
        """
        *of_layers, image, processed = states
        num_valid = embed_lengths(lens).clamp(max=self.chunk)
        caches = [Cache(tensor, axis=axis) for tensor, axis in zip(of_layers, itertools.cycle(CACHE_AXES), strict=False)]
        layers = [LayerCaches(*caches[i : i + len(CACHE_AXES)]) for i in range(0, len(caches), len(CACHE_AXES))]
        frames, image = self.frontend(x, image)
        frames = self._run_stacks(frames.transpose(0, 1), self._padding(processed, num_valid), layers)
        following = [cache.next for cache in caches if cache.next is not None]
        return frames.transpose(0, 1), [*following, image, processed + num_valid]

    def _run_stacks(self, x: Tensor, padding: Tensor, caches: Sequence[LayerCaches]) -> Tensor:
        outputs, first = [], 0
        for stack, channels, num_layers in zip(self.stacks, self.config.channels, self.config.num_layers, strict=True):
            x = stack(to_width(x, channels), padding, caches[first : first + num_layers])
            outputs.append(x)
            first += num_layers
        y: Tensor = self.output_downsample(join_outputs(outputs))
        return y

    def _padding(self, processed: Tensor, num_valid: Tensor) -> Tensor:
        """(N, L + T): 1 before the start of a stream and after its end, else 0."""
        offsets = torch.arange(-self.left, self.chunk)
        is_padding = (offsets < -processed.unsqueeze(1)) | (offsets >= num_valid.unsqueeze(1))
        return is_padding.to(torch.float32)
