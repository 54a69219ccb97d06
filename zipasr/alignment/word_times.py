"""True times of tokens and words. Labels at 25 Hz and features (T, F) at 100 Hz -> a `TokenSpan` for each token.

A CTC head gives the position of a label but not the start and end of a word: its labels last a frame each, blank fills the
rest, the space of a character vocabulary comes 0.1 s early, and the last label often comes long before the end of the word.
A transducer may emit at any time. So the text is aligned with the CTC head, and from the first and last label of a word, its
edges are searched for in the energy of the features: the nearest pause if there is one, else the quietest place before the
labels of the neighbor. Nothing in it is fitted to a model. Measured in docs/alignment.md.
"""

import math
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zipasr.alignment.ctc import Alignment, ctc_align_batch
from zipasr.encoder.rates import FEATURES_PER_FRAME_25HZ
from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.scorer import Scorer, check_encoded
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import word_starts

_OFFSET_FRAMES = 3
"""Frame t at 25 Hz sees features around 4 t + 5 (convolutions without padding): those of its 40 ms start at 4 t + 3."""
_PAUSE_FRAMES = 20
"""A pause is 0.2 s of quiet or longer; the closure of a stop is shorter. Best of 0.1 to 0.3 s on the training prompts."""
_REACH_FRAMES = 60
"""An edge is at most 0.6 s from the nearest label: the last label comes up to 0.5 s before the end of its word."""
_EARLY_FRAMES = 8
"""A word may start up to 80 ms after its first label: heads that see the future emit it before the audio of the word."""
_MARGIN_FRAMES = 5
"""The loudness of a word is measured from 50 ms before its first label to 50 ms after its last."""
_QUIET_SHARE = 0.6
"""A frame is quiet if it is more than this share of the way, in dB, from the loudest of the word to the quietest next to it.
Best of 0.5, 0.6 and 0.7 on the training prompts; they differ by less than 10 ms."""
_MAX_DEPTH_DB = 40.0
"""A frame this far below the word is always quiet: digital silence has no level to compare with."""
_SILENCE_FRAMES, _GAP_FRAMES = 100, 150
"""No word goes on after 1 s of quiet, or after 1.5 s without a label (in noise, say), and no label lasts 1 s."""
_WORD_START = "\u2581"


class TokenSpan(NamedTuple):
    """Start and end of a token in frames at 25 Hz, not rounded; multiply by 0.04 s."""

    start_frame: float
    end_frame: float


def emission_spans(frames: Sequence[int]) -> list[TokenSpan]:
    """Spans of tokens by the frames at 25 Hz that emitted them, in order: the whole frame, or equal parts of it in turn."""
    spans = []
    for frame, group in groupby(frames):
        num_tokens = len(list(group))
        edges = [frame + i / num_tokens for i in range(num_tokens + 1)]
        spans += [TokenSpan(start, end) for start, end in pairwise(edges)]
    return spans


@torch.inference_mode()
def align_hypotheses(
    scorer: Scorer, encoded: Encoded, features: Sequence[Tensor], hypotheses: Sequence[Hypothesis], *, tokenizer: Tokenizer
) -> list[list[TokenSpan]]:
    """The times at which the tokens of hypotheses, from any search, were said.

    A hypothesis with more labels than CTC has frames for keeps the frames that emitted it.

    Args:
        scorer: has a CTC head.
        encoded: frames (N, T', D) at 25 Hz and their lengths.
        features: of each utterance, (T, F) at 100 Hz, logarithms of mel energies.
        hypotheses: one for each utterance.
        tokenizer: knows which tokens start words.
    Returns:
        For each hypothesis a span for each of its ids. They are in order and do not overlap; the first of a word starts
        with the word and the last ends with it; none lies outside the features.
    Raises:
        ValueError: not N features and hypotheses, lengths do not fit the frames, or there is no CTC head.
    """
    lens = check_encoded(encoded)
    if not len(features) == len(hypotheses) == len(lens):
        raise ValueError(
            f"there must be features and a hypothesis for each of {len(lens)} utterances, but there are {len(features)} "
            f"and {len(hypotheses)}"
        )
    if not any(hypothesis.ids for hypothesis in hypotheses):
        return [[] for _ in hypotheses]
    log_probs_NTV = scorer.ctc_log_probs(encoded.frames).float().cpu().numpy()
    ids = [hypothesis.ids for hypothesis in hypotheses]
    alignments = ctc_align_batch(log_probs_NTV, lens, ids, blank_id=scorer.blank_id)
    return [
        token_spans(hypothesis.ids, alignment, energy_db(features_TF), tokenizer=tokenizer)
        if alignment is not None
        else emission_spans(hypothesis.frames)  # more labels than frames, which a transducer may emit
        for alignment, features_TF, hypothesis in zip(alignments, features, hypotheses, strict=True)
    ]


