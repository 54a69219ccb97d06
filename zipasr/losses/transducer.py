"""Transducer losses in plain PyTorch: the smoothed simple loss, the band that prunes the lattice, the loss in the band.

Training uses them in that order: `simple_transducer_loss` scores the whole lattice cheaply with an additive joiner;
`prune_ranges` keeps the R label positions per frame where most paths run; the real joiner is evaluated only there, and
`pruned_transducer_loss` sums the paths within the band. `full_transducer_loss` takes the joiner's whole output.
In: float32 scores, batch-first, frames at 25 Hz. Out: (N,) losses in nats. They run on every device of PyTorch. If labels
and lengths are on the CPU, their values are checked and the host never waits for an accelerator (see `arguments`).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from zipasr.losses.arc_scores import JointScores, RowScores, am_only_scores
from zipasr.losses.arguments import (
    Targets,
    checked_targets,
    is_readable,
    require_float32,
    require_integers,
    require_lens,
    require_shape,
    require_span,
)
from zipasr.losses.lattice import KINDS, LatticeKind, sum_paths
from zipasr.nn.placement import moved


class SimpleLoss(NamedTuple):
    """Result of `simple_transducer_loss`."""

    loss_N: Tensor
    """(N,) loss in nats; +inf if there is no path."""
    symbol_occupation_NTS: Tensor
    """Probability that a path emits label s at frame t; each utterance sums to S_b. No gradient."""
    blank_occupation_NTU: Tensor
    """Probability that a path takes the blank at frame t after s labels; sums to T_b (`regular`) or T_b - S_b (others)."""


class Band(NamedTuple):
    """The label positions kept in each frame: `width` positions from `first_label_NT` on."""

    first_label_NT: Tensor
    """int64; starts at 0, never falls, and rises by less than `width` a frame (by one at most if not `regular`)."""
    width: int
    """Width R of the band, which may differ from the requested `prune_range`."""

    @property
    def positions_NTR(self) -> Tensor:
        """Every label position in the band, int64: the rows of the predictor's output to gather."""
        return self.first_label_NT[:, :, None] + torch.arange(self.width, device=self.first_label_NT.device)


# Differs: ten parameters, because the formula has ten; a config object would hide that they are its symbols.
def simple_transducer_loss(
    am_NTV: Tensor,
    lm_NUV: Tensor,
    labels_NS: Tensor,
    frame_lens: Tensor,
    label_lens: Tensor,
    *,
    blank: int,
    lm_scale: float = 0.25,
    am_scale: float = 0.0,
    kind: LatticeKind = "regular",
    delay_penalty: float = 0.0,
) -> SimpleLoss:
    """Negative log-likelihood under the additive joiner am + lm, smoothed, and the occupation of every arc.

    With c = 1 - lm_scale - am_scale, each arc of token v at (t, s) scores
    c log softmax_v(am_t + lm_s) + lm_scale log softmax_v(lm_s) + am_scale log softmax_v(am_t + log unigram),
    where the unigram is the mean of softmax(lm) over the batch. The joint normalizer is a matrix product, so no
    (N, T, U, V) tensor is needed, and its gradient is two more products.

    Args:
        am_NTV: scores of the encoder's projection, float32 (half precision raises; heads cast); padding finite.
        lm_NUV: scores of the predictor's projection, U = S + 1; padding finite.
        labels_NS: target ids without blank, padding ignored.
        frame_lens: (N,) valid frames at 25 Hz.     label_lens: (N,) valid labels.
        blank: id of the blank.
        lm_scale: weight of the lm-only normalization.
        am_scale: weight of the am-only normalization. Unless 0, the loss of an utterance depends on its batch (unigram).
        kind: which arcs the lattice has; see `LatticeKind`.
        delay_penalty: adds delay_penalty * ((T_b - 1) / 2 - t) to symbol arcs, which favors early symbols.
    Returns:
        SimpleLoss; only `loss_N` carries a gradient.
    Raises:
        ValueError: shapes disagree, a length exceeds its axis, a label or `blank` is not in [0, V), half precision.
    Source: Kuang et al. 2022, arXiv:2206.13236 (trivial joiner and its smoothing); Kang et al. 2023, arXiv:2211.00490
        (delay penalty).
    """
    require_float32("am", am_NTV, 3)
    size, _, vocab_size = am_NTV.shape
    require_shape("lm", lm_NUV, (size, labels_NS.shape[-1] + 1, vocab_size), "(N, S+1, V)")
    if lm_NUV.dtype != am_NTV.dtype:
        raise ValueError(f"lm must have the type of am, {am_NTV.dtype}, but is {lm_NUV.dtype}; cast one of them")
    labels, frame_lens, label_lens = checked_targets(labels_NS, frame_lens, label_lens, scores=am_NTV, blank=blank)
    label_NU = pad(labels, (0, 1), value=blank)
    joint_scale = 1 - lm_scale - am_scale
    symbol_NTU, blank_NTU = JointScores.apply(am_NTV, lm_NUV, label_NU, blank, joint_scale, lm_scale)
    if am_scale != 0:
        symbol_am_NTU, blank_am_NT1 = am_only_scores(am_NTV, lm_NUV, label_NU, blank)
        symbol_NTU = symbol_NTU + am_scale * symbol_am_NTU
        blank_NTU = blank_NTU + am_scale * blank_am_NT1
    lattice = sum_paths(
        _symbol_arcs(symbol_NTU, blank_NTU, frame_lens, kind, delay_penalty),
        blank_NTU,
        frame_lens,
        label_lens,
        kind=kind,
        num_positions=label_NU.shape[1],
        need_occupation=True,
    )
    return SimpleLoss(-lattice.log_prob_N, lattice.symbol_occupation_NTR[:, :, :-1], lattice.blank_occupation_NTR)


