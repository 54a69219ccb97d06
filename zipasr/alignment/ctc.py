"""Forced alignment: where each label of a known text is in a recording. Log-probabilities (T, V) at 25 Hz -> `Alignment`.

The best path of the CTC topology: a label lasts one frame or more, blank may stand before, between and after labels, and
two equal labels have a blank between them.
Source: Graves et al. 2006, "Connectionist temporal classification", section 4, with maxima for sums (Viterbi).
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch

from zipasr.nn.encoded import Encoded
from zipasr.search.scorer import Scorer, check_encoded

_BLOCK_FRAMES_25HZ = 2048
"""Frames whose back pointers are kept at once, two bytes per frame and reachable label: 8 MB at most. Of the frames before a
block only the scores at its first frame are kept, so an hour of speech takes tens of megabytes."""


_GATHERED_FRAMES_25HZ = 64
"""Frames whose scores of all labels are gathered at once."""


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

    blank_NU: np.ndarray
    label_NU: np.ndarray


class _BackPointers(NamedTuple):
    """The predecessor of each state of a block of frames."""

    is_after_label_TNU: np.ndarray
    """Whether the better state before the frame ends in the label."""
    is_new_TNS: np.ndarray
    """Whether the label starts in the frame rather than continues."""


class _Labels(NamedTuple):
    """The labels of utterances, padded, and whether each equals the one before."""

    ids_NS: np.ndarray
    is_repeat_NS: np.ndarray


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
    needed = len(labels_S) + int(is_repeat_S.sum())
    if len(log_probs_TV) < needed:
        raise ValueError(f"{len(labels_S)} labels need {needed} frames at 25 Hz or more, but there are {len(log_probs_TV)}")
    blank_T = log_probs_TV[:, blank_id].astype(np.float64)
    if not len(labels_S):
        return Alignment(score=float(blank_T.sum()))
    block_starts = range(0, len(log_probs_TV), _BLOCK_FRAMES_25HZ)
    labels = _Labels(labels_S[None], is_repeat_S[None])
    scores = _initial_scores(1, len(labels_S))
    saved_scores = [scores]
    for start in block_starts[:-1]:
        frames_NTV = log_probs_TV[None, start : start + _BLOCK_FRAMES_25HZ]
        scores, _ = _advance(scores, frames_NTV, [frames_NTV.shape[1]], labels, blank_id, keeps_pointers=False)
        saved_scores.append(scores)

    emitted_T = np.empty(len(log_probs_TV), np.int64)  # labels emitted up to a frame, its own included
    is_label_T = np.empty(len(log_probs_TV), bool)
    position, is_label, score = len(labels_S), False, -np.inf
    for start, before in zip(reversed(block_starts), reversed(saved_scores), strict=True):
        block = slice(start, start + _BLOCK_FRAMES_25HZ)
        num_frames = len(log_probs_TV[block])
        low = max(0, position - num_frames)  # a block reaches no further back
        window = _Scores(before.blank_NU[:, low : position + 1], before.label_NU[:, low : position + 1])
        reached = _Labels(labels.ids_NS[:, low:position], labels.is_repeat_NS[:, low:position])
        after, pointers = _advance(window, log_probs_TV[None, block], [num_frames], reached, blank_id)
        if block.stop >= len(log_probs_TV):
            is_label, score = _end(after, 0, position - low)
            if not np.isfinite(score):
                raise ValueError(f"log_probs must have a path for the {len(labels_S)} labels, but all paths score {score}")
        emitted_T[block], is_label_T[block], position, is_label = _trace(
            pointers.is_after_label_TNU[:, 0], pointers.is_new_TNS[:, 0], is_repeat_S[low:position], position - low, is_label
        )
        emitted_T[block] += low
        position += low
    return _to_alignment(log_probs_TV, labels_S, emitted_T, is_label_T, score)


def ctc_align_batch(
    log_probs_NTV: np.ndarray, lens: Sequence[int], ids: Sequence[Sequence[int]], *, blank_id: int
) -> list[Alignment | None]:
    """The alignment of every utterance of a batch, as by `ctc_align`; None where there is no path.

    Short ones take far less time together, since their frames are advanced at once.

    Args:
        log_probs_NTV: log-probabilities of every frame at 25 Hz.
        lens: frames of each utterance.
        ids: the labels of each, without blank.
        blank_id: id of the blank.
    Raises:
        ValueError: not (T, V), or an id is blank or not in [0, V).
    """
    checked = [_checked_labels(log_probs_TV, own, blank_id) for log_probs_TV, own in zip(log_probs_NTV, ids, strict=True)]
    found: list[Alignment | None] = [None] * len(lens)
    batch = []
    for n, (labels_S, is_repeat_S) in enumerate(checked):
        is_possible = lens[n] >= len(labels_S) + int(is_repeat_S.sum())
        if is_possible and 0 < len(labels_S) and lens[n] <= _BLOCK_FRAMES_25HZ:
            batch.append(n)
        elif is_possible:
            with suppress(ValueError):  # no path has a finite score
                found[n] = ctc_align(log_probs_NTV[n, : lens[n]], ids[n], blank_id=blank_id)
    batch.sort(key=lambda n: -lens[n])
    if not batch:
        return found
    labels = _padded([checked[n] for n in batch], blank_id)
    sorted_lens = [lens[n] for n in batch]
    log_probs = log_probs_NTV[batch, : sorted_lens[0]]
    after, pointers = _advance(_initial_scores(*labels.ids_NS.shape), log_probs, sorted_lens, labels, blank_id)
    for row, n in enumerate(batch):
        labels_S, is_repeat_S = checked[n]
        is_label, score = _end(after, row, len(labels_S))
        if not np.isfinite(score):
            continue
        is_after_label_TU, is_new_TS = pointers.is_after_label_TNU[: lens[n], row], pointers.is_new_TNS[: lens[n], row]
        emitted_T, is_label_T, _, _ = _trace(is_after_label_TU, is_new_TS, is_repeat_S, len(labels_S), is_label)
        found[n] = _to_alignment(log_probs[row, : lens[n]], labels_S, emitted_T, is_label_T, score)
    return found


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
    alignments = ctc_align_batch(log_probs_NTV, lens, ids, blank_id=scorer.blank_id)
    return [
        alignment or ctc_align(log_probs_NTV[n, : lens[n]], ids[n], blank_id=scorer.blank_id)  # which says what is wrong
        for n, alignment in enumerate(alignments)
    ]


def _checked_labels(log_probs_TV: np.ndarray, ids: Sequence[int], blank_id: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels, and whether each equals the one before.

    Raises:
        ValueError: not (T, V), or an id is blank or not in [0, V).
    """
    if log_probs_TV.ndim != 2:
        raise ValueError(f"log_probs must be (T, V), but are {log_probs_TV.shape}")
    vocab_size = log_probs_TV.shape[1]
    if not 0 <= blank_id < vocab_size:
        raise ValueError(f"blank_id must be in [0, {vocab_size}), but is {blank_id}")
    labels_S = np.asarray(ids, np.int64)
    wrong = [int(i) for i in labels_S if not 0 <= i < vocab_size or i == blank_id]
    if wrong:
        raise ValueError(f"ids must be in [0, {vocab_size}) and none the blank, {blank_id}, but one is {wrong[0]}")
    is_repeat_S = np.zeros(len(labels_S), bool)
    is_repeat_S[1:] = labels_S[1:] == labels_S[:-1]
    return labels_S, is_repeat_S


