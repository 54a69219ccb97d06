"""`TokenGraph`: what a search under a graph walks through, arcs over the tokens of one model, in flat arrays.

A is the number of arcs, G of states. Scores are log-probabilities in nats. Arcs without a token take no frame. With
`has_ctc_topology` the blanks and repeats of CTC are arcs of the graph itself (H, HL, HLG); otherwise the searches add them:
a loop of blank at every state, and for CTC the repeats of a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

NO_TOKEN = -1
"""Token of an arc that consumes none."""
NO_SYMBOL = 0
"""Symbol of an arc that puts out none."""

Table = TypeVar("Table", bound=NamedTuple)
"""A NamedTuple of arrays of one length."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenGraph:
    """A weighted graph over tokens. Raises ValueError if its arrays do not fit each other."""

    first_arc: NDArray[np.int64]
    """(G + 1,) arcs of state g are those from `first_arc[g]` to before `first_arc[g + 1]`."""
    tokens: NDArray[np.int32]
    """(A,) token id of each arc, or `NO_TOKEN`; with `has_ctc_topology` the blank is one of them."""
    output_symbols: NDArray[np.int32]
    """(A,) index of the output of each arc in `symbols`, or `NO_SYMBOL`."""
    scores: NDArray[np.float32]
    """(A,) log-probability of each arc, nats."""
    targets: NDArray[np.int32]
    """(A,) state that each arc enters."""
    final_scores: NDArray[np.float32]
    """(G,) log-probability of ending in each state, nats; -inf: the state is not final."""
    start: int = 0
    """The start state."""
    symbols: tuple[str, ...] = ("",)
    """Outputs, `symbols[0]` is that of `NO_SYMBOL`: words as they are written, and tags, which start with `{`."""
    has_ctc_topology: bool = False
    """Whether blanks and repeats are arcs of the graph."""

    def __post_init__(self) -> None:
        num_arcs, num_states = len(self.tokens), len(self.first_arc) - 1
        if not len(self.output_symbols) == len(self.scores) == len(self.targets) == num_arcs:
            raise ValueError(
                f"tokens, output_symbols, scores and targets must have one length, but have {num_arcs}, "
                f"{len(self.output_symbols)}, {len(self.scores)} and {len(self.targets)}"
            )
        if num_states < 1 or len(self.final_scores) != num_states:
            raise ValueError(f"final_scores must have {max(num_states, 1)} states, but has {len(self.final_scores)}")
        if self.first_arc[0] != 0 or self.first_arc[-1] != num_arcs or (np.diff(self.first_arc) < 0).any():
            raise ValueError(f"first_arc must rise from 0 to {num_arcs}, the number of arcs, but does not")
        if not 0 <= self.start < num_states:
            raise ValueError(f"start must be from 0 to {num_states - 1}, but is {self.start}")
        if num_arcs and not (0 <= self.targets.min() and self.targets.max() < num_states):
            raise ValueError(f"targets must be states from 0 to {num_states - 1}, but are not")
        if num_arcs and not (0 <= self.output_symbols.min() and self.output_symbols.max() < len(self.symbols)):
            raise ValueError(f"output_symbols must be indices of {len(self.symbols)} symbols, but are not")

    @property
    def num_states(self) -> int:
        """Number of states G."""
        return len(self.first_arc) - 1

    @property
    def num_arcs(self) -> int:
        """Number of arcs A."""
        return len(self.tokens)


def empty_cycle(graph: TokenGraph) -> int | None:
    """Return a state in a loop of arcs without tokens, which no search could leave; None: there is no such loop."""
    sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
    is_empty = graph.tokens == NO_TOKEN
    sources, targets = sources[is_empty], graph.targets[is_empty]
    while len(sources):
        is_left = np.zeros(graph.num_states, np.bool_)
        is_left[sources] = True
        is_inside = is_left[targets]  # arcs into states without such arcs are in no loop
        if is_inside.all():
            return int(_revisited(sources, targets))
        sources, targets = sources[is_inside], targets[is_inside]
    return None


def _revisited(sources: NDArray[np.int64], targets: NDArray[np.int32]) -> int:
    """The state that a walk along arcs visits twice; every state that an arc enters must have an arc."""
    after = dict(zip(sources.tolist(), targets.tolist(), strict=True))
    state, seen = next(iter(after)), set[int]()
    while state not in seen:
        seen.add(state)
        state = after[state]
    return state


def reachable(graph: TokenGraph) -> TokenGraph:
    """Return the graph of the states that its start leads to, numbered in the same order."""
    is_reached = np.zeros(graph.num_states, np.bool_)
    new = np.array([graph.start])
    while len(new):
        is_reached[new] = True
        _, places = arcs_of(graph.first_arc, new)
        found = distinct(graph.targets[places])
        new = found[~is_reached[found]]
    sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
    is_kept, numbers = is_reached[sources], np.cumsum(is_reached) - 1
    counts = np.diff(graph.first_arc)[is_reached]
    return replace(
        graph,
        first_arc=np.concatenate([[0], np.cumsum(counts)]),
        tokens=graph.tokens[is_kept],
        output_symbols=graph.output_symbols[is_kept],
        scores=graph.scores[is_kept],
        targets=numbers[graph.targets[is_kept]].astype(np.int32),
        final_scores=graph.final_scores[is_reached],
        start=int(numbers[graph.start]),
    )


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct values, sorted.

    `numpy.unique` puts them into a hash table since 2.3, which took minutes for millions of regular integers.
    """
    values = np.sort(values)
    return values[starts_run(values)]


def is_among(values: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each value whether it is one of the known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


def arcs_of(first_arc: NDArray[np.int64], states: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for the arcs of several states one after another, which of the states each leaves, and its place."""
    first = first_arc[states]
    counts = first_arc[states + 1] - first
    which = np.repeat(np.arange(len(states)), counts)
    return which, np.arange(len(which)) + np.repeat(first - (np.cumsum(counts) - counts), counts)


def places_within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, ..., count - 1 for one count after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def starts_run(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each row whether it is the first one, or one of its keys differs from that of the row before."""
    is_start = np.zeros(len(keys[0]), np.bool_)
    is_start[:1] = True
    for key in keys:
        is_start[1:] |= key[1:] != key[:-1]
    return is_start


def take(table: Table, index: NDArray[np.int64] | NDArray[np.bool_]) -> Table:
    """Return some rows of a table."""
    return table._make(column[index] for column in table)


def concatenated(tables: Sequence[Table]) -> Table:
    """Return the rows of several tables, one table after another."""
    return tables[0]._make(map(np.concatenate, zip(*tables, strict=True)))
