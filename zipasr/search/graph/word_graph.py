"""`WordGraph`: a grammar or a list of phrases as a graph over words, before the tokens of a model are known."""

import math
from typing import NamedTuple


class WordArc(NamedTuple):
    """One arc of a word graph."""

    source: int
    """State that it leaves, from 0."""
    target: int
    """State that it enters."""
    word: str | None = None
    """The word that it consumes; None: none."""
    tag: str | None = None
    """What it puts out besides the word, such as a semantic tag; None: nothing. A word is put out as itself."""
    score: float = 0.0
    """Log-probability in nats, natural logarithm."""


class WordGraph(NamedTuple):
    """Word sequences with tags and scores; state 0 is the start."""

    arcs: tuple[WordArc, ...]
    """The arcs, in any order."""
    final_scores: dict[int, float]
    """Log-probability of ending, by state, in nats; other states are not final."""

    @property
    def num_states(self) -> int:
        """Number of states, the start included."""
        return 1 + max((*(max(arc.source, arc.target) for arc in self.arcs), *self.final_scores), default=0)

    @property
    def words(self) -> tuple[str, ...]:
        """The distinct words, sorted."""
        return tuple(sorted({arc.word for arc in self.arcs if arc.word is not None}))

    def is_empty(self) -> bool:
        """Whether no path leads from the start to a final state."""
        targets: dict[int, list[int]] = {}
        for arc in self.arcs:
            if arc.score > -math.inf:
                targets.setdefault(arc.source, []).append(arc.target)
        seen = reached(targets, 0)
        return not any(score > -math.inf and state in seen for state, score in self.final_scores.items())


def reached(targets: dict[int, list[int]], state: int) -> set[int]:
    """The states that arcs, given by their targets for each state, lead to from a state, itself included."""
    seen, todo = {state}, [state]
    while todo:
        found = set(targets.get(todo.pop(), [])) - seen
        seen |= found
        todo += found
    return seen
