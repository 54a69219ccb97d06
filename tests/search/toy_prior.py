"""A prior small enough to check by hand."""

import itertools
from collections.abc import Sequence

from tests.golden_files import seeded


class ToyPrior:
    """A bigram: the score of a label depends on the label before it, which is the state; 0 at the start."""

    def __init__(self, vocab_size: int, seed: int = 0, end: float = 0.0) -> None:
        self.table_VV = seeded(vocab_size, vocab_size, seed=seed).tolist()
        self.end = end
        self.num_calls = 0

    def start(self) -> int:
        return 0

    def extend(self, states: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[float]]:
        assert len(states) == len(labels) > 0
        self.num_calls += 1
        return list(labels), [self.table_VV[a][b] for a, b in zip(states, labels, strict=True)]

    def finish(self, states: Sequence[int]) -> list[float]:
        return [self.end * state for state in states]

    def of(self, ids: tuple[int, ...]) -> float:
        return sum(self.table_VV[a][b] for a, b in itertools.pairwise((0, *ids)))
