"""Attention of the Zipformer block: weights are computed once (`AttentionWeights`) and used by two `SelfAttention`
modules and one `NonlinAttention`.

Tensors in and out are (N, T, D). Attention weights are (N, H, T, L + T) with the L cached frames first; L is 0 offline.
All run at the frame rate of their stack.
Source: Yao et al. 2024, arXiv:2310.11230, section 3.2; constants from the published recipe.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from zipasr.nn.constraint import Balancer, Whiten, chance, penalize_abs
from zipasr.nn.past import Past, join
from zipasr.nn.placement import is_cpu_inference
from zipasr.nn.schedule import Schedule, ScheduledModule
from zipasr.nn.swoosh import scaled_linear

MASKED_SCORE = -1000.0
"""Score of a masked position; finite, so that a row with every key masked stays finite."""
_BLOCK_ROWS = 128
"""Rows of scores of one head that inference on a CPU computes at once, so that they stay in a cache."""


class RelativePositionalEncoding(nn.Module):
    """Encodings of the offset between two frames, compressed so that distant offsets share resolution.

    For offset n, with L = sqrt(D): c = L · sign(n) · (ln(|n| + L) - ln L), theta = atan(2 pi c / (f D)), columns
    cos(k theta), sin(k theta) for k = 1 ... D/2; the last column is 1.
    Differs: the original computes them in float32, where they depend on the processor by up to 1e-5. Here they are computed
    in float64 and rounded.
    """

    def __init__(self, channels: int, *, dropout: float = 0.15, length_factor: float = 1.0) -> None:
        super().__init__()
        self.channels, self.dropout, self.length_factor = channels, dropout, length_factor
        self.table: Tensor
        self.register_buffer("table", self._compute(1000), persistent=False)

    def _compute(self, max_frames: int) -> Tensor:
        offsets = torch.arange(-(max_frames - 1), max_frames, dtype=torch.float64).unsqueeze(1)
        length = math.sqrt(self.channels)
        compressed = length * offsets.sign() * ((offsets.abs() + length).log() - math.log(length))
        angle = (compressed / (self.length_factor * self.channels / (2.0 * math.pi))).atan()
        angles = angle * torch.arange(1, self.channels // 2 + 1)
        table = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
        table[:, -1] = 1.0
        return table.float()

    def forward(self, num_frames: int, left_context: int = 0) -> Tensor:
        """Encodings (2T + left - 1, D) of the offsets -(T + left - 1) ... T - 1 for T = `num_frames`."""
        table, reach = self.table, num_frames + left_context
        if reach > table.shape[0] // 2 + 1:
            with torch.inference_mode(False):  # a table made in inference mode could not be used in training later
                self.table = table = self._compute(2 * reach).to(table)  # another thread may replace it again by its own
        middle = table.shape[0] // 2
        rows = table[middle - reach + 1 : middle + num_frames]
        return functional.dropout(rows, self.dropout, self.training)


class RelativeShift(torch.autograd.Function):
    """Read row i of (.., T, P) from column T-1-i on: out[i, j] = scores[i, T-1-i+j], j < K, P = T + K - 1.

    A function of its own, because autograd would copy the gradient for every view that leads there.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.shape = scores.shape
        return _shifted_view(scores.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out = grad.new_zeros(ctx.shape)
        _shifted_view(out).copy_(grad)
        return out


def _shifted_view(scores: Tensor) -> Tensor:
    """The view of contiguous scores (.., T, P) that starts each row one column earlier than the row before."""
    num_frames, num_offsets = scores.shape[-2:]
    if num_frames == 1:
        return scores
    rows = scores.flatten(-2)[..., num_frames - 1 : -1].unflatten(-1, (num_frames, num_offsets - 1))
    return rows[..., : num_offsets - num_frames + 1]


class AttentionWeights(ScheduledModule):
    """Attention probabilities from content and relative position; `SelfAttention` applies them to values."""

    def __init__(
        self,
        channels: int,
        pos_channels: int,
        *,
        num_heads: int,
        query_head_dim: int,
        pos_head_dim: int,
        pos_drop_rate: Schedule | float = Schedule(((0.0, 0.5), (4000.0, 0.0))),  # noqa: B008  frozen
    ) -> None:
        super().__init__()
        self.num_heads, self.query_head_dim, self.pos_head_dim = num_heads, query_head_dim, pos_head_dim
        self.pos_drop_rate = pos_drop_rate
        width = num_heads * (2 * query_head_dim + pos_head_dim)
        self.in_proj = scaled_linear(channels, width, query_head_dim**-0.25)
        self.linear_pos = scaled_linear(pos_channels, num_heads * pos_head_dim, 0.05, bias=False)
        self.balance_keys = Balancer(min_positive=0.4, max_positive=0.6, min_abs=0.0, max_abs=100.0, prob=0.025)
        self.whiten_keys = Whiten(
            Schedule(((0.0, 3.0), (20000.0, 6.0)), default=3.0), num_groups=num_heads, grad_scale=0.025
        )

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, past: Past | None = None) -> Tensor:
        """Weights (N, H, T, L + T), rows summing to 1.

        Args:
            x: (N, T, D).
            positions: (2T + L - 1, pos_channels) from `RelativePositionalEncoding`.
            mask: bool, broadcastable to (N, H, T, L + T); True where a key is masked.
            past: keys (N, L, H·query_head_dim) of earlier chunks.
        """
        query_width = self.num_heads * self.query_head_dim
        query, key, pos_query = self.in_proj(x).split([query_width, query_width, self.num_heads * self.pos_head_dim], dim=-1)
        key = join(past, self.whiten_keys(self.balance_keys(key)))
        query_NHTK = split_heads(query, self.num_heads)
        key_NHKT = split_heads(key, self.num_heads).transpose(2, 3)
        pos_query_NHTK = split_heads(pos_query, self.num_heads)
        if x.shape[1] > _BLOCK_ROWS and not self.training and is_cpu_inference(x):
            return _weights_in_blocks(query_NHTK, key_NHKT, pos_query_NHTK, self._encoded(positions), mask)
        scores_NHTT = query_NHTK @ key_NHKT
        if not (self.training and chance(self.value(self.pos_drop_rate))):
            shifted: Tensor = RelativeShift.apply(pos_query_NHTK @ self._encoded(positions))
            scores_NHTT = scores_NHTT + shifted
        if self.training and chance(0.1):
            scores_NHTT = penalize_abs(scores_NHTT, limit=25.0, penalty=1e-4)
        scores_NHTT = scores_NHTT.masked_fill(mask, MASKED_SCORE)
        return scores_NHTT.softmax(-1).to(scores_NHTT.dtype)

    def _encoded(self, positions: Tensor) -> Tensor:
        """(P, pos_channels) -> (H, pos_head_dim, P)."""
        return self.linear_pos(positions).view(-1, self.num_heads, self.pos_head_dim).permute(1, 2, 0)


