"""One Zipformer block: attention weights computed once for two self-attentions and the non-linear attention, three
feed-forwards, two convolutions and Bypass connections. (N, T, D) -> (N, T, D) at the frame rate of its stack.

Source: Yao et al. 2024, arXiv:2310.11230, figure 2 and section 3.2; training-only constants from the published recipe.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zipasr.encoder.ablation import AblationConfig, NoBypass
from zipasr.nn.attention import AttentionWeights, NonlinAttention, SelfAttention, whitening_limit
from zipasr.nn.constraint import Balancer, Whiten, chance, limit_param_value
from zipasr.nn.convolution import ConvolutionModule
from zipasr.nn.dropout import DROPOUT, sequence_mask
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.past import Past
from zipasr.nn.schedule import Schedule, ScheduledModule

ATTENTION_SKIP = Schedule(((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0)))
CONV_SKIP = ATTENTION_SKIP
FEED_FORWARD_SKIP = Schedule(((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0)))
_CONST_ATTENTION = Schedule(((0.0, 0.25), (4000.0, 0.025)))
_BYPASS_MIN = Schedule(((0.0, 0.9), (20000.0, 0.2)))


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Sizes of one block, and constructors of its modules."""

    channels: int
    feedforward: int
    num_heads: int
    kernel_size: int
    query_head_dim: int
    value_head_dim: int
    pos_head_dim: int
    pos_dim: int
    is_causal: bool
    dropout: Schedule = DROPOUT
    ablation: AblationConfig = field(default_factory=AblationConfig)

    def attention_weights(self) -> nn.Module:
        """A new module that computes attention weights."""
        weights = AttentionWeights(
            self.channels,
            self.pos_dim,
            num_heads=self.num_heads,
            query_head_dim=self.query_head_dim,
            pos_head_dim=self.pos_head_dim,
        )
        return self.ablation.with_input_norm(weights, self.channels)

    def self_attention(self) -> nn.Module:
        """A new self-attention module, which applies given attention weights."""
        attention = SelfAttention(self.channels, num_heads=self.num_heads, value_head_dim=self.value_head_dim)
        return self.ablation.with_input_norm(attention, self.channels)

    def feed_forward(self, hidden_channels: int) -> nn.Module:
        """A new feed-forward module."""
        activation = self.ablation.left_activation
        feed_forward = FeedForward(self.channels, hidden_channels, dropout=self.dropout, activation=activation)
        return self.ablation.with_input_norm(feed_forward, self.channels)

    def convolution(self) -> nn.Module:
        """A new convolution module."""
        activation = self.ablation.right_activation
        conv = ConvolutionModule(self.channels, self.kernel_size, is_causal=self.is_causal, activation=activation)
        return self.ablation.with_input_norm(conv, self.channels)


class LayerPast(NamedTuple):
    """Cached left context of the modules of one block; None where there is no past."""

    key: Past | None = None
    """Keys of the attention weights, (N, L, H·query_head_dim)."""
    nonlin: Past | None = None
    """x · tanh(s) of the non-linear attention, (N, L, 3D/4)."""
    value1: Past | None = None
    """Values of the first self-attention, (N, L, H·value_head_dim)."""
    value2: Past | None = None
    """Values of the second self-attention, likewise."""
    conv1: Past | None = None
    """Gated input of the first convolution, (N, k//2, D)."""
    conv2: Past | None = None
    """Gated input of the second convolution, likewise."""


NO_PAST = LayerPast()
"""No cached context: offline, the input is the whole utterance."""


