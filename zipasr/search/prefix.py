"""CTC prefix beam search: encoded frames (N, T, D) at 25 Hz -> the best label sequences of every utterance.

Many alignments (blanks, repeats) read as the same labels. The search keeps label sequences, not alignments: for each, the
probability of its alignments that end in blank and of those that end in its last label, since only the former may repeat
that label. The frames of the tokens are those of the likeliest way that led to the sequence.
Source: Graves 2012, "Supervised sequence labelling", section 7.5.3; Hannun et al. 2014, arXiv:1408.2873, algorithm 1; the
published decoder looks at the `beam` best labels of a frame only, as here.
"""

import math

import torch

from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.label_tree import Emission, LabelNode, final_scores, log_add, root_node, score_nodes, to_hypothesis
from zipasr.search.prior import LabelPrior
from zipasr.search.scorer import Scorer, check_encoded, label_log_probs


class _Ending:
    """The alignments of a sequence that end one way: their summed probability and the emissions of the likeliest part."""

    __slots__ = ("_largest", "emission", "log_prob")

    def __init__(self, log_prob: float = -math.inf, emission: Emission | None = None) -> None:
        self.log_prob, self.emission = log_prob, emission
        self._largest = log_prob

    def add(self, log_prob: float, emission: Emission | None) -> None:
        """Count more alignments in."""
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
        """Log-probability of both endings; known after `settle`."""

    def settle(self) -> "_Path":
        """Sum the endings up at the end of a frame."""
        self.log_prob = log_add(self.blank.log_prob, self.label.log_prob)
        return self

    @property
    def score(self) -> float:
        """What it is ranked by: CTC and the prior."""
        return self.log_prob + self.prefix.prior_score

    @property
    def emission(self) -> Emission | None:
        """Emissions of the likelier ending."""
        return self.blank.emission if self.blank.log_prob >= self.label.log_prob else self.label.emission


@torch.inference_mode()
def ctc_prefix_search(
    scorer: Scorer,
    encoded: Encoded,
    *,
    beam: int = 4,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    prior: LabelPrior | None = None,
) -> list[list[Hypothesis]]:
    """Search for the most probable label sequences with the CTC head, each summed over its alignments.

    Args:
        scorer: has a CTC head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        beam: sequences that stay after a frame, and labels of a frame that are looked at.
        blank_penalty: taken off the blank's log-probability before they are normalised again.
        temperature: divides the log-probabilities before they are normalised again.
        prior: language models and hotwords, already weighted.
    Returns:
        For each utterance its hypotheses, the most probable first; at least one, at most `beam`. Scores are not
        normalised by length.
    Raises:
        ValueError: lengths do not fit the frames, `beam` is below 1, the temperature is not positive, or there is no CTC
            head.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, but is {beam}")
    lens = check_encoded(encoded)
    log_probs_NTV = scorer.ctc_log_probs(encoded.frames)
    if blank_penalty or temperature != 1.0:
        log_probs_NTV = label_log_probs(
            log_probs_NTV, blank_id=scorer.blank_id, blank_penalty=blank_penalty, temperature=temperature
        )
    best_log_probs_NTB, best_NTB = log_probs_NTV.topk(min(beam, log_probs_NTV.shape[-1]))
    labels_NTB, scores_NTB = best_NTB.tolist(), best_log_probs_NTB.tolist()
    beams = [_first_paths(prior) for _ in lens]
    for frame in range(max(lens, default=0)):
        found = {
            n: _continuations(beams[n], labels_NTB[n][frame], scores_NTB[n][frame], frame, scorer.blank_id)
            for n, length in enumerate(lens)
            if frame < length
        }
        if prior is not None:
            score_nodes((path.prefix for paths in found.values() for path in paths), prior)
        for n, paths in found.items():
            beams[n] = sorted(paths, key=lambda path: -path.score)[:beam]
    return [_finish(paths, prior) for paths in beams]


def _first_paths(prior: LabelPrior | None) -> list[_Path]:
    """The empty sequence, of which there is one alignment."""
    start = _Path(root_node(prior))
    start.blank = _Ending(0.0)
    return [start.settle()]


def _continuations(paths: list[_Path], labels: list[int], log_probs: list[float], frame: int, blank_id: int) -> list[_Path]:
    """What the sequences of an utterance become with the labels of a frame that are looked at."""
    found: dict[LabelNode, _Path] = {}
    for path in paths:
        for label, log_prob in zip(labels, log_probs, strict=True):
            _follow(path, label, log_prob, frame, blank_id, found)
    return [path.settle() for path in found.values()]


def _finish(paths: list[_Path], prior: LabelPrior | None) -> list[Hypothesis]:
    prior_scores = final_scores([path.prefix for path in paths], prior)
    hypotheses = [
        to_hypothesis(path.prefix, path.emission, path.log_prob + score)
        for path, score in zip(paths, prior_scores, strict=True)
    ]
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)


def _follow(path: _Path, label: int, log_prob: float, frame: int, blank_id: int, found: dict[LabelNode, _Path]) -> None:
    """Add what `path` becomes with one label of a frame to what was found in it."""
    prefix = path.prefix
    if label == blank_id:
        _at(prefix, found).blank.add(path.log_prob + log_prob, path.emission)
        return
    before, emission = path.log_prob, path.emission
    if label == prefix.label:  # goes on from alignments that end in it; begins anew only after a blank
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
