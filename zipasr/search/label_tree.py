"""Label sequences of one utterance as a tree, in which equal sequences are one node, and when their labels were emitted.

What the beam searches share. Frames are counted at 25 Hz, log-probabilities are in nats.
"""

import math
from typing import NamedTuple, Optional

from zipasr.search.hypothesis import Hypothesis


class LabelNode:
    """A label sequence: that of its parent and one more label. The root is the empty one."""

    __slots__ = ("_children", "context_row", "label", "parent")

    def __init__(self, parent: "LabelNode | None" = None, label: int = -1, context_row: int | None = None) -> None:
        self.parent, self.label, self.context_row = parent, label, context_row
        self._children: dict[int, LabelNode] = {}

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