def _weights_in_blocks(
    query_NHTK: Tensor, key_NHKT: Tensor, pos_query_NHTK: Tensor, encoded_HKP: Tensor, mask: Tensor
) -> Tensor:
    """`AttentionWeights.forward` without gradients: some rows of one head at a time, each with the offsets that it needs.

    Scores never leave a cache, the products add up in place, and only columns from the first masked key on are filled.
    """
    batch, heads, num_frames, _ = query_NHTK.shape
    num_keys = key_NHKT.shape[3]
    weights_NHTT = query_NHTK.new_empty(batch, heads, num_frames, num_keys)
    has_rows = mask.dim() > 1 and mask.shape[-2] > 1
    mask_NHTK = mask.expand(batch, heads, num_frames if has_rows else 1, num_keys)
    firsts = [_first_masked(mask_HTK) for mask_HTK in mask_NHTK]
    for start, n, h in itertools.product(range(0, num_frames, _BLOCK_ROWS), range(batch), range(heads)):
        end = min(num_frames, start + _BLOCK_ROWS)
        offsets = slice(num_frames - end, num_frames - 1 - start + num_keys)
        positional = _shifted_view(pos_query_NHTK[n, h, start:end] @ encoded_HKP[h, :, offsets])
        scores = torch.addmm(positional, query_NHTK[n, h, start:end], key_NHKT[n, h])
        if firsts[n] < num_keys:
            rows = slice(start, end) if has_rows else slice(None)
            scores[:, firsts[n] :].masked_fill_(mask_NHTK[n, h, rows, firsts[n] :], MASKED_SCORE)
        torch.softmax(scores, -1, out=weights_NHTT[n, h, start:end])
    return weights_NHTT


def _first_masked(mask_HTK: Tensor) -> int:
    """The first key that a bool mask (H, T or 1, K) masks anywhere; K if there is none."""
    keys = mask_HTK.any(0).any(0).nonzero()
    return int(keys[0]) if len(keys) else mask_HTK.shape[2]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(..., T, H·d) -> (..., H, T, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def sinusoids(positions: Tensor, channels: int) -> Tensor:
    """Sinusoidal encodings (P, D), float32, of positions (P,).

    Columns 2k and 2k + 1 are sin and cos of position · 10000^(-2k / D).
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    columns = torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float().unsqueeze(1) * (columns * (-math.log(10_000.0) / channels)).exp()
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class SelfAttention(nn.Module):
    """Values of the frames, averaged under given attention weights and projected."""

    def __init__(self, channels: int, *, num_heads: int, value_head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(channels, num_heads * value_head_dim)
        self.out_proj = scaled_linear(num_heads * value_head_dim, channels, 0.05)
        self.whiten = Whiten(whitening_limit(7.5, 3.0))

    def forward(self, x: Tensor, weights: Tensor, past: Past | None = None) -> Tensor:
        """Map (N, T, D) under weights (N, H, T, L + T) to (N, T, D); `past` holds L earlier values."""
        attended = weights @ split_heads(join(past, self.in_proj(x)), self.num_heads)
        return self.whiten(self.out_proj(attended.transpose(1, 2).flatten(2)))


class NonlinAttention(nn.Module):
    """Attention of one head over gated channels: out(y · A(x · tanh(s))), with 3/4 of the channels inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 3 * channels // 4
        self.in_proj = nn.Linear(channels, 3 * hidden)
        self.balancer = Balancer(
            min_positive=Schedule(((0.0, 0.25), (20000.0, 0.05))),
            max_positive=Schedule(((0.0, 0.75), (20000.0, 0.95))),
            min_abs=0.5,
            max_abs=5.0,
        )
        self.whiten1 = Whiten(whitening_limit(5.0, 2.0))
        self.out_proj = scaled_linear(hidden, channels, 0.05)
        self.whiten2 = Whiten(whitening_limit(5.0, 3.0))

    def forward(self, x: Tensor, weights: Tensor, past: Past | None = None) -> Tensor:
        """Map (N, T, D) under the weights (N, T, L + T) of one head to (N, T, D); `past` holds L earlier x · tanh(s)."""
        gate, content, outer = self.in_proj(x).chunk(3, dim=-1)
        gated = join(past, self.whiten1(content) * self.balancer(gate).tanh())
        return self.whiten2(self.out_proj((weights @ gated) * outer))


def whitening_limit(start: float, ratio: float) -> Schedule:
    """A Whiten limit that grows from `start` to `ratio` · `start` over the first 20,000 steps."""
    return Schedule(((0.0, start), (20000.0, ratio * start)), default=start)
