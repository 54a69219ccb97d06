"""The attention decoder: a Transformer that attends to `Encoded` and predicts the probability of each next label.

It is trained jointly with CTC or a transducer (U = S + 1 positions: sos before the labels, eos after them) and rescores
their n-best hypotheses. Frames are (N, T, D) at 25 Hz; the K label sequences (N, K, S) of an utterance share its keys and
values, so encoder frames are not repeated.
Source: Vaswani et al. 2017, arXiv:1706.03762 (pre-norm, no norm after the last layer); Watanabe et al. 2017, "Hybrid
CTC/attention architecture for end-to-end speech recognition".
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.errors import ConfigError
from zipasr.losses.arguments import require_span, require_vocabulary
from zipasr.losses.label_smoothing import label_smoothing_loss
from zipasr.nn.attention import sinusoids, split_heads
from zipasr.nn.constraint import penalize_abs
from zipasr.nn.encoded import Encoded
from zipasr.nn.feedforward import SwishFeedForward
from zipasr.nn.placement import moved
from zipasr.nn.precision import wide_linear, widened

_SCORE_LIMIT, _SCORE_PENALTY = 50.0, 1e-4  # the published recipe: larger attention scores are pushed back


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The attention decoder; the defaults are the published ones."""

    num_layers: int = 6
    """Layers of self-attention, cross-attention and feed-forward."""
    dim: int = 512
    """Width of the label embedding and of the layers; even."""
    attention_dim: int = 512
    """Width of queries, keys and values of all heads together."""
    num_heads: int = 8
    """Attention heads."""
    feedforward: int = 2048
    """Hidden width of the feed-forward modules."""
    dropout: float = 0.1
    """Dropout of the embedding, of every residual branch and inside the feed-forward modules."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread evenly over all labels."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "dim", "attention_dim", "num_heads", "feedforward"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.num_layers > 1000:  # built one by one: a billion without end
            raise ConfigError(f"num_layers must be at most 1000, but is {self.num_layers}")
        if self.dim % 2:
            raise ConfigError(f"dim must be even (half sines, half cosines), but is {self.dim}")
        if self.attention_dim % self.num_heads:
            raise ConfigError(
                f"attention_dim must be a multiple of num_heads, {self.num_heads}, but is {self.attention_dim}"
            )
        for name in ("dropout", "label_smoothing"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be at least 0 and below 1, but is {getattr(self, name)}")


class _Attention(nn.Module):
    """Multi-head attention of positions (N, Q, C) on a memory (N, K, M)."""

    def __init__(self, dim: int, memory_dim: int, attention_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, attention_dim // num_heads
        self.query = nn.Linear(dim, attention_dim)
        self.key = nn.Linear(memory_dim, attention_dim)
        self.value = nn.Linear(memory_dim, attention_dim)
        self.out_proj = nn.Linear(attention_dim, dim)

    def forward(self, x_NQC: Tensor, memory_NKM: Tensor, hidden_NQK: Tensor) -> Tensor:
        """Attend where `hidden_NQK` is false; it may be (N, 1, K) if it is the same for all queries."""
        query_NHQE = split_heads(self.query(x_NQC), self.num_heads)
        key_NHKE = split_heads(self.key(memory_NKM), self.num_heads)
        value_NHKE = split_heads(self.value(memory_NKM), self.num_heads)
        scores_NHQK = widened(query_NHQE @ key_NHKE.transpose(2, 3)) / math.sqrt(self.head_dim)
        if self.training:
            scores_NHQK = penalize_abs(scores_NHQK, limit=_SCORE_LIMIT, penalty=_SCORE_PENALTY)
        hidden_NHQK = hidden_NQK.unsqueeze(1)
        # The lowest finite number: -inf would give nan where everything is hidden; the weights are 0 there.
        scores_NHQK = scores_NHQK.masked_fill(hidden_NHQK, torch.finfo(scores_NHQK.dtype).min)
        weights_NHQK = scores_NHQK.softmax(-1).masked_fill(hidden_NHQK, 0.0)
        found_NHQE = weights_NHQK.to(value_NHKE.dtype) @ value_NHKE
        return self.out_proj(found_NHQE.transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each a residual branch that starts with a LayerNorm."""

    def __init__(self, config: AttentionConfig, encoder_channels: int) -> None:
        super().__init__()
        dim, width, num_heads = config.dim, config.attention_dim, config.num_heads
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = _Attention(dim, dim, width, num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_attention = _Attention(dim, encoder_channels, width, num_heads)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = SwishFeedForward(dim, config.feedforward, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_MUC: Tensor, hidden_MUU: Tensor, frames_NTD: Tensor, hidden_N1T: Tensor) -> Tensor:
        """Map (M, U, C) to (M, U, C), M = N · K: the sequences of an utterance are adjacent."""
        y_MUC = self.self_norm(x_MUC)
        x_MUC = x_MUC + self.dropout(self.self_attention(y_MUC, y_MUC, hidden_MUU))
        # Positions do not attend to each other here, so all those of an utterance are queries of one sequence.
        y_NPC = self.cross_norm(x_MUC).reshape(frames_NTD.shape[0], -1, x_MUC.shape[2])
        x_MUC = x_MUC + self.dropout(self.cross_attention(y_NPC, frames_NTD, hidden_N1T)).view_as(x_MUC)
        return x_MUC + self.feed_forward(self.feed_forward_norm(x_MUC))


class AttentionHead(nn.Module):
    """The attention decoder: label embedding, Transformer layers and output layer."""

    def __init__(self, config: AttentionConfig, *, encoder_channels: int, vocab_size: int, sos_eos: int) -> None:
        super().__init__()
        self.config, self.sos_eos = config, sos_eos
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_Layer(config, encoder_channels) for _ in range(config.num_layers))
        self.output = nn.Linear(config.dim, vocab_size)

    def forward(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        """Logits (N, K, S + 1, V), float32 (float64 of float64), of the label after each prefix, the empty one first.

        Args:
            encoded: frames and lengths at 25 Hz.
            labels_NKS: K label sequences of each utterance, padding ignored.
            label_lens_NK: (N, K) valid labels.
        Raises:
            ValueError: shapes disagree, a length exceeds its axis, or a label is not in [0, V).
        """
        size, num_sequences, num_labels = self._check(encoded, labels_NKS, label_lens_NK)
        device = encoded.frames.device
        sequences_MS = moved(labels_NKS.flatten(0, 1), device)
        lens_M1 = moved(label_lens_NK.reshape(-1, 1), device)
        position_U = torch.arange(num_labels + 1, device=device)
        sequences_MS = sequences_MS.masked_fill(position_U[:num_labels] >= lens_M1, self.sos_eos)
        ids_MU = functional.pad(sequences_MS, (1, 0), value=self.sos_eos)
        hidden_MUU = (position_U > position_U.unsqueeze(1)) | (position_U > lens_M1).unsqueeze(1)
        hidden_NT = encoded.is_padding_NT

        embedded_MUC = self.embedding(ids_MU) * math.sqrt(self.config.dim)
        positions_UC = sinusoids(position_U, self.config.dim).to(embedded_MUC.dtype)
        x_MUC = self.dropout(embedded_MUC + positions_UC)
        for layer in self.layers:
            x_MUC = layer(x_MUC, hidden_MUU, encoded.frames, hidden_NT.unsqueeze(1))
        with torch.autocast(device_type=device.type, enabled=False):
            return wide_linear(self.output, x_MUC).view(size, num_sequences, num_labels + 1, -1)

    def loss(self, encoded: Encoded, labels_NS: Tensor, label_lens: Tensor) -> dict[str, Tensor]:
        """Label-smoothed cross-entropy of the labels and the final eos, summed over the batch, in nats.

        Args:
            encoded: frames and lengths at 25 Hz.
            labels_NS: (N, S) ids, padding ignored.
            label_lens: (N,) valid labels.
        """
        logits_NUV = self.forward(encoded, labels_NS.unsqueeze(1), label_lens.unsqueeze(1)).squeeze(1)
        targets_NU = self._targets(labels_NS, label_lens)
        with torch.autocast(device_type=logits_NUV.device.type, enabled=False):
            loss_N = label_smoothing_loss(logits_NUV, targets_NU, label_lens + 1, smoothing=self.config.label_smoothing)
        return {"attention": loss_N.sum()}

    def log_probs(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        """Log-probability (N, K, S + 1), float32, of each label and of the final eos; 0 at padding.

        Args: as for `forward`.
        """
        log_probs_NKUV = self.forward(encoded, labels_NKS, label_lens_NK).log_softmax(-1)
        device = log_probs_NKUV.device
        targets_NKU = self._targets(labels_NKS, label_lens_NK).to(device)
        is_padding_NKU = torch.arange(targets_NKU.shape[-1], device=device) > label_lens_NK.to(device).unsqueeze(-1)
        return log_probs_NKUV.gather(-1, targets_NKU.unsqueeze(-1)).squeeze(-1).masked_fill(is_padding_NKU, 0.0)

    def _targets(self, labels: Tensor, label_lens: Tensor) -> Tensor:
        """Targets (..., S + 1) of each prefix: the labels, then sos/eos, which also fills the padding."""
        label_lens = moved(label_lens, labels.device)
        is_padding = torch.arange(labels.shape[-1], device=labels.device) >= label_lens.unsqueeze(-1)
        return functional.pad(labels.masked_fill(is_padding, self.sos_eos), (0, 1), value=self.sos_eos)

    def _check(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> tuple[int, int, int]:
        size, vocab_size = encoded.frames.shape[0], self.embedding.num_embeddings
        if labels_NKS.dim() != 3 or labels_NKS.shape[0] != size or label_lens_NK.shape != labels_NKS.shape[:2]:
            raise ValueError(
                f"labels must be (N, K, S) and label_lens (N, K) with N = {size} utterances, but their shapes are "
                f"{tuple(labels_NKS.shape)} and {tuple(label_lens_NK.shape)}"
            )
        num_sequences, num_labels = labels_NKS.shape[1:]
        if size * num_sequences == 0:
            raise ValueError("labels must hold at least one sequence, but hold none")
        require_span("label_lens", label_lens_NK, 0, num_labels, "labels")
        require_vocabulary("labels", labels_NKS, label_lens_NK, vocab_size)
        return size, num_sequences, num_labels