def energy_db(features: Tensor) -> np.ndarray:
    """Energy (T,) in dB of features (T, F) at 100 Hz that are logarithms of mel energies."""
    return features.float().cpu().logsumexp(-1).numpy() * (10.0 / math.log(10.0))


def token_spans(
    ids: Sequence[int], alignment: Alignment, energy_db_T: np.ndarray, *, tokenizer: Tokenizer
) -> list[TokenSpan]:
    """Spans of aligned tokens, those of a word from edge to edge of the word.

    Args:
        ids: the tokens.
        alignment: of the same tokens.
        energy_db_T: of the recording, at 100 Hz.
        tokenizer: knows which tokens start words. A token without text (the lone space of a character vocabulary) is
            at the start of the word that it is in, and lasts no time.
    Raises:
        ValueError: the alignment has another number of tokens.
    """
    if len(alignment.first_frames) != len(ids):
        raise ValueError(f"the alignment must be of {len(ids)} tokens, but is of {len(alignment.first_frames)}")
    num_frames = len(energy_db_T)
    starts = [_to_features(frame, num_frames) for frame in alignment.first_frames]
    ends = [_to_features(frame, num_frames) for frame in alignment.end_frames]
    words = _spoken_words(ids, tokenizer)
    cores = [_core([(starts[i], ends[i]) for i in word.spoken], energy_db_T) for word in words]
    edges = find_edges(cores, energy_db_T)
    for word, (start, end) in zip(words, edges, strict=True):
        first, last = word.spoken[0], word.spoken[-1]
        for i in word.all:
            starts[i] = start if i <= first else end if i > last else min(max(starts[i], start), end)
        for i, following in pairwise(word.all):
            ends[i] = end if i >= last else starts[following]
        ends[word.all[-1]] = end
    return [
        TokenSpan(start / FEATURES_PER_FRAME_25HZ, end / FEATURES_PER_FRAME_25HZ)
        for start, end in zip(starts, ends, strict=True)
    ]


def _core(labels: Sequence[tuple[int, int]], energy_db_T: np.ndarray) -> tuple[int, int]:
    """First frame of the first label of a word and the frame after its last, without what a long pause separates.

    A model may spread the labels of a word over a pause, or hold one of them for all of it. A label that lasts too long
    counts where it is loudest. Then the word is on the side of the pause with the most labels, or the loudest.
    """
    first, stop = labels[0][0], labels[-1][1]
    if stop - first < _SILENCE_FRAMES:
        return first, stop
    labels = [_loudest(label, energy_db_T) if label[1] - label[0] >= _SILENCE_FRAMES else label for label in labels]
    loudness_db = _loudness_db(energy_db_T, first, stop)
    quiet = [(first + a, first + b) for a, b in _pauses(energy_db_T[first:stop], loudness_db) if b - a >= _SILENCE_FRAMES]
    gaps = [(a, b) for (_, a), (b, _) in pairwise(labels) if b - a >= _GAP_FRAMES]
    sides: list[list[tuple[int, int]]] = [[labels[0]]]
    for before, label in pairwise(labels):
        if any(before[0] < (a + b) / 2 <= label[0] for a, b in quiet + gaps):
            sides.append([])
        sides[-1].append(label)
    best = max(sides, key=lambda side: (len(side), float(energy_db_T[side[0][0] : side[-1][1]].max(initial=-math.inf))))
    return best[0][0], best[-1][1]


def _loudest(label: tuple[int, int], energy_db_T: np.ndarray) -> tuple[int, int]:
    """The frame of 40 ms within a label at which the energy is highest."""
    loudest = label[0] + int(energy_db_T[label[0] : label[1]].argmax())
    first = max(label[0], min(loudest, label[1] - FEATURES_PER_FRAME_25HZ))
    return first, min(first + FEATURES_PER_FRAME_25HZ, label[1])


def _loudness_db(energy_db_T: np.ndarray, start: int, stop: int) -> float:
    """The highest energy of a word between two frames, and a little around them."""
    return float(energy_db_T[max(0, start - _MARGIN_FRAMES) : stop + _MARGIN_FRAMES].max(initial=-math.inf))


def find_edges(cores: Sequence[tuple[int, int]], energy_db_T: np.ndarray) -> list[tuple[int, int]]:
    """The starts and ends of words.

    Args:
        cores: of each word, the first frame at 100 Hz of its first label and the frame after that of its last; in order.
        energy_db_T: of the recording, at 100 Hz.
    Returns:
        For each word its first frame at 100 Hz and the frame after its last; they do not overlap.
    """
    num_frames = len(energy_db_T)
    starts, ends = [0] * len(cores), [num_frames] * len(cores)
    loudness_db = [_loudness_db(energy_db_T, start, stop) for start, stop in cores]
    for i in range(len(cores) + 1):
        left = cores[i - 1][1] if i else 0
        right = min(cores[i][0] + _EARLY_FRAMES, cores[i][1] - 1) if i < len(cores) else num_frames
        right = max(left, right)
        if i:
            stop = min(right, left + _REACH_FRAMES + _PAUSE_FRAMES)
            is_open = i == len(cores) and stop == num_frames
            pauses = _pauses(energy_db_T[left:stop], loudness_db[i - 1], is_end_open=is_open)
            ends[i - 1] = left + pauses[0][0] if pauses else left
        if i < len(cores):
            start = max(left, right - _REACH_FRAMES - _PAUSE_FRAMES)
            pauses = _pauses(energy_db_T[start:right], loudness_db[i], is_start_open=start == i == 0)
            starts[i] = start + pauses[-1][1] if pauses else right
        if 0 < i < len(cores) and ends[i - 1] > starts[i]:
            ends[i - 1] = starts[i] = (ends[i - 1] + starts[i]) // 2
    return list(zip(starts, ends, strict=True))


