"""Label sequences of one utterance as a tree, in which equal sequences are one node, and when their labels were emitted.

What the beam searches share. Frames are counted at 25 Hz, log-probabilities are in nats.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional

from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prior import LabelPrior


class LabelNode:
    """A label sequence: that of its parent and one more label. The root is the empty one."""

    __slots__ = ("_children", "context_row", "label", "parent", "prior_score", "prior_state")

    def __init__(self, parent: "LabelNode | None" = None, label: int = -1, context_row: int | None = None) -> None:
        self.parent, self.label, self.context_row = parent, label, context_row
        self._children: dict[int, LabelNode] = {}
        self.prior_state: Any = None
        """State of the prior after this sequence; None until `score_nodes` sets it, and without a prior."""
        self.prior_score = 0.0
        """What the prior says of the sequence so far, in nats."""

    def extended(self, label: int) -> "LabelNode":
        """This sequence and one more label: the same object each time. Its `context_row` is None until a search sets it."""
        child = self._children.get(label)
        if child is None:
            child = self._children[label] = LabelNode(self, label)
        return child

    def ids(self) -> tuple[int, ...]:
        """The labels of the sequence."""
        labels: list[int] = []
        node = self
        while node.parent is not None:
            labels.append(node.label)
            node = node.parent
        return tuple(reversed(labels))


def root_node(prior: LabelPrior | None, context_row: int | None = None) -> LabelNode:
    """The empty sequence, with the first state of the prior if there is one."""
    node = LabelNode(context_row=context_row)
    if prior is not None:
        node.prior_state = prior.start()
    return node


def score_nodes(nodes: Iterable[LabelNode], prior: LabelPrior) -> None:
    """Give the nodes that the prior has not seen yet its state and score, all in one call; their parents must have them."""
    new = [node for node in dict.fromkeys(nodes) if node.prior_state is None]
    if not new:
        return
    parents = [node.parent for node in new if node.parent is not None]
    states, scores = prior.extend([parent.prior_state for parent in parents], [node.label for node in new])
    for node, parent, state, score in zip(new, parents, states, scores, strict=True):
        node.prior_state, node.prior_score = state, parent.prior_score + score


def final_scores(nodes: list[LabelNode], prior: LabelPrior | None) -> list[float]:
    """What the prior says of whole sequences, the end included; 0 without a prior."""
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