def prune_ranges(
    symbol_occupation_NTS: Tensor,
    blank_occupation_NTU: Tensor,
    frame_lens: Tensor,
    label_lens: Tensor,
    prune_range: int,
    kind: LatticeKind = "regular",
) -> Band:
    """Choose the R label positions of every frame that keep most of the occupation, as one connected band.

    Args:
        symbol_occupation_NTS: of `simple_transducer_loss`.     blank_occupation_NTU: likewise.
        frame_lens: (N,) valid frames at 25 Hz.     label_lens: (N,) valid labels. If not on the CPU, the host waits for R.
        prune_range: requested R, at least 2. It is raised if the band would not reach the longest labels (`regular`: it
            can rise by R - 1 per frame) and lowered to S + 1.
        kind: kind of the lattice.
    Returns:
        Band from 0 in the first frame to S_b in the last valid one.
    Raises:
        ValueError: shapes disagree, a length exceeds its axis or `prune_range` < 2.
    Source: Kuang et al. 2022, arXiv:2206.13236 (pruning bounds and their adjustment).
    """
    _require_kind(kind)
    size, num_frames, num_positions = blank_occupation_NTU.shape
    require_shape("symbol_occupation", symbol_occupation_NTS, (size, num_frames, num_positions - 1), "(N, T, S)")
    if prune_range < 2:
        raise ValueError(f"prune_range must be at least 2, or no path can rise, but is {prune_range}")
    require_lens(frame_lens, label_lens, num_frames, num_positions - 1)
    frame_lens, label_lens = frame_lens.long(), label_lens.long()
    width = prune_range
    if kind == "regular":
        steepest_N = (label_lens - 1).div(frame_lens.to(label_lens.device), rounding_mode="trunc") + 2
        width = max(width, int(steepest_N.max()))
    width = min(width, num_positions)
    device = blank_occupation_NTU.device
    frame_lens, label_lens = moved(frame_lens, device), moved(label_lens, device)

    num_starts = num_positions - width + 1
    kept_NTs = blank_occupation_NTU[:, :, :num_starts].clone()
    for row in range(1, width):
        kept_NTs += blank_occupation_NTU[:, :, row : row + num_starts]
    kept_NTs[:, :, 1:] -= symbol_occupation_NTS[:, :, : num_starts - 1]
    first_NT = kept_NTs.argmax(dim=2)
    frame_T = torch.arange(num_frames, device=device)
    last_N1 = (label_lens - width + 1).clamp(min=0)[:, None]
    first_NT = torch.where(frame_T >= frame_lens[:, None] - 1, last_N1, first_NT)

    # The band must not fall; nor rise by more than `steepest`, which means that x - steepest * t must not rise.
    steepest = width - 1 if kind == "regular" else 1
    first_NT = _reverse_running_minimum(first_NT)
    slack_NT = _reverse_running_minimum(steepest * frame_T - first_NT).clamp(min=0)
    return Band(steepest * frame_T - slack_NT, width)


