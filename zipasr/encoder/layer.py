"""One Zipformer block: attention weights once, used by two self-attentions and the non-linear attention, with three
feed-forwards, two convolutions and a Bypass around it. (N, T, D) -> (N, T, D) at the rate of its stack.

Source: Yao et al. 2024, arXiv:2310.11230, figure 2 and section 3.2; training-only constants from the published recipe.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zipasr.nn.attention import AttentionWeights, NonlinAttention, SelfAttention, whitening_limit
from zipasr.nn.constraint import Balancer, Whiten, chance, limit_param_value
from zipasr.nn.convolution import ConvolutionModule
from zipasr.nn.dropout import DROPOUT, sequence_mask
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.norm import BiasNorm
from zipasr.nn.schedule import Schedule, ScheduledModule

_ATTENTION_SKIP = Schedule(((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0)))
_CONV_SKIP = _ATTENTION_SKIP
_FEED_FORWARD_SKIP = Schedule(((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0)))
_CONST_ATTENTION = Schedule(((0.0, 0.25), (4000.0, 0.025)))
_BYPASS_MIN = Schedule(((0.0, 0.9), (20000.0, 0.2)))


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Sizes of one block."""

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


class Bypass(ScheduledModule):
    """Learned interpolation, channel by channel, between the input of some layers and their output."""

    def __init__(self, channels: int, *, skip_rate: Schedule | float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 0.5))
        self.skip_rate = skip_rate

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return before + (after - before) · scale, all (N, T, D); while training some sequences keep `before`."""
        scale: Tensor = self.scale
        if self.training:
            minimum = self.value(_BYPASS_MIN)
            scale = limit_param_value(scale, minimum=minimum, maximum=1.0, training=True)
            rate = self.value(self.skip_rate)
            if rate > 0.0:
                scale = scale * sequence_mask(before, rate)
        return torch.addcmul(before, after - before, scale)


class ZipformerLayer(ScheduledModule):
    """One Zipformer block."""

    def __init__(self, shape: LayerShape, *, skip_rate: Schedule | float = 0.0) -> None:
        super().__init__()
        channels = shape.channels
        self.attention_weights = AttentionWeights(
            channels,
            shape.pos_dim,
            num_heads=shape.num_heads,
            query_head_dim=shape.query_head_dim,
            pos_head_dim=shape.pos_head_dim,
        )
        self.self_attention1 = SelfAttention(channels, num_heads=shape.num_heads, value_head_dim=shape.value_head_dim)
        self.self_attention2 = SelfAttention(channels, num_heads=shape.num_heads, value_head_dim=shape.value_head_dim)
        self.feed_forward1 = FeedForward(channels, shape.feedforward * 3 // 4, dropout=shape.dropout)
        self.feed_forward2 = FeedForward(channels, shape.feedforward, dropout=shape.dropout)
        self.feed_forward3 = FeedForward(channels, shape.feedforward * 5 // 4, dropout=shape.dropout)
        self.nonlin_attention = NonlinAttention(channels)
        self.conv1 = ConvolutionModule(channels, shape.kernel_size, is_causal=shape.is_causal)
        self.conv2 = ConvolutionModule(channels, shape.kernel_size, is_causal=shape.is_causal)
        self.norm = BiasNorm(channels)
        self.bypass_mid = Bypass(channels)
        self.bypass = Bypass(channels, skip_rate=skip_rate)
        # Present in every published checkpoint and count of parameters, but never used.
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

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, padding_mask: Tensor, chunk_frames: int = -1) -> Tensor:
        """Map (N, T, D) to (N, T, D).

        Args:
            x: (N, T, D).
            positions: (2T - 1, pos_dim) relative position encodings.
            mask: bool, broadcastable to (N, 1, T, T), True where attention may not look.
            padding_mask: bool (N, T), True at padding.
            chunk_frames: see `ConvolutionModule`.
        """
        before = x
        weights = self.attention_weights(x, positions, mask)
        attention_keep = self._keep(x, _ATTENTION_SKIP)
        conv_skip, ff_skip = _CONV_SKIP, _FEED_FORWARD_SKIP

        x = x + self.feed_forward1(x)
        x = x + _masked(self.balancer_nonlin(self.nonlin_attention(x, self._one_head(weights))), attention_keep)
        x = x + _masked(self.self_attention1(x, weights), attention_keep)
        x = x + _masked(self.conv1(x, padding_mask, chunk_frames), self._keep(x, conv_skip))
        x = x + _masked(self.balancer_ff2(self.feed_forward2(x)), self._keep(x, ff_skip))
        x = self.bypass_mid(before, x)
        x = x + _masked(self.self_attention2(x, weights), attention_keep)
        x = x + _masked(self.conv2(x, padding_mask, chunk_frames), self._keep(x, conv_skip))
        x = x + _masked(self.balancer_ff3(self.feed_forward3(x)), self._keep(x, ff_skip))
        x = self.bypass(before, self.norm(self.balancer1(x)))
        return self.whiten(self.balancer2(x))

    def _one_head(self, weights: Tensor) -> Tensor:
        """Weights (N, T, T) of head 0; now and then, while training, the same for every key it sees at all."""
        head = weights[:, 0]
        if self.training and chance(self.value(_CONST_ATTENTION)):
            seen = (head > 0.0).to(head.dtype)
            return seen / seen.sum(-1, keepdim=True)
        return head

    def _keep(self, x: Tensor, skip_rate: Schedule) -> Tensor | None:
        rate = self.value(skip_rate) if self.training else 0.0
        return sequence_mask(x, rate) if rate > 0.0 else None


def _masked(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else x * keep
