"""Self-attention over content and relative position: (N, T, D) -> (N, T, D), any rate.

score[i, j] = ((q_i + u) · k_j + (q_i + v) · W p_{i-j}) / sqrt(D / H), with p the sinusoidal encoding of an offset and
u, v learned per head. Memory and time grow as T^2.
Source: Dai et al. 2019, arXiv:1901.02860, section 3.3; Gulati et al. 2020, arXiv:2005.08100, section 2.1.
"""

import torch
from torch import Tensor, nn

from zipasr.nn.attention import RelativeShift, sinusoids, split_heads


def relative_positions(x: Tensor) -> Tensor:
    """`sinusoids` (2T - 1, D), for `x` (N, T, D), of the offsets T - 1, ..., 0, ..., -(T - 1), in the dtype of `x`."""
    num_frames, channels = x.shape[1:]
    return sinusoids(torch.arange(num_frames - 1, -num_frames, -1, device=x.device), channels).to(x.dtype)


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative positions."""

    def __init__(self, channels: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.in_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)
        self.linear_pos = nn.Linear(channels, channels, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, channels // num_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, channels // num_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D).

        Args:
            x: (N, T, D).
            positions: (2T - 1, D) from `relative_positions`.
            padding_mask: bool (N, T), True at padding frames, which are not attended to.
        """
        query, key, value = (split_heads(part, self.num_heads) for part in self.in_proj(x).chunk(3, dim=-1))
        encoded_HPd = split_heads(self.linear_pos(positions), self.num_heads)
        # Scaling the queries instead of the scores costs T / d times less.
        content_query = (query + self.pos_bias_u.unsqueeze(1)) * self.scale
        pos_query = (query + self.pos_bias_v.unsqueeze(1)) * self.scale
        scores_NHTT = content_query @ key.transpose(-2, -1) + RelativeShift.apply(pos_query @ encoded_HPd.transpose(-2, -1))
        # The lowest finite number instead of -inf keeps rows finite whose keys are all padding.
        lowest = torch.finfo(scores_NHTT.dtype).min
        weights_NHTT = scores_NHTT.masked_fill(padding_mask[:, None, None], lowest).softmax(-1)
        attended = self.dropout(weights_NHTT) @ value
        return self.out_proj(attended.transpose(1, 2).flatten(2))
