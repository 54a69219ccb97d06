"""Forced alignment: where each label of a known text is in a recording. Log-probabilities (T, V) at 25 Hz -> `Alignment`.

The best path of the CTC topology: a label lasts one frame or more, blank may stand before, between and after labels, and
two equal labels have a blank between them.
Source: Graves et al. 2006, "Connectionist temporal classification", section 4, with maxima for sums (Viterbi).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from zipasr.nn.encoded import Encoded
from zipasr.search.scorer import Scorer, check_encoded

_BLOCK_FRAMES_25HZ = 2048
"""Frames whose back pointers are kept at once, two bytes per frame and reachable label: 8 MB at most. Of the frames before a
block only the scores at its first frame are kept, so an hour of speech takes tens of megabytes."""


class Alignment(NamedTuple):
    """Positions of the labels of an utterance on the best path."""

    first_frames: tuple[int, ...] = ()
    """First frame at 25 Hz of each label."""
    end_frames: tuple[int, ...] = ()
    """The frame after the last frame of each label."""
    log_probs: tuple[float, ...] = ()
    """Mean log-probability of each label over its frames, in nats."""
    score: float = 0.0
    """Log-probability of the path, blanks included, in nats."""


class _Scores(NamedTuple):
    """Scores of the best paths that have emitted 0, 1, ..., S labels, ending in blank or in the last label."""

    blank_U: np.ndarray
    label_U: np.ndarray


class _BackPointers(NamedTuple):
    """The predecessor of each state of a block of frames."""

    is_after_label_TU: np.ndarray
    """Whether the better state before the frame ends in the label."""
    is_new_TS: np.ndarray
    """Whether the label starts in the frame rather than continues."""


def ctc_align(log_probs_TV: np.ndarray, ids: Sequence[int], *, blank_id: int) -> Alignment:
    """The best path through the frames that spells the labels.

    Args:
        log_probs_TV: log-probabilities of every frame at 25 Hz, or other scores that add up; the higher, the better.
        ids: the labels, without blank.
        blank_id: id of the blank.
    Returns:
        The alignment; without labels, only the score of blank in all frames.
    Raises:
        ValueError: not (T, V), an id is blank or not in [0, V), there are fewer frames than the labels and the blanks
            between equal neighbors need, or no path has a finite score.
    """
    labels_S, is_repeat_S = _checked_labels(log_probs_TV, ids, blank_id)
    blank_T = log_probs_TV[:, blank_id].astype(np.float64)
    if not len(labels_S):
        return Alignment(score=float(blank_T.sum()))
    block_starts = range(0, len(log_probs_TV), _BLOCK_FRAMES_25HZ)
    scores = _Scores(np.full(len(labels_S) + 1, -np.inf), np.full(len(labels_S) + 1, -np.inf))
    scores.blank_U[0] = 0.0
    saved_scores = [scores]
    for start in block_starts[:-1]:
        frames_TV = log_probs_TV[start : start + _BLOCK_FRAMES_25HZ]
        scores, _ = _advance(scores, frames_TV, labels_S, is_repeat_S, blank_id, keeps_pointers=False)
        saved_scores.append(scores)

    emitted_T = np.empty(len(log_probs_TV), np.int64)  # labels emitted up to a frame, its own included
    is_label_T = np.empty(len(log_probs_TV), bool)
    position, is_label, score = len(labels_S), False, -np.inf
    for start, before in zip(reversed(block_starts), reversed(saved_scores), strict=True):
        block = slice(start, start + _BLOCK_FRAMES_25HZ)
        low = max(0, position - len(log_probs_TV[block]))  # a block reaches no further back
        window = _Scores(before.blank_U[low : position + 1], before.label_U[low : position + 1])
        after, pointers = _advance(window, log_probs_TV[block], labels_S[low:position], is_repeat_S[low:position], blank_id)
        if block.stop >= len(log_probs_TV):
            is_label = bool(after.label_U[-1] > after.blank_U[-1])
            score = float(max(after.label_U[-1], after.blank_U[-1]))
            if not np.isfinite(score):
                raise ValueError(f"log_probs must have a path for the {len(labels_S)} labels, but all paths score {score}")
        emitted_T[block], is_label_T[block], position, is_label = _trace(
            pointers, is_repeat_S[low:position], position - low, is_label
        )
        emitted_T[block] += low
        position += low
    return _to_alignment(log_probs_TV, labels_S, emitted_T, is_label_T, score)


@torch.inference_mode()
def align_batch(scorer: Scorer, encoded: Encoded, ids: Sequence[Sequence[int]]) -> list[Alignment]:
    """Align the labels of every utterance of a batch with its frames, through the CTC head.

    Args:
        scorer: has a CTC head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        ids: the labels of each of the N utterances, without blank.
    Raises:
        ValueError: not N label sequences, lengths do not fit the frames, there is no CTC head, or as `ctc_align`.
    """
    lens = check_encoded(encoded)
    if len(ids) != len(lens):
        raise ValueError(f"there must be labels for each of {len(lens)} utterances, but there are {len(ids)}")
    if not lens:
        return []
    log_probs_NTV = scorer.ctc_log_probs(encoded.frames).float().cpu().numpy()
    return [
        ctc_align(log_probs_TV[:length], labels, blank_id=scorer.blank_id)
        for log_probs_TV, length, labels in zip(log_probs_NTV, lens, ids, strict=True)
    ]


def _checked_labels(log_probs_TV: np.ndarray, ids: Sequence[int], blank_id: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels, and whether each equals the one before."""
    if log_probs_TV.ndim != 2:
        raise ValueError(f"log_probs must be (T, V), but are {log_probs_TV.shape}")
    num_frames, vocab_size = log_probs_TV.shape
    if not 0 <= blank_id < vocab_size:
        raise ValueError(f"blank_id must be in [0, {vocab_size}), but is {blank_id}")
    labels_S = np.asarray(ids, np.int64)
    wrong = [int(i) for i in labels_S if not 0 <= i < vocab_size or i == blank_id]
    if wrong:
        raise ValueError(f"ids must be in [0, {vocab_size}) and none the blank, {blank_id}, but one is {wrong[0]}")
    is_repeat_S = np.zeros(len(labels_S), bool)
    is_repeat_S[1:] = labels_S[1:] == labels_S[:-1]
    needed = len(labels_S) + int(is_repeat_S.sum())
    if num_frames < needed:
        raise ValueError(f"{len(labels_S)} labels need {needed} frames at 25 Hz or more, but there are {num_frames}")
    return labels_S, is_repeat_S


