"""The transducer head: a stateless predictor and a joiner on top of `Encoded`, trained with the pruned loss.

Frames are (N, T, D) at 25 Hz, label contexts (N, U) ids with U = S + 1. In training the joiner is evaluated only on a band
of R label positions per frame, (N, T, R, V), so that memory does not grow with S.
Source: Graves 2012; Ghodsi et al. 2020 (stateless predictor); Kuang et al. 2022, arXiv:2206.13236 (pruned loss).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.errors import ConfigError
from zipasr.losses.arguments import require_vocabulary
from zipasr.losses.lattice import KINDS, LatticeKind
from zipasr.losses.transducer import prune_ranges, pruned_transducer_loss, simple_transducer_loss
from zipasr.nn.constraint import Balancer
from zipasr.nn.encoded import Encoded, padding_mask
from zipasr.nn.placement import moved
from zipasr.nn.precision import widened
from zipasr.nn.swoosh import scaled_linear


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """Configuration of the transducer head; the defaults are the published ones."""

    predictor_dim: int = 512
    """Width of the label embedding."""
    joiner_dim: int = 512
    """Width of the joiner."""
    context_size: int = 2
    """Number of previous labels that the predictor receives; 1 or more."""
    prune_range: int = 5
    """Label positions R per frame at which the joiner is evaluated in training."""
    lm_scale: float = 0.25
    """Share of the label-only model in the smoothed simple loss."""
    am_scale: float = 0.0
    """Share of the acoustics-only model in the smoothed simple loss."""
    lattice: LatticeKind = "regular"
    """How many labels a frame may emit on the paths that the loss sums: with `regular` any number, as in the published
    recipes, with `modified` and `constrained` at most one. A head trained with `regular` may learn to emit several labels
    in one frame, which a search with one label per frame misses; see docs/own_data.md."""

    def __post_init__(self) -> None:
        for name in ("context_size", "predictor_dim", "joiner_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.context_size > 1 and self.predictor_dim % 4:
            raise ConfigError(f"predictor_dim must be a multiple of 4, but is {self.predictor_dim}")
        if self.prune_range < 2:
            raise ConfigError(f"prune_range must be at least 2, but is {self.prune_range}")
        if not (self.lm_scale >= 0.0 and self.am_scale >= 0.0 and self.lm_scale + self.am_scale <= 1.0):
            raise ConfigError(
                "lm_scale and am_scale must be at least 0, and at most 1 together, but are "
                f"{self.lm_scale} and {self.am_scale}"
            )
        if self.lattice not in KINDS:
            raise ConfigError(f"lattice must be one of {', '.join(KINDS)}, but is {self.lattice!r}")


class Predictor(nn.Module):
    """Stateless predictor: embeddings of the last `context_size` labels, combined by a small convolution."""

    def __init__(self, vocab_size: int, dim: int, context_size: int) -> None:
        super().__init__()
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, dim)
        self.balancer1 = Balancer(min_positive=0.0, max_positive=1.0, min_abs=0.5, max_abs=1.0, prob=0.05)
        if context_size > 1:
            self.conv = nn.Conv1d(dim, dim, context_size, groups=dim // 4, bias=False)
            self.balancer2 = Balancer(min_positive=0.0, max_positive=1.0, min_abs=0.5, max_abs=1.0, prob=0.05)

    def forward(self, ids_NU: Tensor) -> Tensor:
        """Map label contexts (N, U) to (N, U - context_size + 1, dim); id -1 embeds to the zero vector."""
        embedded = self.embedding(ids_NU.clamp(min=0)) * (ids_NU >= 0).unsqueeze(-1)
        embedded = self.balancer1(embedded)
        if self.context_size == 1:
            return embedded
        joined = self.conv(embedded.transpose(1, 2)).transpose(1, 2)
        return self.balancer2(joined.relu())


class Joiner(nn.Module):
    """Joiner: logits of the next label from tanh of the sum of projected encoder frames and label contexts."""

    def __init__(self, encoder_channels: int, predictor_dim: int, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder_proj = scaled_linear(encoder_channels, dim, 0.25)
        self.predictor_proj = scaled_linear(predictor_dim, dim, 0.25)
        self.output = nn.Linear(dim, vocab_size)

    def forward(self, projected_frames: Tensor, projected_contexts: Tensor) -> Tensor:
        """Logits (..., V) of projected frames and contexts (..., J) that broadcast against each other."""
        return self.output((projected_frames + projected_contexts).tanh())


class TransducerHead(nn.Module):
    """The transducer head: predictor, joiner, and the linear layers of the simple loss that determines the band."""

    def __init__(self, config: TransducerConfig, *, encoder_channels: int, vocab_size: int, blank: int) -> None:
        super().__init__()
        self.config, self.blank = config, blank
        self.predictor = Predictor(vocab_size, config.predictor_dim, config.context_size)
        self.joiner = Joiner(encoder_channels, config.predictor_dim, config.joiner_dim, vocab_size)
        self.simple_am = scaled_linear(encoder_channels, vocab_size, 0.25)
        self.simple_lm = scaled_linear(config.predictor_dim, vocab_size, 0.25)

    def predict(self, labels_NS: Tensor) -> Tensor:
        """Predictor outputs (N, S + 1, predictor_dim) after each prefix of the labels, the empty prefix first."""
        ids = functional.pad(labels_NS.clamp(min=0), (1, 0), value=self.blank)
        # The original pads the embeddings with zeros here; id -1 embeds to zeros.
        return self.predictor(functional.pad(ids, (self.config.context_size - 1, 0), value=-1))

    def loss(self, encoded: Encoded, labels_NS: Tensor, label_lens: Tensor) -> dict[str, Tensor]:
        """The simple and the pruned transducer loss, each summed over the batch, in nats.

        Utterances without any frame, or with more labels than their frames can emit, contribute 0; the data checks have
        already reported them.

        Args:
            encoded: frames and lengths at 25 Hz.
            labels_NS: (N, S) ids without blank; padding must be a valid id or -1 and is not scored.
            label_lens: (N,) valid labels.
        """
        config = self.config
        label_lens = moved(label_lens, labels_NS.device)
        require_vocabulary("labels", labels_NS, label_lens, self.predictor.embedding.num_embeddings, blank=self.blank)
        labels_NS = labels_NS.masked_fill(padding_mask(label_lens, labels_NS), self.blank)
        frame_lens = encoded.lens.masked_fill(encoded.lens == 0, 1)  # the losses need a frame; these are left out below
        targets = labels_NS, frame_lens, label_lens
        contexts_NUP = self.predict(moved(labels_NS, encoded.frames.device))
        am_NTV, lm_NUV = self.simple_am(encoded.frames), self.simple_lm(contexts_NUP)
        with torch.autocast(device_type=am_NTV.device.type, enabled=False):
            simple = simple_transducer_loss(
                widened(am_NTV),
                widened(lm_NUV),
                *targets,
                blank=self.blank,
                lm_scale=config.lm_scale,
                am_scale=config.am_scale,
                kind=config.lattice,
            )
            occupations = simple.symbol_occupation_NTS, simple.blank_occupation_NTU
            band = prune_ranges(*occupations, frame_lens, label_lens, config.prune_range, config.lattice)
        logits_NTRV = self._joiner_in_band(encoded.frames, contexts_NUP, band.positions_NTR)
        with torch.autocast(device_type=am_NTV.device.type, enabled=False):
            pruned_N = pruned_transducer_loss(
                widened(logits_NTRV), band.first_label_NT, *targets, blank=self.blank, kind=config.lattice
            )
        lens = moved(encoded.lens, label_lens.device).long()
        is_possible_N = (label_lens <= self._most_labels_per_frame * lens) & (lens > 0)
        return {
            name: loss_N.masked_fill(~moved(is_possible_N, loss_N.device), 0.0).sum()
            for name, loss_N in (("simple", simple.loss_N), ("pruned", pruned_N))
        }

    @property
    def _most_labels_per_frame(self) -> int:
        """Labels that a frame can emit in the band: its rows above the first, or one if the lattice says so."""
        return self.config.prune_range - 1 if self.config.lattice == "regular" else 1

    def _joiner_in_band(self, frames: Tensor, contexts_NUP: Tensor, positions_NTR: Tensor) -> Tensor:
        """Logits (N, T, R, V) at the label positions of the band."""
        projected_NTJ = self.joiner.encoder_proj(frames)
        projected_NUJ = self.joiner.predictor_proj(contexts_NUP)
        size, num_positions, width = projected_NUJ.shape
        rows_NTR = positions_NTR + num_positions * torch.arange(size, device=frames.device).view(-1, 1, 1)
        # index_select, because the backward pass of advanced indexing is an order of magnitude slower on a CPU
        band_NTRJ = projected_NUJ.reshape(-1, width).index_select(0, rows_NTR.flatten()).view(*rows_NTR.shape, width)
        return self.joiner(projected_NTJ.unsqueeze(2), band_NTRJ)
