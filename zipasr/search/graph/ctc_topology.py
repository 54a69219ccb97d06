"""Blanks and repeats of CTC as arcs of a graph: `TokenGraph` -> `TokenGraph` with `has_ctc_topology`, H composed with it.

The standard topology: a token lasts one frame or more, blanks may stand between tokens, and equal tokens need one between
them. The graph has one path for every path of the given graph and every alignment of its tokens. Searches of this project
need no such graph; programs that only walk arcs, such as sherpa-onnx, do.
"""

import numpy as np
from numpy.typing import NDArray

from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph, arcs_of, distinct, is_among, reachable

_MAX_COPIES = 2
"""A state's arcs are copied to the states before it, instead of being reached by arcs without tokens, where that makes at
most so many times the arcs: between the tokens of a word. Between words it would multiply them by the last tokens."""


def add_ctc_topology(graph: TokenGraph, blank_id: int) -> TokenGraph:
    """Return a graph over frames: its tokens are the best labels of each frame, the blank among them.

    Args:
        graph: a graph over tokens, without loops of arcs that have no token.
        blank_id: the blank.
    Raises:
        ValueError: the graph has the topology already, or an arc of the blank.
    """
    if graph.has_ctc_topology or (graph.tokens == blank_id).any():
        raise ValueError("the graph must be one over tokens, but has blanks; give the graph without the topology of CTC")
    sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
    is_token = graph.tokens != NO_TOKEN
    num_keys = 1 + int(graph.tokens.max(initial=0))
    pairs = _Pairs(graph, sources, is_token, num_keys)
    # States: those of the graph; pairs of a state and the token before, which must not come next; pairs that have just been
    # entered, whose token may last; and states after a blank.
    num_states, num_blocked = graph.num_states, len(pairs.blocked)
    first_entered = num_states + num_blocked
    after_blank = distinct(np.append(graph.targets[is_token], graph.start)).astype(np.int64)
    first_after_blank = first_entered + len(pairs.entered)
    total = first_after_blank + len(after_blank)
    blank_states = first_after_blank + np.arange(len(after_blank))
    entered_states = first_entered + np.arange(len(pairs.entered))
    arcs = _Arcs()
    enters = first_entered + np.searchsorted(pairs.entered, graph.targets * np.int64(num_keys) + graph.tokens)
    targets = np.where(is_token, enters, graph.targets)
    arcs.add(sources, graph.tokens, graph.output_symbols, graph.scores, targets)
    _add_blocked(arcs, graph, pairs, enters)
    states, tokens = np.divmod(pairs.entered, num_keys)
    arcs.add(entered_states, tokens, NO_SYMBOL, 0.0, entered_states)
    arcs.add(entered_states, blank_id, NO_SYMBOL, 0.0, first_after_blank + np.searchsorted(after_blank, states))
    arcs.add(blank_states, blank_id, NO_SYMBOL, 0.0, blank_states)
    finals = np.full(total, -np.inf, np.float32)
    finals[:num_states] = graph.final_scores
    finals[num_states:first_entered] = graph.final_scores[pairs.blocked // num_keys]
    continuing = np.concatenate([entered_states, blank_states])
    continued = np.concatenate([pairs.state_of(pairs.entered, num_states), after_blank])
    _continue(arcs, finals, continuing, continued)
    start = first_after_blank + int(np.searchsorted(after_blank, graph.start))
    return arcs.graph(finals, start, graph.symbols)


class _Pairs:
    """Pairs of a state and the token before it, as state * num_keys + token, sorted."""

    def __init__(self, graph: TokenGraph, sources: NDArray[np.int64], is_token: NDArray[np.bool_], num_keys: int) -> None:
        self.num_keys = num_keys
        self.entered = distinct(graph.targets[is_token] * np.int64(num_keys) + graph.tokens[is_token])
        """Pairs that an arc with a token enters."""
        empty_first = np.searchsorted(sources[~is_token], np.arange(graph.num_states + 1))
        empty_targets = graph.targets[~is_token].astype(np.int64)
        new, links, followed = self.entered, [], self.entered
        while len(new):
            states, tokens = np.divmod(new, num_keys)
            which, places = arcs_of(empty_first, states)
            found = empty_targets[places] * num_keys + tokens[which]
            links.append((new[which], found))
            new = distinct(found)
            new = new[~is_among(new, followed)]
            followed = np.sort(np.concatenate([followed, new]))
        own = sources[is_token] * np.int64(num_keys) + graph.tokens[is_token]
        blocked = followed[is_among(followed, distinct(own))]
        self.blocked = blocked
        """Pairs whose token is the next one on an arc of the state, or of one behind arcs without tokens."""
        while True:
            found = np.concatenate([blocked, *(before[is_among(after, blocked)] for before, after in links)])
            self.blocked = distinct(found)
            if len(self.blocked) == len(blocked):
                break
            blocked = self.blocked

    def state_of(self, pairs: NDArray[np.int64], num_states: int) -> NDArray[np.int64]:
        """The state in which a path goes on without a blank: that of the blocked pair, or that of the graph."""
        if not len(self.blocked):
            return pairs // self.num_keys
        places = np.minimum(np.searchsorted(self.blocked, pairs), len(self.blocked) - 1)
        return np.where(self.blocked[places] == pairs, num_states + places, pairs // self.num_keys)


class _Arcs:
    """Arcs that are collected in parts."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int64], ...]] = []

    def add(self, sources: NDArray[np.int64], *columns: object) -> None:
        """Add arcs: sources, tokens, outputs, scores and targets, each for all or for each."""
        self._parts.append((sources, *(np.broadcast_to(np.asarray(column), sources.shape) for column in columns)))

    def columns(self) -> list[NDArray[np.int64]]:
        """The columns of all arcs, sorted by source."""
        columns = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return [column[order] for column in columns]

    def graph(self, finals: NDArray[np.float32], start: int, symbols: tuple[str, ...]) -> TokenGraph:
        """The graph of the states that can be reached."""
        sources, tokens, outputs, scores, targets = self.columns()
        return reachable(
            TokenGraph(
                first_arc=np.searchsorted(sources, np.arange(len(finals) + 1)),
                tokens=tokens.astype(np.int32),
                output_symbols=outputs.astype(np.int32),
                scores=scores.astype(np.float32),
                targets=targets.astype(np.int32),
                final_scores=finals,
                start=start,
                symbols=symbols,
                has_ctc_topology=True,
            )
        )


def _add_blocked(arcs: _Arcs, graph: TokenGraph, pairs: _Pairs, enters: NDArray[np.int64]) -> None:
    """Add the arcs of blocked pairs: those of their state, except with their token."""
    states, tokens = np.divmod(pairs.blocked, pairs.num_keys)
    which, places = arcs_of(graph.first_arc, states)
    is_allowed = graph.tokens[places] != tokens[which]
    which, places = which[is_allowed], places[is_allowed]
    passed = pairs.state_of(graph.targets[places] * np.int64(pairs.num_keys) + tokens[which], graph.num_states)
    targets = np.where(graph.tokens[places] != NO_TOKEN, enters[places], passed)
    arcs.add(graph.num_states + which, graph.tokens[places], graph.output_symbols[places], graph.scores[places], targets)


def _continue(arcs: _Arcs, finals: NDArray[np.float32], continuing: NDArray[np.int64], continued: NDArray[np.int64]) -> None:
    """Let states go on as others do: by copies of their arcs and final scores, or by arcs without tokens."""
    sources, *columns = arcs.columns()
    first_arc = np.searchsorted(sources, np.arange(len(finals) + 1))
    degrees, uses = np.diff(first_arc), np.bincount(continued, minlength=len(finals))
    is_copied = (degrees * uses <= _MAX_COPIES * (degrees + uses))[continued]
    which, places = arcs_of(first_arc, continued[is_copied])
    arcs.add(continuing[is_copied][which], *(column[places] for column in columns))
    finals[continuing[is_copied]] = finals[continued[is_copied]]
    arcs.add(continuing[~is_copied], NO_TOKEN, NO_SYMBOL, 0.0, continued[~is_copied])
