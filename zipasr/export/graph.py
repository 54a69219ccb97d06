"""Replacements for the modules of a Zipformer while it is traced: `for_tracing`.

They compute the same values (N, T, D) by operations that onnxruntime runs fast and that keep every length dynamic. The
differences: attention weights, Conv-Embed and feed-forward modules of utterances are computed in blocks; the relative shift
reshapes instead of using strides, which ONNX lacks, or gathering, which is slow; Swoosh uses
operations that onnxruntime vectorizes, with its shift and offset in the neighboring biases; masks are a score that an extra
channel of query and key adds in their product; position encodings have any length; two products replace a split.
docs/export.md says what each of them gains.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.layer import Bypass, LayerPast, ZipformerLayer
from zipasr.encoder.stack import Downsample, ZipformerStack
from zipasr.encoder.zipformer import Zipformer
from zipasr.errors import ConfigError
from zipasr.export.attention import (
    Positions,
    TracedAttentionWeights,
    TracedNonlinAttention,
    TracedPositions,
    TracedSelfAttention,
)
from zipasr.export.blocks import (
    BlockedFeedForward,
    TracedBypass,
    TracedConvolution,
    TracedFeedForward,
    TracedNorm,
    blocks_of,
)
from zipasr.export.embed import TracedConvEmbed
from zipasr.nn.attention import MASKED_SCORE, AttentionWeights, NonlinAttention, SelfAttention
from zipasr.nn.convolution import ConvolutionModule
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.norm import BiasNorm


def for_tracing(encoder: Zipformer, *, is_streaming: bool = False) -> Zipformer:
    """A copy of an encoder in eval mode with stacks and Conv-Embed replaced for tracing.

    Args:
        encoder: the encoder.
        is_streaming: `encode_chunk_unchecked` is to be traced; otherwise `encode_frames`.
    Raises:
        ConfigError: the encoder is an ablation, which other runtimes do not support.
    """
    config = encoder.config
    if config.ablation != AblationConfig() or config.conv_embed_rate != 2:
        raise ConfigError(
            "export supports only the standard Zipformer, but this encoder is one of its ablations "
            f"({config.ablation}, conv_embed_rate {config.conv_embed_rate}); train one with the default ingredients"
        )
    traced = copy.deepcopy(encoder).eval().requires_grad_(False)
    traced.frontend = TracedConvEmbed(traced.frontend)  # type: ignore[assignment]
    for i, stack in enumerate(traced.stacks):
        assert isinstance(stack, ZipformerStack)
        traced.stacks[i] = TracedStack(stack, is_streaming=is_streaming)
    traced.output_downsample = TracedDownsample(traced.output_downsample)  # type: ignore[assignment]
    return traced


class TracedDownsample(nn.Module):
    """Replaces `Downsample` in a graph."""

    def __init__(self, module: Downsample) -> None:
        super().__init__()
        self.factor = module.factor
        self.weight: Tensor
        self.register_buffer("weight", module.bias.detach().softmax(0).unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, ceil(T / factor), D)."""
        num_frames, factor = x.shape[1], self.factor
        num_groups = (num_frames + factor - 1) // factor
        index = torch.arange(num_groups * factor).clamp(max=num_frames - 1)
        groups = x.index_select(1, index).reshape(x.shape[0], num_groups, factor, x.shape[2])
        return (groups * self.weight).sum(2)


class TracedStack(nn.Module):
    """Replaces `ZipformerStack` in a graph."""

    def __init__(self, module: ZipformerStack, *, is_streaming: bool) -> None:
        super().__init__()
        self.factor = module.factor
        self.positions = TracedPositions(module.positions)
        self.layers = nn.ModuleList(
            _traced_layer(layer, in_blocks=self.factor == 1 and not is_streaming) for layer in module.layers
        )
        first = self.layers[0].attention_weights
        assert isinstance(first, TracedAttentionWeights)
        self.num_heads = first.num_heads
        if self.factor > 1:
            self.downsample = TracedDownsample(module.downsample)
            self.scale = module.bypass.scale

    def forward(
        self,
        x: Tensor,
        feature_mask: Tensor | None,
        attention_mask: Tensor | None,
        padding_mask: Tensor,
        chunk: int,
        pasts: list[LayerPast] | None = None,
    ) -> Tensor:
        """Map (N, T, D) to (N, T, D) at 50 Hz; arguments as in `ZipformerStack.forward`, both masks None."""
        assert feature_mask is None and attention_mask is None
        before, factor = x, self.factor
        if factor > 1:
            x = self.downsample(x)
            padding_mask = padding_mask[:, ::factor]
        padding = padding_mask.to(x.dtype).unsqueeze(-1)  # (N, L + T, 1)
        chunk, left, blocks = x.shape[1], padding_mask.shape[1] - x.shape[1], None
        if pasts is None:
            left, blocks = 0, blocks_of(chunk)
            x = x.index_select(1, blocks.numbers)
            padding = torch.cat([padding, torch.ones_like(x[:, chunk:, :1])], dim=1)
        mask = torch.cat([padding.unsqueeze(-1) * MASKED_SCORE] * self.num_heads, dim=2)
        positions = Positions(self.positions(x.shape[1], left), blocks)
        keep = 1.0 - padding if pasts is None else (1.0 - padding)[:, left:]
        for i, layer in enumerate(self.layers):
            given = (positions, mask, keep, chunk)
            x = layer(x, *given) if pasts is None else layer(x, *given, pasts[i])
        if factor == 1:
            return x if pasts is not None else x[:, :chunk]
        repeated = torch.cat([x * self.scale] * factor, dim=2).reshape(x.shape[0], -1, x.shape[2])
        return before * (1.0 - self.scale) + repeated[:, : before.shape[1]]


_REPLACEMENTS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    AttentionWeights: TracedAttentionWeights,
    SelfAttention: TracedSelfAttention,
    NonlinAttention: TracedNonlinAttention,
    FeedForward: TracedFeedForward,
    ConvolutionModule: TracedConvolution,
    BiasNorm: TracedNorm,
    Bypass: TracedBypass,
}


def _traced_layer(layer: nn.Module, *, in_blocks: bool) -> ZipformerLayer:
    """The same block with its modules replaced for tracing; `in_blocks`: feed-forward modules are computed in blocks.

    That gains nothing at lower rates, where their tensors are smaller (benchmarks/LOG.md).
    """
    assert isinstance(layer, ZipformerLayer)
    replacements = _REPLACEMENTS | {FeedForward: BlockedFeedForward} if in_blocks else _REPLACEMENTS
    for name, module in list(layer.named_children()):
        if type(module) in replacements:
            setattr(layer, name, replacements[type(module)](module))
    return layer