def _padded(checked: Sequence[tuple[np.ndarray, np.ndarray]], blank_id: int) -> _Labels:
    """The labels of several utterances; a path never comes back from labels beyond the end."""
    shape = len(checked), max(len(labels_S) for labels_S, _ in checked)
    labels = _Labels(np.full(shape, blank_id), np.zeros(shape, bool))
    for row, (labels_S, is_repeat_S) in enumerate(checked):
        labels.ids_NS[row, : len(labels_S)] = labels_S
        labels.is_repeat_NS[row, : len(labels_S)] = is_repeat_S
    return labels


def _initial_scores(num_utterances: int, num_labels: int) -> _Scores:
    """Scores before the first frame: no label has been emitted."""
    scores = _Scores(*(np.full((num_utterances, num_labels + 1), -np.inf) for _ in range(2)))
    scores.blank_NU[:, 0] = 0.0
    return scores


def _end(scores: _Scores, row: int, num_labels: int) -> tuple[bool, float]:
    """Whether the best path that has emitted all labels ends in the last one, and its score."""
    blank, label = float(scores.blank_NU[row, num_labels]), float(scores.label_NU[row, num_labels])
    return label > blank, max(label, blank)


def _advance(
    scores: _Scores,
    log_probs_NTV: np.ndarray,
    lens: Sequence[int],
    labels: _Labels,
    blank_id: int,
    *,
    keeps_pointers: bool = True,
) -> tuple[_Scores, _BackPointers]:
    """Advance the scores of utterances, longest first, by a block of frames, each up to its length.

    Back pointers are those of the last frame only unless `keeps_pointers`.
    """
    num_utterances, num_frames = log_probs_NTV.shape[:2]
    num_labels, num_kept = labels.ids_NS.shape[1], num_frames if keeps_pointers else 1
    pointers = _BackPointers(
        np.empty((num_kept, num_utterances, num_labels + 1), bool), np.empty((num_kept, num_utterances, num_labels), bool)
    )
    after = _Scores(scores.blank_NU.copy(), scores.label_NU.copy())
    start = 0
    for num_active in range(num_utterances, 0, -1):
        stop = lens[num_active - 1]
        for first in range(start, stop, _GATHERED_FRAMES_25HZ):
            block = slice(first, min(first + _GATHERED_FRAMES_25HZ, stop))
            kept = block if keeps_pointers else slice(0, 1)
            _advance_block(
                _Scores(after.blank_NU[:num_active], after.label_NU[:num_active]),
                log_probs_NTV[:num_active, block],
                _Labels(labels.ids_NS[:num_active], labels.is_repeat_NS[:num_active]),
                blank_id,
                _BackPointers(pointers.is_after_label_TNU[kept, :num_active], pointers.is_new_TNS[kept, :num_active]),
            )
        start = stop
    return after, pointers


