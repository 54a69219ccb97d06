"""Label sequences of one utterance as a tree, in which equal sequences are one node, and when their labels were emitted.

The beam searches share it. Frames are counted at 25 Hz, log-probabilities are in nats.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, Optional

from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prior import AnyPrior


class LabelNode:
    """A label sequence: that of its parent and one more label. The root is the empty one."""

    __slots__ = ("_children", "context_row", "label", "num_labels", "parent", "prior_score", "prior_state")

    def __init__(self, parent: "LabelNode | None" = None, label: int = -1) -> None:
        self.parent, self.label = parent, label
        self.num_labels: int = 0 if parent is None else parent.num_labels + 1
        """Length of the sequence."""
        self.context_row: int | None = None
        """Row of the label context at the end of the sequence; None until a search sets it."""
        self._children: dict[int, LabelNode] = {}
        self.prior_state: object = None
        """State of the prior after this sequence; None until `score_nodes` sets it, and without a prior."""
        self.prior_score = 0.0
        """Score of the sequence by the prior, in nats."""

    def extended(self, label: int) -> "LabelNode":
        """This sequence and one more label: the same object each time, until it is pruned."""
        child = self._children.get(label)
        if child is None:
            child = self._children[label] = LabelNode(self, label)
        return child

    def ids(self) -> tuple[int, ...]:
        """The labels of the sequence."""
        return self._last_labels(self.num_labels)

    def context(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The last labels of `before` and this sequence, as many as `before` has."""
        labels = self._last_labels(len(before))
        return (*before[len(labels) :], *labels)

    def _last_labels(self, most: int) -> tuple[int, ...]:
        labels: list[int] = []
        node = self
        while node.parent is not None and len(labels) < most:
            labels.append(node.label)
            node = node.parent
        return tuple(reversed(labels))


def root_node(prior: AnyPrior | None, label: int = -1) -> LabelNode:
    """The empty sequence, with the first state of the prior if there is one.

    A CTC search continues after `label`, the last one of the text before, which is not part of the sequence.
    """
    node = LabelNode(label=label)
    if prior is not None:
        node.prior_state = prior.start()
    return node


def prune(trunk: LabelNode, live: Iterable[LabelNode]) -> LabelNode:
    """Drop the nodes that no search needs any more, so that a stream of hours takes little more memory than its text.

    Args:
        trunk: a common prefix of all live sequences, below which the tree may have other branches.
        live: the sequences that a search continues from. Sequences that only lead to one lose the state of their prior and
            their `context_row`; a search that reaches them again finds them as new ones.
    Returns:
        The longest common prefix of the live sequences: the trunk of the next call.
    """
    kept: dict[LabelNode, dict[int, LabelNode]] = {node: {} for node in live}
    is_live = set(kept)
    for node in is_live:
        while node is not trunk:
            parent = node.parent
            assert parent is not None
            is_known = parent in kept
            kept.setdefault(parent, {})[node.label] = node
            if is_known:
                break
            node = parent
    for node, children in kept.items():
        node._children = children
        if node not in is_live:
            node.prior_state = node.context_row = None
    while trunk not in is_live and len(trunk._children) == 1:
        (trunk,) = trunk._children.values()
    return trunk


def score_nodes(nodes: Iterable[LabelNode], prior: AnyPrior) -> None:
    """Set state and score of the nodes that the prior has not scored yet, in one call; their parents must have them."""
    new = [node for node in dict.fromkeys(nodes) if node.prior_state is None]
    if not new:
        return
    parents = [node.parent for node in new if node.parent is not None]
    states, scores = prior.extend([parent.prior_state for parent in parents], [node.label for node in new])
    for node, parent, state, score in zip(new, parents, states, scores, strict=True):
        node.prior_state, node.prior_score = state, parent.prior_score + score


def score_all(nodes: Iterable[tuple[AnyPrior | None, LabelNode]]) -> None:
    """`score_nodes` for utterances with priors of their own: one call for each prior, none for None."""
    by_prior: dict[AnyPrior, list[LabelNode]] = {}
    for prior, node in nodes:
        if prior is not None:
            by_prior.setdefault(prior, []).append(node)
    for prior, group in by_prior.items():
        score_nodes(group, prior)


def final_scores(nodes: list[LabelNode], prior: AnyPrior | None) -> list[float]:
    """Scores of whole sequences by the prior, the end included; 0 without a prior."""
    if prior is None or not nodes:
        return [0.0] * len(nodes)
    ends = prior.finish([node.prior_state for node in nodes])
    return [node.prior_score + end for node, end in zip(nodes, ends, strict=True)]


class Emission(NamedTuple):
    """When a path emitted its last label, how probable that was, and the same of the labels before."""

    frame: int
    log_prob: float
    before: Optional["Emission"]


def to_hypothesis(node: LabelNode, last: Emission | None, score: float) -> Hypothesis:
    """The sequence with the frame and log-probability of each label."""
    emissions = []
    while last is not None:
        emissions.append((last.frame, last.log_prob))
        last = last.before
    emissions.reverse()
    return Hypothesis(node.ids(), tuple(e[0] for e in emissions), tuple(e[1] for e in emissions), score)


def log_add(a: float, b: float) -> float:
    """ln(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
