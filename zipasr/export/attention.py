"""Replacements for the attention modules of a Zipformer block in a graph; `export.graph` inserts them.

Frames go in and out as rows (N T, D): onnxruntime adds the bias of a linear layer within the product only of rows. Attention
weights are (M, H, N, R, T): M blocks of R query frames, and T keys. Each block is computed by itself, with only
the offsets that it needs (`scan`).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.export.blocks import Blocks, linear_of, parts_of
from zipasr.export.scan import scan
from zipasr.nn.attention import AttentionWeights, NonlinAttention, RelativePositionalEncoding, SelfAttention


class Positions(NamedTuple):
    """What the modules of a stack share: position encodings, and the blocks of queries."""

    table: Tensor
    """(2T, D) for T queries and keys."""
    blocks: Blocks


class TracedPositions(nn.Module):
    """Replaces `RelativePositionalEncoding`: computed in the graph, for sequences of any length."""

    def __init__(self, module: RelativePositionalEncoding) -> None:
        super().__init__()
        self.length = math.sqrt(module.channels)
        self.frequency = 2.0 * math.pi / (module.length_factor * module.channels)
        self.multiples: Tensor
        self.register_buffer("multiples", torch.arange(1.0, module.channels // 2 + 1))

    def forward(self, num_frames: Tensor | int) -> Tensor:
        """Encodings (2T, D) of the offsets -T ... T - 1; the first only makes the relative shift simple."""
        offsets = torch.arange(num_frames + num_frames).to(torch.float32).unsqueeze(1) - num_frames  # type: ignore[arg-type]
        compressed = offsets.sign() * ((offsets.abs() + self.length) / self.length).log() * self.length
        angles = (compressed * self.frequency).atan() * self.multiples
        table = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
        return torch.cat([table[:, :-1], torch.ones_like(table[:, :1])], dim=1)


class TracedAttentionWeights(nn.Module):
    """Replaces `AttentionWeights`. The mask is a score that is added for each key, times an extra channel of 1."""

    def __init__(self, module: AttentionWeights) -> None:
        super().__init__()
        self.num_heads, self.query_head_dim, self.pos_head_dim = module.num_heads, module.query_head_dim, module.pos_head_dim
        heads, dim = module.num_heads, module.query_head_dim
        sizes = [heads * dim, heads * dim, heads * module.pos_head_dim]
        query, key, pos = parts_of(module.in_proj, sizes)
        weight = functional.pad(query.weight.view(heads, dim, -1), (0, 0, 0, 1)).flatten(0, 1)
        bias = functional.pad(query.bias.view(heads, dim), (0, 1), value=1.0).flatten()
        self.query_proj, self.key_proj, self.pos_proj = linear_of(weight, bias), key, pos
        self.linear_pos = module.linear_pos

    def forward(self, x: Tensor, positions: Positions, mask: Tensor, past: None = None) -> Tensor:
        """Weights (M, H, N, R, T).

        Args:
            x: rows (N T, D).
            positions: from `TracedPositions`.
            mask: (N, T, H, 1), a score for each key.
            past: not for utterances.
        """
        num_frames = mask.shape[1]
        key = torch.cat([self._in_heads(self.key_proj(x), num_frames), mask], dim=3).permute(2, 0, 1, 3)
        # The exporter would merge this with the transposition for the product, which costs onnxruntime nothing by itself.
        key = key.reshape(self.num_heads, -1, num_frames, self.query_head_dim + 1)
        encoded = self.linear_pos(positions.table)
        encoded = encoded.reshape(encoded.shape[0], 1, self.num_heads, self.pos_head_dim).permute(2, 1, 3, 0)
        query = self._in_heads(self.query_proj(x), num_frames).permute(2, 0, 1, 3)
        pos_query = self._in_heads(self.pos_proj(x), num_frames).permute(2, 0, 1, 3)
        blocks = positions.blocks
        num_rows = blocks.rows.shape[0]

        def weights(begin: Tensor, offset: Tensor) -> Tensor:
            """Weights of the block that begins at this query, with encodings from this offset on."""
            rows = slice(begin, begin + num_rows)
            offsets = encoded[..., offset : offset + (num_rows + key.shape[2])]
            return self._weights(query[:, :, rows], pos_query[:, :, rows], key, offsets, num_rows)

        return scan(weights, [blocks.starts, blocks.starts.flip(0)])

    def _weights(self, query: Tensor, pos_query: Tensor, key: Tensor, encoded: Tensor, num_rows: int) -> Tensor:
        """Weights (H, N, R, K) of R queries (H, N, R, d) for keys (H, N, K, d) with encodings (H, 1, d', R + K).

        The relative shift, shifted[i, j] = scores[i, R - i + j], drops the first R scores, so that rows are one shorter.
        """
        scores = pos_query @ encoded
        scores = scores.reshape(self.num_heads, scores.shape[1], -1)[:, :, num_rows:]
        shifted = scores.reshape(self.num_heads, key.shape[1], num_rows, -1)[..., : key.shape[2]]
        return (query @ key.transpose(2, 3) + shifted).softmax(-1)

    def _in_heads(self, x: Tensor, num_frames: Tensor | int) -> Tensor:
        """(N T, H·d) -> (N, T, H, d)."""
        return x.reshape(-1, num_frames, self.num_heads, x.shape[1] // self.num_heads)  # type: ignore[arg-type]


def _in_rows(x_MNRD: Tensor, width: int) -> Tensor:
    """Blocks (M, N, R, ...) with `width` channels as rows (N M R, width)."""
    return x_MNRD.transpose(0, 1).reshape(-1, width)


class TracedSelfAttention(nn.Module):
    """Replaces `SelfAttention`."""

    def __init__(self, module: SelfAttention) -> None:
        super().__init__()
        self.num_heads, self.in_proj, self.out_proj = module.num_heads, module.in_proj, module.out_proj

    def forward(self, x: Tensor, weights: Tensor, past: None = None) -> Tensor:
        """Map rows (N T, D) under weights (M, H, N, R, T) to rows."""
        width = self.in_proj.out_features
        values = self.in_proj(x).reshape(-1, weights.shape[4], self.num_heads, width // self.num_heads)
        attended = weights @ values.permute(2, 0, 1, 3)
        return self.out_proj(_in_rows(attended.permute(0, 2, 3, 1, 4), width))


class TracedNonlinAttention(nn.Module):
    """Replaces `NonlinAttention`."""

    def __init__(self, module: NonlinAttention) -> None:
        super().__init__()
        width = module.in_proj.out_features // 3
        self.gate_proj, self.content_proj, self.outer_proj = parts_of(module.in_proj, width)
        self.out_proj = module.out_proj

    def forward(self, x: Tensor, weights: Tensor, past: None = None) -> Tensor:
        """Map rows (N T, D) under the weights (M, N, R, T) of one head to rows."""
        width = self.content_proj.out_features
        gated = (self.content_proj(x) * self.gate_proj(x).tanh()).reshape(-1, weights.shape[3], width)
        return self.out_proj(_in_rows(weights @ gated, width) * self.outer_proj(x))
