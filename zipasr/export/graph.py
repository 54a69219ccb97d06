"""Replacements for the modules of a Zipformer that encodes utterances, while it is traced: `for_tracing`. `export.chunk` has
those for streams.

They compute the same values (N, T, D) by operations that onnxruntime runs fast and that keep every length dynamic. The
differences: attention weights, Conv-Embed and feed-forward modules are computed in blocks; frames are rows within a stack;
the relative shift reshapes instead of using strides, which ONNX lacks, or gathering, which is slow; Swoosh uses operations
that onnxruntime vectorizes, with its shift and offset in the neighboring biases; masks are a score that an extra channel of
query and key adds in their product; position encodings have any length; two products replace a split. docs/export.md says
what each of them gains.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.layer import Bypass, ZipformerLayer
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


def for_tracing(encoder: Zipformer) -> Zipformer:
    """A copy of an encoder in eval mode with stacks and Conv-Embed replaced, so that `encode_frames` can be traced.

    Raises:
        ConfigError: the encoder is an ablation.
    """
    check_standard(encoder)
    traced = copy.deepcopy(encoder).eval().requires_grad_(False)
    traced.frontend = TracedConvEmbed(traced.frontend)  # type: ignore[assignment]
    for i, stack in enumerate(traced.stacks):
        assert isinstance(stack, ZipformerStack)
        traced.stacks[i] = TracedStack(stack)
    traced.output_downsample = TracedDownsample(traced.output_downsample)  # type: ignore[assignment]
    return traced


def check_standard(encoder: Zipformer) -> None:
    """Check that other runtimes support an encoder.

    Raises:
        ConfigError: it is an ablation.
    """
    config = encoder.config
    if config.ablation != AblationConfig() or config.conv_embed_rate != 2:
        raise ConfigError(
            "export supports only the standard Zipformer, but this encoder is one of its ablations "
            f"({config.ablation}, conv_embed_rate {config.conv_embed_rate}); train one with the default ingredients"
        )


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

    def __init__(self, module: ZipformerStack) -> None:
        super().__init__()
        self.factor = module.factor
        self.positions = TracedPositions(module.positions)
        self.layers = nn.ModuleList(_traced_layer(layer, in_blocks=self.factor == 1) for layer in module.layers)
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
        pasts: None = None,
    ) -> Tensor:
        """Map (N, T, D) to (N, T, D) at 50 Hz; arguments as in `ZipformerStack.forward`, masks of frames None."""
        assert feature_mask is None and attention_mask is None and pasts is None
        before, factor = x, self.factor
        if factor > 1:
            x = self.downsample(x)
            padding_mask = padding_mask[:, ::factor]
        num_frames = x.shape[1]
        blocks = blocks_of(num_frames)
        x = x.index_select(1, blocks.numbers)
        padding = padding_mask.to(x.dtype).unsqueeze(-1)  # (N, T, 1)
        padding = torch.cat([padding, torch.ones_like(x[:, num_frames:, :1])], dim=1)
        mask = torch.cat([padding.unsqueeze(-1) * MASKED_SCORE] * self.num_heads, dim=2)
        positions = Positions(self.positions(x.shape[1]), blocks)
        rows, size, width = x.reshape(-1, x.shape[2]), x.shape[:2], x.shape[2]
        for layer in self.layers:
            rows = layer(rows, positions, mask, 1.0 - padding, num_frames)
        x = rows.reshape(*size, width)
        if factor == 1:
            return x[:, :num_frames]
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
