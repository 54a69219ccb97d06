"""When a transducer emits the labels of a known text: frames (N, T, D) at 25 Hz and labels -> a frame for each label.

A head trained with the `regular` lattice may learn to emit labels in bursts, many in one frame, and a search that allows
one label a frame then deletes words. The best path through the lattice of the true text shows this without any search. The
lattice must be the one that the head was trained with, since others use scores that it never learned.
Source: Graves 2012, arXiv:1211.3711, the lattice of section 2.4, with maxima for sums (Viterbi).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zipasr.alignment.ctc import ctc_align
from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.losses.lattice import KINDS, LatticeKind
from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import first_context
from zipasr.search.scorer import Scorer, check_encoded

_SLICE_ELEMENTS = 1 << 21
"""Logits (frames, U, V) computed at once, 16 MiB in float64; at least those of one frame."""


class EmissionStats(NamedTuple):
    """Counts over the labels of any number of utterances, and the shares and means they give. `plus` adds them up."""

    num_labels: int = 0
    """Labels of the utterances that have a path."""
    num_burst_labels: int = 0
    """Labels that are not the first label of their frame."""
    num_emitting_frames: int = 0
    """Frames that emit at least one label."""
    num_burst_frames: int = 0
    """Frames that emit more than one."""
    num_compared_labels: int = 0
    """Labels of the utterances that CTC could align as well; 0 without a CTC head."""
    delay_frames: int = 0
    """Sum over these of the frame that emits the label less the first frame of the label in the CTC alignment."""
    num_unaligned: int = 0
    """Utterances with labels but without a path: too few frames, or scores that are not finite."""

    @property
    def burst_share(self) -> float | None:
        """Share of labels that are not the first of their frame; a search of one label a frame cannot follow them.

        None without labels.
        """
        return self.num_burst_labels / self.num_labels if self.num_labels else None

    @property
    def burst_frame_share(self) -> float | None:
        """Share of emitting frames that hold more than one label; None without labels."""
        return self.num_burst_frames / self.num_emitting_frames if self.num_emitting_frames else None

    @property
    def delay_s(self) -> float | None:
        """Mean time in seconds from the first frame of a label in the CTC alignment to the frame where the transducer
        emits it; negative if the transducer is earlier. None without a CTC head or without labels."""
        return FRAME_S_25HZ * self.delay_frames / self.num_compared_labels if self.num_compared_labels else None

    def plus(self, other: "EmissionStats") -> "EmissionStats":
        """Sum of two counts."""
        return EmissionStats(*(a + b for a, b in zip(self, other, strict=True)))


@torch.inference_mode()
def align_transducer(
    scorer: Scorer, encoded: Encoded, labels: Sequence[Sequence[int]], *, lattice: LatticeKind = "regular"
) -> list[tuple[int, ...] | None]:
    """The frame that emits each label on the best path of the lattice.

    Utterances are aligned one at a time and the joiner runs on slices of frames, so that memory grows with the utterance by
    one byte per frame and label position.

    Args:
        scorer: has a transducer head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        labels: of each of the N utterances, without blank.
        lattice: the kind that the head was trained with; see `LatticeKind`.
    Returns:
        For each utterance a frame for each label, non-decreasing; None if there is no path: too few frames for the labels,
        or scores that are not finite.
    Raises:
        ValueError: not N label sequences, a label is blank or not in [0, V), lengths do not fit the frames, there is no
            such lattice, or no transducer head.
    """
    if lattice not in KINDS:
        raise ValueError(f"lattice must be one of {', '.join(KINDS)}, but is {lattice!r}")
    lens = check_encoded(encoded)
    if len(labels) != len(lens):
        raise ValueError(f"there must be labels for each of {len(lens)} utterances, but there are {len(labels)}")
    return [
        _best_frames(scorer, encoded.frames[n, :length], [int(label) for label in labels[n]], lattice)
        for n, length in enumerate(lens)
    ]


@torch.inference_mode()
def measure_emission(
    scorer: Scorer, encoded: Encoded, labels: Sequence[Sequence[int]], *, lattice: LatticeKind = "regular"
) -> EmissionStats:
    """Counts of label bursts, and of the delay of emission against CTC if there is a CTC head.

    Args and errors are those of `align_transducer`. An utterance with more labels than CTC has frames for counts for the
    bursts but not for the delay.
    """
    paths = align_transducer(scorer, encoded, labels, lattice=lattice)
    log_probs_NTV = scorer.ctc_log_probs(encoded.frames).float().cpu().numpy() if scorer.has_ctc and paths else None
    stats = EmissionStats()
    for n, frames in enumerate(paths):
        if frames is None:
            stats = stats.plus(EmissionStats(num_unaligned=1))
            continue
        stats = stats.plus(_count_bursts(frames))
        if log_probs_NTV is None:
            continue
        try:
            alignment = ctc_align(log_probs_NTV[n, : int(encoded.lens[n])], labels[n], blank_id=scorer.blank_id)
        except ValueError:  # more labels than frames, or scores that are not finite
            continue
        delay_frames = sum(frames) - sum(alignment.first_frames)
        stats = stats.plus(EmissionStats(num_compared_labels=len(frames), delay_frames=delay_frames))
    return stats


def _count_bursts(frames: Sequence[int]) -> EmissionStats:
    """The counts of one utterance, all but the delay."""
    _, labels_per_frame = np.unique(np.asarray(frames, np.int64), return_counts=True)
    return EmissionStats(
        num_labels=len(frames),
        num_burst_labels=len(frames) - len(labels_per_frame),
        num_emitting_frames=len(labels_per_frame),
        num_burst_frames=int((labels_per_frame > 1).sum()),
    )


def _best_frames(scorer: Scorer, frames_TD: Tensor, labels: list[int], lattice: LatticeKind) -> tuple[int, ...] | None:
    """`align_transducer` of one utterance."""
    wrong = [label for label in labels if label < 0 or label == scorer.blank_id]
    if wrong:
        raise ValueError(f"labels must be 0 or more and none the blank, {scorer.blank_id}, but one is {wrong[0]}")
    if not labels or not len(frames_TD):
        return None if labels else ()
    projected_TJ = scorer.project_frames(frames_TD.unsqueeze(0))[0]
    contexts_UC = torch.tensor([*first_context(scorer), *labels], device=frames_TD.device).unfold(0, scorer.context_size, 1)
    vocab_size = scorer.join(projected_TJ[:1], scorer.predict(contexts_UC[:1])).shape[-1]
    if max(labels) >= vocab_size:
        raise ValueError(f"labels must be below the vocabulary size, {vocab_size}, but one is {max(labels)}")
    contexts_UJ = scorer.predict(contexts_UC)
    best_U = torch.full((len(labels) + 1,), -torch.inf, dtype=torch.float64)
    best_U[0] = 0.0
    is_entered = []
    advance = _advance if lattice == "regular" else _advance_by_one
    for slice_TJ in projected_TJ.split(max(1, _SLICE_ELEMENTS // (len(contexts_UJ) * vocab_size))):
        logits_TUV = scorer.join(slice_TJ.unsqueeze(1), contexts_UJ)
        symbol_TS, blank_TU = _arc_scores(logits_TUV, labels, scorer.blank_id)
        if lattice == "constrained":
            symbol_TS = symbol_TS + blank_TU[:, 1:]
        best_U, is_entered_TU = advance(best_U, symbol_TS, blank_TU)
        is_entered.append(is_entered_TU)
    if not torch.isfinite(best_U[-1]):
        return None
    return _trace(torch.cat(is_entered).numpy(), len(labels), most_per_frame=len(labels) if lattice == "regular" else 1)


def _arc_scores(logits_TUV: Tensor, labels: list[int], blank_id: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the label arcs (T, S) and of the blank arcs (T, U), float64, on the CPU."""
    # MPS has no float64.
    logits_TUV = (logits_TUV.cpu() if logits_TUV.device.type == "mps" else logits_TUV).double()
    norm_TU = logits_TUV.logsumexp(-1)
    index_TS1 = torch.tensor(labels, device=logits_TUV.device).view(1, -1, 1).expand(len(logits_TUV), -1, 1)
    symbol_TS = logits_TUV[:, :-1].gather(-1, index_TS1).squeeze(-1) - norm_TU[:, :-1]
    return symbol_TS.cpu(), (logits_TUV[..., blank_id] - norm_TU).cpu()