class Bypass(ScheduledModule):
    """Learned interpolation, per channel, between the input and the output of some layers."""

    def __init__(self, channels: int, *, skip_rate: Schedule | float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 0.5))
        self.skip_rate = skip_rate

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return before + (after - before) · scale, all (N, T, D); in training some sequences keep `before`."""
        scale: Tensor = self.scale
        if self.training:
            minimum = self.value(_BYPASS_MIN)
            scale = limit_param_value(scale, minimum=minimum, maximum=1.0, training=True)
            rate = self.value(self.skip_rate)
            if rate > 0.0:
                scale = scale * sequence_mask(before, rate)
        return torch.addcmul(before, after - before, scale)


class SkippingBlock(ScheduledModule):
    """Base class of blocks whose modules are randomly skipped in training, each for whole sequences."""

    def _keep(self, x: Tensor, skip_rate: Schedule) -> Tensor | None:
        """A 0/1 mask of the sequences of `x` that keep a module; None if all do."""
        rate = self.value(skip_rate) if self.training else 0.0
        return sequence_mask(x, rate) if rate > 0.0 else None


class ZipformerLayer(SkippingBlock):
    """One Zipformer block, with the skips and constraints of training."""

    def __init__(self, shape: LayerShape, *, skip_rate: Schedule | float = 0.0) -> None:
        super().__init__()
        channels, ablation = shape.channels, shape.ablation
        self.attention_weights = shape.attention_weights()
        self.attention_weights2 = None if ablation.has_shared_attention_weights else shape.attention_weights()
        self.self_attention1 = shape.self_attention()
        self.self_attention2 = shape.self_attention()
        self.feed_forward1 = shape.feed_forward(shape.feedforward * 3 // 4)
        self.feed_forward2 = shape.feed_forward(shape.feedforward)
        self.feed_forward3 = shape.feed_forward(shape.feedforward * 5 // 4)
        self.nonlin_attention: nn.Module | None = None
        if ablation.has_nonlin_attention:
            self.nonlin_attention = ablation.with_input_norm(NonlinAttention(channels), channels)
        self.conv1 = shape.convolution()
        self.conv2 = shape.convolution()
        self.norm = ablation.make_norm(channels)
        self.bypass_mid = Bypass(channels) if ablation.has_bypass else NoBypass()
        self.bypass = Bypass(channels, skip_rate=skip_rate) if ablation.has_bypass else NoBypass()
        # Part of every published checkpoint and parameter count, but never used.
        self.unused_scale = nn.Parameter(torch.full((channels,), 0.5), requires_grad=False)

        self.balancer_nonlin = Balancer(
            min_positive=0.3, max_positive=0.7, min_abs=Schedule(((0.0, 0.004), (4000.0, 0.02))), prob=0.05
        )
        self.balancer_ff2 = Balancer(
            min_positive=0.3, max_positive=0.7, min_abs=Schedule(((0.0, 0.0), (4000.0, 0.1))), max_abs=2.0, prob=0.05
        )
        self.balancer_ff3 = Balancer(
            min_positive=0.3, max_positive=0.7, min_abs=Schedule(((0.0, 0.0), (4000.0, 0.2))), max_abs=4.0, prob=0.05
        )
        self.balancer1 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.2, max_abs=4.0)
        self.balancer2 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.1, max_abs=4.0)
        self.whiten = Whiten(whitening_limit(4.0, 3.0))

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor,
        padding_mask: Tensor,
        chunk_frames: int = -1,
        past: LayerPast = NO_PAST,
    ) -> Tensor:
        """Map (N, T, D) to (N, T, D).

        Args:
            x: (N, T, D).
            positions: (2T + L - 1, pos_dim) relative position encodings, including the L cached frames.
            mask: bool, broadcastable to (N, 1, T, L + T), True where attention is masked.
            padding_mask: bool (N, T), True at padding.
            chunk_frames: see `ConvolutionModule`.
            past: cached left context of the modules.
        """
        before = x
        weights = self.attention_weights(x, positions, mask, past.key)
        attention_keep = self._keep(x, ATTENTION_SKIP)

        x = x + self.feed_forward1(x)
        if self.nonlin_attention is not None:
            added = self.nonlin_attention(x, self._one_head(weights), past.nonlin)
            x = x + masked(self.balancer_nonlin(added), attention_keep)
        x = x + masked(self.self_attention1(x, weights, past.value1), attention_keep)
        x = x + masked(self.conv1(x, padding_mask, chunk_frames, past.conv1), self._keep(x, CONV_SKIP))
        x = x + masked(self.balancer_ff2(self.feed_forward2(x)), self._keep(x, FEED_FORWARD_SKIP))
        x = self.bypass_mid(before, x)
        if self.attention_weights2 is not None:
            weights = self.attention_weights2(x, positions, mask)
        x = x + masked(self.self_attention2(x, weights, past.value2), attention_keep)
        x = x + masked(self.conv2(x, padding_mask, chunk_frames, past.conv2), self._keep(x, CONV_SKIP))
        x = x + masked(self.balancer_ff3(self.feed_forward3(x)), self._keep(x, FEED_FORWARD_SKIP))
        x = self.bypass(before, self.norm(self.balancer1(x)))
        return self.whiten(self.balancer2(x))

    def _one_head(self, weights: Tensor) -> Tensor:
        """Weights (N, T, L + T) of head 0; in training, occasionally uniform over the keys that are not masked."""
        head = weights[:, 0]
        if self.training and chance(self.value(_CONST_ATTENTION)):
            seen = (head > 0.0).to(head.dtype)
            return seen / seen.sum(-1, keepdim=True)
        return head


def masked(x: Tensor, keep: Tensor | None) -> Tensor:
    """`x` where `keep` is 1, else zero; None keeps everything."""
    return x if keep is None else x * keep
