"""Scores of label sequences that do not depend on the audio: `LabelPrior`, the weighted sum of several, and whole texts.

A language model, an n-gram that is subtracted (LODR) and hotwords all score label sequences one label at a time. The
beams keep a prior's state in the nodes of their label tree, where equal sequences meet, and ask for all new nodes of a
frame in one call. Scores are in nats.
Source: shallow fusion, Gulcehre et al. 2015, arXiv:1503.03535; LODR, Zheng et al. 2022, arXiv:2203.16776.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

PriorState = TypeVar("PriorState")


class LabelPrior(Protocol[PriorState]):
    """Scores of label sequences without blanks, built up label by label. `PriorState` is the type of its states."""

    def start(self) -> PriorState:
        """State of the empty sequence."""

    def extend(self, states: Sequence[PriorState], labels: Sequence[int]) -> tuple[list[PriorState], list[float]]:
        """For each pair of a state and a label: the state after the label, and the score of the label."""

    def finish(self, states: Sequence[PriorState]) -> list[float]:
        """The score of the end of the utterance, for each state."""


AnyPrior = LabelPrior[Any]
"""A prior chosen at run time, so that the type of its states is open. It takes only states that it returned itself; the
searches keep them as `object`."""


class WeightedPriors:
    """A weighted sum of priors. Its states are tuples.

    Sums of the same priors and weights are equal, so that their utterances are scored together.
    """

    def __init__(self, parts: Sequence[tuple[AnyPrior, float]]) -> None:
        """The sum of priors, each times its weight; without any, every sequence scores 0."""
        self._priors: list[LabelPrior[object]] = [prior for prior, _ in parts]
        self._weights = [weight for _, weight in parts]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightedPriors) and (self._priors, self._weights) == (other._priors, other._weights)

    def __hash__(self) -> int:
        return hash((*self._priors, *self._weights))

    def start(self) -> tuple[object, ...]:
        """State of the empty sequence."""
        return tuple(prior.start() for prior in self._priors)

    def extend(
        self, states: Sequence[tuple[object, ...]], labels: Sequence[int]
    ) -> tuple[list[tuple[object, ...]], list[float]]:
        """For each pair of a state and a label: the state after the label, and the score of the label."""
        totals, columns = [0.0] * len(states), []
        for i, (prior, weight) in enumerate(zip(self._priors, self._weights, strict=True)):
            new_states, scores = prior.extend([state[i] for state in states], labels)
            columns.append(new_states)
            totals = [total + weight * score for total, score in zip(totals, scores, strict=True)]
        return list(zip(*columns, strict=True)) if columns else list(states), totals

    def finish(self, states: Sequence[tuple[object, ...]]) -> list[float]:
        """The score of the end of the utterance, for each state."""
        totals = [0.0] * len(states)
        for i, (prior, weight) in enumerate(zip(self._priors, self._weights, strict=True)):
            scores = prior.finish([state[i] for state in states])
            totals = [total + weight * score for total, score in zip(totals, scores, strict=True)]
        return totals


def prior_scores(texts: Sequence[Sequence[int]], prior: AnyPrior) -> list[float]:
    """The score of whole label sequences by a prior, the end included. It scores the labels at one place in one call."""
    states, totals = [prior.start() for _ in texts], [0.0] * len(texts)
    for place in range(max(map(len, texts), default=0)):
        longer = [k for k, labels in enumerate(texts) if len(labels) > place]
        found, scores = prior.extend([states[k] for k in longer], [texts[k][place] for k in longer])
        for k, state, score in zip(longer, found, scores, strict=True):
            states[k], totals[k] = state, totals[k] + score
    ends = prior.finish(states) if states else []
    return [total + end for total, end in zip(totals, ends, strict=True)]