def _advance_block(
    scores: _Scores, log_probs_NTV: np.ndarray, labels: _Labels, blank_id: int, pointers: _BackPointers
) -> None:
    """Advance scores, in place, by all frames of a block; pointers for a single frame are those of the last."""
    blank_NU, label_NU = scores
    best_NU, enter_NS = np.empty_like(blank_NU), np.empty(labels.ids_NS.shape)
    stay_NS = label_NU[:, 1:]
    blank_TN1 = log_probs_NTV[:, :, blank_id].astype(np.float64).T[:, :, None]
    rows, frames = np.arange(len(log_probs_NTV))[:, None, None], np.arange(log_probs_NTV.shape[1])[:, None]
    label_TNS = np.moveaxis(log_probs_NTV[rows, frames, labels.ids_NS[:, None]], 1, 0)
    repeats = np.nonzero(labels.is_repeat_NS)
    for t, (blank_N1, label_NS) in enumerate(zip(blank_TN1, label_TNS, strict=True)):
        kept = min(t, len(pointers.is_new_TNS) - 1)
        np.greater(label_NU, blank_NU, out=pointers.is_after_label_TNU[kept])
        np.maximum(label_NU, blank_NU, out=best_NU)
        enter_NS[:] = best_NU[:, :-1]
        if len(repeats[0]):
            enter_NS[repeats] = blank_NU[repeats]
        np.greater(enter_NS, stay_NS, out=pointers.is_new_TNS[kept])
        np.maximum(enter_NS, stay_NS, out=stay_NS)
        stay_NS += label_NS
        label_NU[:, 0] = -np.inf
        np.add(best_NU, blank_N1, out=blank_NU)


def _trace(
    is_after_label_TU: np.ndarray, is_new_TS: np.ndarray, is_repeat_S: np.ndarray, position: int, is_label: bool
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Trace back through a block from the state after it; return the state of every frame and the one before the block."""
    num_frames = len(is_new_TS)
    emitted_T, is_label_T = np.empty(num_frames, np.int64), np.empty(num_frames, bool)
    for t in range(num_frames - 1, -1, -1):
        emitted_T[t], is_label_T[t] = position, is_label
        if not is_label:
            is_label = bool(is_after_label_TU[t, position])
        elif is_new_TS[t, position - 1]:
            position -= 1
            is_label = not is_repeat_S[position] and bool(is_after_label_TU[t, position])
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
