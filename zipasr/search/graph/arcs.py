"""The arcs of token graphs as a search expands them: those with a token apart from those without, and the graphs of a batch
joined to one. Arrays of arcs (A,) and of states (G,); scores in nats."""

import functools
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph, arcs_of, concatenated

_MAX_JOINED = 8
"""Sets of graphs that are kept joined, for the batches that follow."""


class Arcs(NamedTuple):
    """Arcs in order of the states that they leave."""

    first: NDArray[np.int64]
    """(G + 1,) arcs of state g are those from `first[g]` to before `first[g + 1]`."""
    tokens: NDArray[np.int32]
    symbols: NDArray[np.int32]
    scores: NDArray[np.float64]
    targets: NDArray[np.int64]

    def leaving(self, states: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All arcs that leave some states: (E,) place of the state in `states`, and (E,) index of the arc."""
        return arcs_of(self.first, states)


class PreparedGraph(NamedTuple):
    """A graph, or several that are joined, for a search."""

    emitting: Arcs
    """The arcs with a token."""
    silent: Arcs
    """The arcs without one."""
    max_token: int
    """The largest token; -1 without any."""
    has_symbols: bool
    """Whether a graph puts out anything but its tokens; of joined graphs, whether any does."""
    has_words: bool
    """The same for words, without tags."""

    @property
    def num_states(self) -> int:
        """Number of states G."""
        return len(self.emitting.first) - 1


class JoinedGraphs(NamedTuple):
    """The graphs of a batch side by side."""

    arcs: PreparedGraph
    first_states: dict[TokenGraph, int]
    """The state of `arcs` that is state 0 of each graph."""


_CHECKED: "weakref.WeakKeyDictionary[TokenGraph, set[int]]" = weakref.WeakKeyDictionary()
"""Graphs that can be searched, with the ids of blank for which that is known."""
_PREPARED: "weakref.WeakKeyDictionary[TokenGraph, PreparedGraph]" = weakref.WeakKeyDictionary()


def prepare(graph: TokenGraph) -> PreparedGraph:
    """The arcs of a graph, divided once as long as the graph lives."""
    known = _PREPARED.get(graph)
    if known is None:
        is_silent = graph.tokens == NO_TOKEN
        known = _PREPARED[graph] = PreparedGraph(
            _chosen(graph, ~is_silent),
            _chosen(graph, is_silent),
            int(graph.tokens.max(initial=NO_TOKEN)),
            bool((graph.output_symbols != NO_SYMBOL).any()),
            _has_words(graph),
        )
    return known


def _has_words(graph: TokenGraph) -> bool:
    is_used = np.zeros(len(graph.symbols), np.bool_)
    is_used[graph.output_symbols] = True
    is_used[NO_SYMBOL] = False
    return any(not graph.symbols[i].startswith("{") for i in np.flatnonzero(is_used))


def _chosen(graph: TokenGraph, is_chosen: NDArray[np.bool_]) -> Arcs:
    first = np.concatenate([[0], np.cumsum(is_chosen)])[graph.first_arc].astype(np.int64)
    return Arcs(
        first,
        graph.tokens[is_chosen],
        graph.output_symbols[is_chosen],
        graph.scores[is_chosen].astype(np.float64),
        graph.targets[is_chosen].astype(np.int64),
    )


def join_graphs(graphs: Sequence[TokenGraph]) -> JoinedGraphs:
    """The different ones of some graphs side by side; of a single one nothing is copied."""
    different = tuple(sorted(set(graphs), key=id))
    if len(different) == 1:
        return JoinedGraphs(prepare(different[0]), {different[0]: 0})
    return _joined(different)


@functools.lru_cache(_MAX_JOINED)
def _joined(graphs: tuple[TokenGraph, ...]) -> JoinedGraphs:
    prepared = [prepare(graph) for graph in graphs]
    starts = np.cumsum([0, *(one.num_states for one in prepared)]).tolist()
    first_states = dict(zip(graphs, starts[:-1], strict=True))
    emitting = _side_by_side([one.emitting for one in prepared], starts)
    silent = _side_by_side([one.silent for one in prepared], starts)
    max_token, has_symbols = max(one.max_token for one in prepared), any(one.has_symbols for one in prepared)
    has_words = any(one.has_words for one in prepared)
    return JoinedGraphs(PreparedGraph(emitting, silent, max_token, has_symbols, has_words), first_states)


def _side_by_side(parts: Sequence[Arcs], starts: Sequence[int]) -> Arcs:
    num_arcs = np.cumsum([0, *(len(part.tokens) for part in parts)])
    moved = concatenated(
        [
            part._replace(first=part.first[:-1] + offset, targets=part.targets + start)
            for part, offset, start in zip(parts, num_arcs, starts, strict=False)
        ]
    )
    return moved._replace(first=np.append(moved.first, num_arcs[-1]))


def check_graph(graph: TokenGraph, *, blank_id: int) -> None:
    """Check that a graph can be searched; each is looked at once.

    Raises:
        ValueError: it has blanks although it has no CTC topology, negative tokens, or scores that are NaN or +inf.
    """
    if blank_id in _CHECKED.get(graph, ()):
        return
    tokens = prepare(graph).emitting.tokens
    if not graph.has_ctc_topology and (tokens == blank_id).any():
        raise ValueError(
            f"a graph without CTC topology must have no blanks, but arcs have token {blank_id}, the blank; set "
            "has_ctc_topology if it is an H, HL or HLG"
        )
    if (tokens < 0).any():
        raise ValueError(f"tokens of a graph must be 0 or more, or {NO_TOKEN} for none, but one is {tokens.min()}")
    if not (graph.scores < np.inf).all() or not (graph.final_scores < np.inf).all():
        raise ValueError("scores of a graph must be below infinity, but are not, or are no numbers; compile it again")
    _CHECKED.setdefault(graph, set()).add(blank_id)


def check_tokens(graph: PreparedGraph, vocab_size: int) -> None:
    """Raise ValueError if a graph has tokens that a model lacks."""
    if graph.max_token >= vocab_size:
        raise ValueError(
            f"the tokens of a graph must be below {vocab_size}, the vocabulary of the model, but one is {graph.max_token}; "
            "compile the graph with this model"
        )