def _advance(best_U: Tensor, symbol_TS: Tensor, blank_TU: Tensor) -> tuple[Tensor, Tensor]:
    """Advance the best scores by a slice of frames.

    Within a frame a path that enters at position j and emits up to u scores best[j] + sum of symbol[j..u-1], a difference
    of running sums, so that the best j of every u is a running maximum.

    Args:
        best_U: score of the best path that enters the first frame after u labels.
        symbol_TS, blank_TU: log-probabilities of the arcs.
    Returns:
        The same for the frame after the slice, and for each state (T, U) whether its best path enters the frame there
        rather than by a label of this frame.
    """
    sums_TU = torch.nn.functional.pad(symbol_TS.cumsum(1), (1, 0))
    position_U = torch.arange(len(best_U))
    is_entered_TU = torch.empty(blank_TU.shape, dtype=torch.bool)
    for sums_U, blank_U, is_entered_U in zip(sums_TU, blank_TU, is_entered_TU, strict=True):
        best_since_U, entry_U = (best_U - sums_U).cummax(0)
        torch.eq(entry_U, position_U, out=is_entered_U)
        best_U = best_since_U + sums_U + blank_U
    return best_U, is_entered_TU


def _advance_by_one(best_U: Tensor, symbol_TS: Tensor, blank_TU: Tensor) -> tuple[Tensor, Tensor]:
    """`_advance` for lattices whose labels end a frame, so that a path leaves a frame by a label or by a blank."""
    is_entered_TU = torch.ones(blank_TU.shape, dtype=torch.bool)
    for symbol_S, blank_U, is_entered_U in zip(symbol_TS, blank_TU, is_entered_TU, strict=True):
        by_blank_U, by_label_S = best_U + blank_U, best_U[:-1] + symbol_S
        torch.ge(by_blank_U[1:], by_label_S, out=is_entered_U[1:])
        best_U = torch.cat([by_blank_U[:1], torch.maximum(by_blank_U[1:], by_label_S)])
    return best_U, is_entered_TU


def _trace(is_entered_TU: np.ndarray, num_labels: int, *, most_per_frame: int) -> tuple[int, ...]:
    """The frame of each label, traced back from the end of the last frame, after all labels."""
    frames, position = [0] * num_labels, num_labels
    for t in range(len(is_entered_TU) - 1, -1, -1):
        for _ in range(most_per_frame):
            if is_entered_TU[t, position]:
                break
            position -= 1
            frames[position] = t
    return tuple(frames)