def _pauses(
    energy_db_T: np.ndarray, loudness_db: float, *, is_start_open: bool = False, is_end_open: bool = False
) -> list[tuple[int, int]]:
    """Quiet stretches next to a word: all pauses, or the longest stretch if none is long enough to be a pause.

    An open side is the end of the recording. It counts as silence: quiet frames next to it are a pause, and if it is so near
    that nothing else fits in, it is a pause itself.

    Returns:
        First frame of each and the frame after its last; empty only if there are no frames.
    """
    num_frames = len(energy_db_T)
    if not num_frames:
        return []
    floor_db = float(energy_db_T.min())
    depth_db = min(_QUIET_SHARE * (loudness_db - floor_db), _MAX_DEPTH_DB)
    is_quiet_T = energy_db_T <= max(loudness_db - depth_db, floor_db)
    is_near = num_frames <= _PAUSE_FRAMES + _EARLY_FRAMES
    before = _PAUSE_FRAMES if is_start_open and (is_near or is_quiet_T[0]) else 0
    after = _PAUSE_FRAMES if is_end_open and (is_near or is_quiet_T[-1]) else 0
    stretches = _stretches(is_quiet_T, before, after)
    pauses = [stretch for stretch in stretches if stretch[1] - stretch[0] >= _PAUSE_FRAMES]
    pauses = pauses or [max(stretches, key=lambda stretch: stretch[1] - stretch[0])]
    return [(max(start, 0), min(end, num_frames)) for start, end in pauses]


def _stretches(is_true_T: np.ndarray, before: int, after: int) -> list[tuple[int, int]]:
    """First index of each stretch of True and the index after its last, with so many True before and after the array."""
    edges: list[int] = (np.flatnonzero(is_true_T[1:] != is_true_T[:-1]) + 1).tolist()
    if is_true_T[0]:
        edges.insert(0, -before)
    elif before:
        edges[:0] = (-before, 0)
    if is_true_T[-1]:
        edges.append(len(is_true_T) + after)
    elif after:
        edges += (len(is_true_T), len(is_true_T) + after)
    return list(zip(edges[::2], edges[1::2], strict=True))


class _WordIndices(NamedTuple):
    """Positions of the tokens of a word."""

    all: list[int]
    spoken: list[int]
    """Positions of the tokens that have a text."""


def _spoken_words(ids: Sequence[int], tokenizer: Tokenizer) -> list[_WordIndices]:
    """Words with a text, as in `transcript.words_from_tokens`; a token without text belongs to the word after it, if any."""
    words: list[_WordIndices] = []
    waiting: list[int] = []
    texts = tokenizer.spell(ids)
    starts = word_starts(texts, is_each_a_word=tokenizer.is_spaceless, is_mixed=tokenizer.is_mixed)
    for i, label in enumerate(ids):
        is_silent = not tokenizer.pieces[label].strip(_WORD_START) or label in tokenizer.special_ids
        is_start = starts[i] or not words
        if is_silent and (waiting or is_start):
            waiting.append(i)
        elif is_silent:
            words[-1].all.append(i)
        elif waiting or is_start:
            words.append(_WordIndices([*waiting, i], [i]))
            waiting = []
        else:
            words[-1].all.append(i)
            words[-1].spoken.append(i)
    if words:
        words[-1].all.extend(waiting)
    return _with_text(words, texts)


def _with_text(words: Sequence[_WordIndices], texts: Sequence[str]) -> list[_WordIndices]:
    """The words without bytes that are no character: spoken up to the last token with a text, and only if they have one."""
    found: list[_WordIndices] = []
    waiting: list[int] = []
    for word in words:
        last = max((i for i in word.spoken if texts[i].strip(_WORD_START)), default=None)
        if last is None:
            waiting.extend(word.all)
        else:
            found.append(_WordIndices([*waiting, *word.all], [i for i in word.spoken if i <= last]))
            waiting = []
    if found:
        found[-1].all.extend(waiting)
    return found


def _to_features(frame: int, num_frames: int) -> int:
    """The frame at 100 Hz where a frame at 25 Hz starts, or where the recording ends."""
    return min(frame * FEATURES_PER_FRAME_25HZ + _OFFSET_FRAMES, num_frames)