def _advance(
    scores: _Scores,
    log_probs_TV: np.ndarray,
    labels_S: np.ndarray,
    is_repeat_S: np.ndarray,
    blank_id: int,
    *,
    keeps_pointers: bool = True,
) -> tuple[_Scores, _BackPointers]:
    """Advance the scores by a block of frames; back pointers are those of the last frame only unless `keeps_pointers`."""
    num_labels, num_kept = len(labels_S), len(log_probs_TV) if keeps_pointers else 1
    pointers = _BackPointers(np.empty((num_kept, num_labels + 1), bool), np.empty((num_kept, num_labels), bool))
    blank_U, label_U = scores.blank_U.copy(), scores.label_U.copy()
    best_U, enter_S = np.empty_like(blank_U), np.empty(num_labels)
    blank_log_probs = log_probs_TV[:, blank_id].tolist()
    repeats = np.flatnonzero(is_repeat_S)
    for t, blank_log_prob in enumerate(blank_log_probs):
        row = t if keeps_pointers else 0
        np.greater(label_U, blank_U, out=pointers.is_after_label_TU[row])
        np.maximum(label_U, blank_U, out=best_U)
        enter_S[:] = best_U[:-1]
        enter_S[repeats] = blank_U[repeats]
        stay_S = label_U[1:]
        np.greater(enter_S, stay_S, out=pointers.is_new_TS[row])
        np.maximum(enter_S, stay_S, out=stay_S)
        stay_S += log_probs_TV[t, labels_S]
        label_U[0] = -np.inf
        np.add(best_U, blank_log_prob, out=blank_U)
    return _Scores(blank_U, label_U), pointers


def _trace(
    pointers: _BackPointers, is_repeat_S: np.ndarray, position: int, is_label: bool
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Trace back through a block from the state after it; return the state of every frame and the one before the block."""
    num_frames = len(pointers.is_new_TS)
    emitted_T, is_label_T = np.empty(num_frames, np.int64), np.empty(num_frames, bool)
    for t in range(num_frames - 1, -1, -1):
        emitted_T[t], is_label_T[t] = position, is_label
        if not is_label:
            is_label = bool(pointers.is_after_label_TU[t, position])
        elif pointers.is_new_TS[t, position - 1]:
            position -= 1
            is_label = not is_repeat_S[position] and bool(pointers.is_after_label_TU[t, position])
    return emitted_T, is_label_T, position, is_label


def _to_alignment(
    log_probs_TV: np.ndarray, labels_S: np.ndarray, emitted_T: np.ndarray, is_label_T: np.ndarray, score: float
) -> Alignment:
    frames = np.flatnonzero(is_label_T)
    labels = emitted_T[frames] - 1
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    first_S, end_S = frames[starts], frames[np.append(starts[1:], len(frames)) - 1] + 1
    sums_S = np.add.reduceat(log_probs_TV[frames, labels_S[labels]].astype(np.float64), starts)
    log_probs = tuple((sums_S / (end_S - first_S)).tolist())
    return Alignment(tuple(first_S.tolist()), tuple(end_S.tolist()), log_probs, score)
