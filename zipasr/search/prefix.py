"""CTC prefix beam search: encoded frames (N, T, D) at 25 Hz -> the best label sequences of every utterance.

Many alignments (blanks, repeats) spell the same labels. The search keeps label sequences, not alignments: for each, the
probability of its alignments that end in blank and of those that end in its last label, since only the former may repeat
that label. The frames of the tokens are those of the most probable alignment.
Source: Graves 2012, "Supervised sequence labelling", section 7.5.3; Hannun et al. 2014, arXiv:1408.2873, algorithm 1; the
published decoder uses only the `beam` best labels of a frame, as here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.label_tree import (
    Emission,
    LabelNode,
    final_scores,
    log_add,
    prune,
    root_node,
    score_all,
    to_hypothesis,
)
from zipasr.search.prior import AnyPrior
from zipasr.search.resumable import check_states, search_all
from zipasr.search.scorer import AdjustedScorer, Scorer


class _Ending:
    """The alignments of a sequence that end one way: their summed probability and emissions of the most probable part."""

    __slots__ = ("_largest", "emission", "log_prob")

    def __init__(self, log_prob: float = -math.inf) -> None:
        self.log_prob = self._largest = log_prob
        self.emission: Emission | None = None

    def add(self, log_prob: float, emission: Emission | None) -> None:
        """Add more alignments."""
        if log_prob > self._largest:
            self._largest, self.emission = log_prob, emission
        self.log_prob = log_add(self.log_prob, log_prob)


class _Path:
    """A live sequence."""

    __slots__ = ("blank", "label", "log_prob", "prefix")

    def __init__(self, prefix: LabelNode) -> None:
        self.prefix = prefix
        self.blank, self.label = _Ending(), _Ending()
        self.log_prob = -math.inf
        """Log-probability of both endings; known after `sum_up`."""

    def sum_up(self) -> "_Path":
        """Sum the endings at the end of a frame; return the path."""
        self.log_prob = log_add(self.blank.log_prob, self.label.log_prob)
        return self

    @property
    def score(self) -> float:
        """Score for ranking: that of CTC and the prior."""
        return self.log_prob + self.prefix.prior_score

    @property
    def emission(self) -> Emission | None:
        """Emissions of the more probable ending."""
        return self.blank.emission if self.blank.log_prob >= self.label.log_prob else self.label.emission


class LabelBefore(NamedTuple):
    """The last label of the utterance before, which may go on in the first frames of this one."""

    label: int
    ended_log_prob: float
    """Log-probability that it has ended, in a blank."""
    lasting_log_prob: float
    """Log-probability that it has not."""


class CtcPrefixState:
    """Progress of the search in one utterance."""

    def __init__(self, first: _Path, prior: AnyPrior | None) -> None:
        """Start with one sequence, the empty one."""
        self.paths, self.trunk, self.prior, self.num_frames = [first], first.prefix, prior, 0
        self.before: LabelBefore | None = None
        """The label that may go on at its start; None: there is none."""
        if first.label.log_prob > -math.inf:
            self.before = LabelBefore(first.prefix.label, first.blank.log_prob, first.label.log_prob)


class CtcPrefixSearch:
    """CTC prefix beam search as a `ResumableSearch`; see `ctc_prefix_search`."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        beam: int = 4,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
        margin_nats: float = math.inf,
    ) -> None:
        """Configure the search; arguments as in `ctc_prefix_search`.

        With a finite margin, continuations that are less probable than the best one by more are not followed, nor those
        that cannot be among the best `beam` unless most of the better ones spell the same: what makes wide beams affordable.
        """
        if beam < 1:
            raise ValueError(f"beam must be at least 1, but is {beam}")
        self.scorer, self.beam, self.margin_nats = scorer, beam, margin_nats
        self._adjusted = AdjustedScorer(scorer, blank_penalty, temperature)

    def start(self, prior: AnyPrior | None = None) -> CtcPrefixState:
        """State of an utterance before its first frame: the empty sequence, with one alignment."""
        first = _Path(root_node(prior))
        first.blank = _Ending(0.0)
        return CtcPrefixState(first.sum_up(), prior)

    @torch.inference_mode()
    def advance(self, states: Sequence[CtcPrefixState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        log_probs_NTV = self._adjusted.ctc_log_probs(encoded.frames)
        best_log_probs_NTB, best_NTB = log_probs_NTV.topk(min(self.beam, log_probs_NTV.shape[-1]))
        labels_NTB, scores_NTB = best_NTB.tolist(), best_log_probs_NTB.tolist()
        for state in states:
            state.trunk = prune(state.trunk, [path.prefix for path in state.paths])
        for frame in range(max(lens, default=0)):
            found = [
                (state, self._continuations(state, labels_TB[frame], scores_TB[frame]))
                for state, labels_TB, scores_TB, length in zip(states, labels_NTB, scores_NTB, lens, strict=True)
                if frame < length
            ]
            score_all((state.prior, path.prefix) for state, paths in found if state.prior is not None for path in paths)
            for state, paths in found:
                # Where the model's output is not a number, as after a training that diverged, nothing continues.
                state.paths = sorted(paths, key=lambda path: -path.score)[: self.beam] or state.paths
                state.num_frames += 1

    def hypotheses(self, states: Sequence[CtcPrefixState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """For each state its hypotheses, the most probable first; see `ResumableSearch`."""
        return [
            [to_hypothesis(path.prefix, path.emission, score) for score, path in self._ranked(state)[:num_best]]
            for state in states
        ]

    def restart(self, state: CtcPrefixState) -> CtcPrefixState:
        """State of the next utterance, which does not repeat a label that has not ended yet; see `ResumableSearch`."""
        _, best = self._ranked(state)[0]
        first = _Path(root_node(state.prior, best.prefix.label))
        first.blank = _Ending(best.blank.log_prob - best.log_prob)
        first.label = _Ending(best.label.log_prob - best.log_prob)
        return CtcPrefixState(first.sum_up(), state.prior)

    def _continuations(self, state: CtcPrefixState, labels: list[int], log_probs: list[float]) -> list[_Path]:
        """The continuations of the sequences of an utterance with the best labels of a frame, the most probable first."""
        found: dict[LabelNode, _Path] = {}
        is_pruned = self.margin_nats < math.inf
        least = state.paths[0].score + log_probs[0] - self.margin_nats
        for rank, path in enumerate(state.paths, start=1):
            # A sequence has at most three continuations of the same spelling: by a blank, a repetition, and a new label.
            num_labels = 3 * self.beam // rank if is_pruned else self.beam
            for label, log_prob in zip(labels[:num_labels], log_probs, strict=False):
                if is_pruned and path.score + log_prob < least:
                    break
                _follow(path, label, log_prob, state.num_frames, self.scorer.blank_id, found)
        return [path.sum_up() for path in found.values()]

    def _ranked(self, state: CtcPrefixState) -> list[tuple[float, _Path]]:
        """The live sequences with their scores, the best first."""
        prior_scores = final_scores([path.prefix for path in state.paths], state.prior)
        found = [(path.log_prob + score, path) for path, score in zip(state.paths, prior_scores, strict=True)]
        return sorted(found, key=lambda pair: -pair[0])


def ctc_prefix_search(
    scorer: Scorer,
    encoded: Encoded,
    *,
    beam: int = 4,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    prior: AnyPrior | None = None,
) -> list[list[Hypothesis]]:
    """The most probable label sequences of each utterance by the CTC head, each summed over its alignments.

    Args:
        scorer: has a CTC head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        beam: number of sequences kept after a frame, and of labels of a frame that are tried.
        blank_penalty: subtracted from the blank's log-probability before they are normalized again.
        temperature: divides the log-probabilities before they are normalized again.
        prior: language models and hotwords, already weighted.
    Returns:
        For each utterance its hypotheses, the most probable first; at least one, at most `beam`. Scores are not
        normalized by length.
    Raises:
        ValueError: lengths do not fit the frames, `beam` is below 1, the temperature is not positive, or there is no CTC
            head.
    """
    search = CtcPrefixSearch(scorer, beam=beam, blank_penalty=blank_penalty, temperature=temperature)
    return search_all(search, encoded, prior)


def _follow(path: _Path, label: int, log_prob: float, frame: int, blank_id: int, found: dict[LabelNode, _Path]) -> None:
    """Add the continuations of `path` with one label of a frame to those found in the frame."""
    prefix = path.prefix
    if label == blank_id:
        _at(prefix, found).blank.add(path.log_prob + log_prob, path.emission)
        return
    before, emission = path.log_prob, path.emission
    if label == prefix.label:  # alignments that end in it continue; a repetition needs a blank before it
        if path.label.log_prob > -math.inf:
            _at(prefix, found).label.add(path.label.log_prob + log_prob, path.label.emission)
        before, emission = path.blank.log_prob, path.blank.emission
    if before > -math.inf:
        _at(prefix.extended(label), found).label.add(before + log_prob, Emission(frame, log_prob, emission))


def _at(prefix: LabelNode, found: dict[LabelNode, _Path]) -> _Path:
    path = found.get(prefix)
    if path is None:
        path = found[prefix] = _Path(prefix)
    return path