def pruned_transducer_loss(
    logits_NTRV: Tensor,
    first_label_NT: Tensor,
    labels_NS: Tensor,
    frame_lens: Tensor,
    label_lens: Tensor,
    *,
    blank: int,
    kind: LatticeKind = "regular",
    delay_penalty: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of each utterance over a band of R label positions per frame.

    log p = logsumexp over monotonic paths of  sum(blank or label scores along the path).

    The softmax is computed in pieces and not saved: besides the logits only their gradient has their size.

    Args:
        logits_NTRV: joiner output, unnormalized, float32 (half precision raises; heads cast, with autocast off, before
            they call); R >= 2, or 1 if there are no labels.
        first_label_NT: label position of row 0 of the band, integer; never falls, rises by at most R-1 per frame.
        labels_NS: target ids without blank, integer, padding ignored.
        frame_lens: (N,) valid frames at 25 Hz.     label_lens: (N,) valid labels.
        blank: id of the blank.
        kind: which arcs the lattice has; see `LatticeKind`.
        delay_penalty: as in `simple_transducer_loss`.
    Returns:
        (N,) loss in nats; +inf where the band cannot reach the last label, with gradient 0. Reduce it yourself.
    Raises:
        ValueError: shapes disagree, a length exceeds its axis, the band falls, a label or `blank` is not in [0, V),
            half precision.
    Source: Graves 2012, arXiv:1211.3711, eq. 16-17, within the band of Kuang et al. 2022, arXiv:2206.13236. Checked
        against the full lattice in tests/losses/test_transducer.py::test_wide_band_equals_full_lattice.
    """
    require_float32("logits", logits_NTRV, 4)
    size, num_frames, width, _ = logits_NTRV.shape
    require_shape("first_label", first_label_NT, (size, num_frames), "(N, T)")
    if width < min(2, labels_NS.shape[-1] + 1):
        raise ValueError(f"the band must have R >= 2 label positions to rise, but the logits have R = {width}")
    targets = checked_targets(labels_NS, frame_lens, label_lens, scores=logits_NTRV, blank=blank)
    require_integers(first_label=first_label_NT)
    require_span("first_label", first_label_NT, 0, targets.labels_NS.shape[1], "labels")
    _require_no_fall(first_label_NT, frame_lens)
    first_label_NT = moved(first_label_NT, logits_NTRV.device).long()
    return _rows_loss(logits_NTRV, first_label_NT, targets, blank=blank, kind=kind, delay_penalty=delay_penalty)


def full_transducer_loss(
    logits_NTUV: Tensor,
    labels_NS: Tensor,
    frame_lens: Tensor,
    label_lens: Tensor,
    *,
    blank: int,
    kind: LatticeKind = "regular",
    delay_penalty: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of each utterance over the whole lattice, for small vocabularies and as a reference.

    Arguments and errors are those of `pruned_transducer_loss`, with all U = S + 1 label positions in every frame.

    Returns:
        (N,) loss in nats; +inf where there is no path (not `regular`, and more labels than frames).
    Source: Graves 2012, arXiv:1211.3711, eq. 16-18.
    """
    require_float32("logits", logits_NTUV, 4)
    size, num_frames, _, vocab_size = logits_NTUV.shape
    expected = (size, num_frames, labels_NS.shape[-1] + 1, vocab_size)
    require_shape("logits", logits_NTUV, expected, "(N, T, S+1, V)")
    targets = checked_targets(labels_NS, frame_lens, label_lens, scores=logits_NTUV, blank=blank)
    return _rows_loss(logits_NTUV, None, targets, blank=blank, kind=kind, delay_penalty=delay_penalty)


def _rows_loss(
    logits_NTRV: Tensor,
    first_label_NT: Tensor | None,
    targets: Targets,
    *,
    blank: int,
    kind: LatticeKind,
    delay_penalty: float,
) -> Tensor:
    """Loss (N,) of checked targets over a band, or over all label positions if `first_label_NT` is None."""
    num_frames, width = logits_NTRV.shape[1:3]
    label_NU = pad(targets.labels_NS, (0, 1), value=blank)
    num_positions = label_NU.shape[1]
    if first_label_NT is None:
        label_NTR = label_NU[:, None].repeat(1, num_frames, 1)
    else:
        positions_NTR = Band(first_label_NT, width).positions_NTR
        label_NTR = label_NU.gather(1, positions_NTR.clamp(max=num_positions - 1).flatten(1)).view_as(positions_NTR)
    symbol_NTR, blank_NTR = RowScores.apply(logits_NTRV, label_NTR, blank)
    lattice = sum_paths(
        _symbol_arcs(symbol_NTR, blank_NTR, targets.frame_lens, kind, delay_penalty),
        blank_NTR,
        targets.frame_lens,
        targets.label_lens,
        kind=kind,
        num_positions=num_positions,
        first_label_NT=first_label_NT,
    )
    return -lattice.log_prob_N


def _require_no_fall(first_label_NT: Tensor, frame_lens: Tensor) -> None:
    """Raise ValueError if the band of an utterance, if on the CPU, falls between two of its frames."""
    if not is_readable(first_label_NT, frame_lens):
        return
    is_fall_NT = (first_label_NT.diff(dim=1) < 0) & (torch.arange(1, first_label_NT.shape[1]) < frame_lens[:, None])
    if is_fall_NT.any():
        utterance, frame = is_fall_NT.nonzero()[0].tolist()
        raise ValueError(
            f"first_label must not fall from frame to frame, but does after frame {frame} of utterance {utterance}; "
            "a path through the lattice never goes back"
        )


def _require_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, but is {kind!r}")


def _reverse_running_minimum(x_NT: Tensor) -> Tensor:
    """Minimum over each element and all later ones."""
    return x_NT.flip(1).cummin(dim=1).values.flip(1)


def _symbol_arcs(
    symbol_NTR: Tensor, blank_NTR: Tensor, frame_lens: Tensor, kind: LatticeKind, delay_penalty: float
) -> Tensor:
    """Scores of the symbol arcs of a lattice of this `kind`, from the scores of the symbols."""
    _require_kind(kind)
    if kind == "constrained":
        symbol_NTR = symbol_NTR + pad(blank_NTR[:, :, 1:], (0, 1), value=-torch.inf)
    if delay_penalty != 0:
        frame_T = torch.arange(symbol_NTR.shape[1], device=symbol_NTR.device)
        twice_early_NT = (frame_lens[:, None] - 1 - 2 * frame_T).to(symbol_NTR.dtype)
        symbol_NTR = symbol_NTR + (delay_penalty / 2) * twice_early_NT[:, :, None]
    return symbol_NTR
