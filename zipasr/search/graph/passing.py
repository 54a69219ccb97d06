"""Token passing through graphs, what CTC and the transducer have in common: the live paths of a batch in flat arrays, the
choice among their continuations, arcs without tokens, and the hypotheses at the end.

A path is at a state of its graph and has a side: for CTC the label of its last frame, for a transducer its label context.
Of the paths at one state with one side the best is kept, or the best few with different outputs. P is the number of live
paths, E of continuations. Every choice is made among the paths of one utterance, so that no result depends on its company.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zipasr.errors import ConfigError
from zipasr.search.graph.arcs import Arcs, join_graphs, prepare
from zipasr.search.graph.histories import NO_RECORD, History, RecordArrays, Records
from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph, concatenated, places_within, starts_run, take

_FACTOR, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
"""Of the hash of output sequences; the factor is that of Fibonacci hashing (Knuth, TAOCP 3, section 6.4)."""


class Limits(NamedTuple):
    """What a search keeps of the paths of an utterance after a frame."""

    beam_nats: float
    """Paths whose score is lower than the best by more are dropped."""
    max_states: int
    """Number of paths to keep, the best first; times `num_kept`."""
    num_kept: int = 1
    """Number of paths with different outputs to keep at one state with one side."""


class Paths(NamedTuple):
    """Live paths of a batch."""

    utterances: NDArray[np.int64]
    states: NDArray[np.int64]
    sides: NDArray[np.int64]
    scores: NDArray[np.float64]
    """Log-probability of the path by the model and the graph."""
    graph_scores: NDArray[np.float64]
    """The part of the graph in it."""
    records: NDArray[np.int64]
    """The last record of the path; see `Records`."""
    hashes: NDArray[np.uint64]
    """Hash of what it has put out."""


class Continuations(NamedTuple):
    """Continuations of paths by an arc, or where they are."""

    sources: NDArray[np.int64]
    """(E,) the path that is continued."""
    states: NDArray[np.int64]
    sides: NDArray[np.int64]
    scores: NDArray[np.float64]
    """(E,) score of the path with the continuation."""
    graph_scores: NDArray[np.float64]
    """(E,) score of the arc."""
    labels: NDArray[np.int64]
    """(E,) the label that it emits, or `NO_TOKEN`."""
    log_probs: NDArray[np.float64]
    """(E,) log-probability of that label."""
    symbols: NDArray[np.int64]
    """(E,) what it puts out, or `NO_SYMBOL`."""


class Transitions(NamedTuple):
    """Steps of the paths of a batch, from a state and a side in one layer to those in the same or the next one."""

    utterances: NDArray[np.int64]
    sources: NDArray[np.int64]
    """(E, 3) layer, state and side that each leaves."""
    targets: NDArray[np.int64]
    """(E, 3) the same that each enters."""
    labels: NDArray[np.int64]
    symbols: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    graph_scores: NDArray[np.float64]


_NONE, _NO_NODES = np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
NO_TRANSITIONS = Transitions(_NONE, _NO_NODES, _NO_NODES, _NONE, _NONE, np.zeros(0), np.zeros(0))
"""No steps at all."""


def staying(
    sources: NDArray[np.int64], paths: Paths, sides: NDArray[np.int64], log_probs: NDArray[np.float64]
) -> Continuations:
    """Continuations (E,) of some paths that stay at their states and put out nothing, such as blanks."""
    none, zeros = np.full(len(sources), NO_TOKEN), np.zeros(len(sources))
    symbols = np.full(len(sources), NO_SYMBOL)
    return Continuations(
        sources, paths.states[sources], sides, paths.scores[sources] + log_probs, zeros, none, zeros, symbols
    )


def along_arcs(
    paths: Paths,
    table: Arcs,
    sources: NDArray[np.int64],
    arcs: NDArray[np.int64],
    *,
    sides: NDArray[np.int64],
    labels: NDArray[np.int64],
    log_probs: NDArray[np.float64],
) -> Continuations:
    """Continuations (E,) of some paths by arcs of a table, to new sides, with labels and their log-probabilities."""
    scores, symbols = table.scores[arcs], table.symbols[arcs].astype(np.int64)
    totals = paths.scores[sources] + log_probs + scores
    return Continuations(sources, table.targets[arcs], sides, totals, scores, labels, log_probs, symbols)


class GraphState:
    """Progress of a search in one utterance."""

    def __init__(self, graph: TokenGraph, side: int, contexts: Sequence[tuple[int, ...]] = ()) -> None:
        """Start at the start of the graph with a side, which for a transducer is an index of its label contexts."""
        self.graph, self.contexts, self.num_frames = graph, list(contexts), 0
        self.free: Any = None
        """State of the free search beside."""
        self.history = History(graph.symbols)
        one = np.zeros(1, np.int64)
        self.paths = Paths(
            one, one + graph.start, one + side, np.zeros(1), np.zeros(1), one + NO_RECORD, np.zeros(1, np.uint64)
        )


class GraphBatch:
    """The states of a batch while they are advanced."""

    def __init__(self, states: Sequence[GraphState], limits: Limits) -> None:
        """Join what the states hold. The sides of `paths` are those of the states, for a transducer to translate."""
        self._states, self.limits = states, limits
        graphs = join_graphs([state.graph for state in states])
        self.graph = graphs.arcs
        self.first_states = np.array([graphs.first_states[state.graph] for state in states])
        self._records = Records([state.history for state in states])
        self._first_frames = np.array([state.num_frames for state in states])
        self._has_symbols = np.array([prepare(state.graph).has_symbols for state in states])
        self.has_topology = np.array([state.graph.has_ctc_topology for state in states])
        """(N,) whether blanks and repeats are arcs of the graph of an utterance."""
        self.paths = concatenated([self._shifted(n, state.paths) for n, state in enumerate(states)])
        self._done: list[Paths] = []
        self.transitions: list[Transitions] | None = None
        """Every step that was within the beam, for a lattice; None: they are not kept."""

    def _shifted(self, n: int, paths: Paths) -> Paths:
        is_first = paths.records == NO_RECORD
        return paths._replace(
            utterances=np.full(len(paths.states), n),
            states=paths.states + self.first_states[n],
            records=np.where(is_first, NO_RECORD, paths.records + self._records.first[n]),
        )

    def running(self, lens: Sequence[int]) -> Iterator[int]:
        """Yield the number of every frame in which there are paths, those of utterances without that frame set aside."""
        lens_N = np.array(lens)
        for frame in range(max(lens)):
            is_done = lens_N[self.paths.utterances] <= frame
            if is_done.any():
                self._done.append(take(self.paths, is_done))
                self.paths = take(self.paths, ~is_done)
            if not len(self.paths.states):
                return
            yield frame

    def store(self, lens: Sequence[int]) -> None:
        """Give the states their paths after their frames."""
        paths = concatenated([*self._done, self.paths])
        paths = take(paths, np.argsort(paths.utterances, kind="stable"))
        records, places = self._records.divided(len(self._states))
        bounds = np.searchsorted(paths.utterances, np.arange(len(self._states) + 1)).tolist()
        for n, state in enumerate(self._states):
            own = Paths._make(column[bounds[n] : bounds[n + 1]] for column in paths)
            live = state.history.settle(records[n], places[own.records])
            state.paths = own._replace(
                utterances=np.zeros(len(live), np.int64), states=own.states - self.first_states[n], records=live
            )
            state.num_frames += lens[n]

    def within_beam(self, utterances: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which scores are as good as the beam demands."""
        best = np.full(len(self._states), -np.inf)
        np.maximum.at(best, utterances, scores)
        return np.asarray((scores >= best[utterances] - self.limits.beam_nats) & (scores > -np.inf))

    def _keep(self, paths: Paths, found: Continuations, frame: int, is_silent: bool) -> None:
        """Keep steps for a lattice, whose layers are 0 before the first frame and t + 1 after frame t."""
        if self.transitions is None:
            return
        layers, before = np.full(len(found.sources), frame + 1), take(paths, found.sources)
        self.transitions.append(
            Transitions(
                before.utterances,
                np.stack([layers if is_silent else layers - 1, before.states, before.sides], 1),
                np.stack([layers, found.states, found.sides], 1),
                found.labels,
                found.symbols,
                found.scores - before.scores - found.graph_scores,
                found.graph_scores,
            )
        )

    def follow(self, paths: Paths, found: Continuations, frame: int, *, is_silent: bool = False) -> Paths:
        """The paths after some of their continuations, all within the beam: the best of those that meet.

        `frame` is counted from 0 in this batch; silent continuations take none.
        """
        self._keep(paths, found, frame, is_silent)
        utterances = paths.utterances[found.sources]
        hashes = self._hashed(utterances, paths.hashes[found.sources], found)
        new = Paths(utterances, found.states, found.sides, found.scores, found.graph_scores, utterances, hashes)
        kept = best_of_each(new, self.limits.num_kept)
        new, found = take(new, kept), take(found, kept)
        records = paths.records[found.sources]
        is_new = np.flatnonzero((found.labels != NO_TOKEN) | (found.symbols != NO_SYMBOL))
        records[is_new] = self._records.add(
            new.utterances[is_new],
            RecordArrays(
                records[is_new],
                found.labels[is_new],
                self._first_frames[new.utterances[is_new]] + frame,
                found.log_probs[is_new],
                found.symbols[is_new],
            ),
        )
        return new._replace(records=records, graph_scores=paths.graph_scores[found.sources] + found.graph_scores)

    def _hashed(self, utterances: NDArray[np.int64], hashes: NDArray[np.uint64], found: Continuations) -> NDArray[np.uint64]:
        """Hashes of what paths have put out: the symbols of graphs with any, else the tokens."""
        if self.limits.num_kept == 1:
            return hashes
        added = np.where(self._has_symbols[utterances], found.symbols, found.labels + 1).astype(np.uint64)
        mixed = (hashes + added) * _FACTOR
        return np.where(added > 0, mixed ^ (mixed >> _SHIFT), hashes)

    def close(self, paths: Paths, frame: int) -> Paths:
        """The paths and their continuations by arcs without tokens, as far as they are within the beam.

        Raises:
            ConfigError: a cycle of such arcs has a score above 0, so that a path would gain without end.
        """
        silent, front = self.graph.silent, paths
        if not len(silent.tokens):
            return paths
        for _ in range(self.graph.num_states + 1):
            sources, arcs = silent.leaving(front.states)
            none, zeros = np.full(len(arcs), NO_TOKEN), np.zeros(len(arcs))
            found = along_arcs(front, silent, sources, arcs, sides=front.sides[sources], labels=none, log_probs=zeros)
            num_known = len(paths.states)
            utterances = np.concatenate([paths.utterances, front.utterances[sources]])
            is_good = self.within_beam(utterances, np.concatenate([paths.scores, found.scores]))[num_known:]
            if not is_good.any():
                return paths
            both = concatenated([paths, self.follow(front, take(found, is_good), frame, is_silent=True)])
            kept = best_of_each(both, self.limits.num_kept)
            front, paths = take(both, kept[kept >= num_known]), take(both, kept)
            if not len(front.states):
                return paths
        raise ConfigError(
            "the scores of a cycle of arcs without tokens must be 0 or below, but one gains with every round; compile the "
            "graph with scores that are log-probabilities"
        )

    def capped(self, paths: Paths) -> Paths:
        """The paths that fit `max_states`, and the beam again, in the order of their states."""
        paths = take(paths, self.within_beam(paths.utterances, paths.scores))
        max_paths = self.limits.max_states * self.limits.num_kept
        counts = np.bincount(paths.utterances, minlength=1)
        if counts.max() <= max_paths:
            return paths
        order = np.lexsort((-paths.scores, paths.utterances))
        return take(paths, np.sort(order[places_within(counts) < max_paths]))


def best_of_each(paths: Paths, num_kept: int) -> NDArray[np.int64]:
    """Which paths stay: for each utterance, state and side the best `num_kept` with different outputs, sorted by these."""
    if num_kept == 1 and _fits(paths):
        return _best_of_equal(paths.utterances << 52 | paths.states << 22 | paths.sides, paths.scores)
    keys = paths.utterances << 40 | paths.states
    order = np.lexsort((-paths.scores, paths.sides, keys))
    if num_kept > 1:
        order = order[_is_first_with_outputs(keys[order], paths.sides[order], paths.hashes[order])]
    keys, sides = keys[order], paths.sides[order]
    is_first = starts_run(keys, sides)
    if num_kept == 1:
        return order[is_first]
    counts = np.diff([*np.flatnonzero(is_first), len(order)])
    return order[places_within(counts) < num_kept]


def _fits(paths: Paths) -> bool:
    """Whether an utterance, a state and a side go into one integer of 63 bits; so they do but in huge batches."""
    return bool(
        paths.utterances.max(initial=0) < 1 << 11
        and paths.states.max(initial=0) < 1 << 30
        and paths.sides.max(initial=0) < 1 << 22
    )


def _best_of_equal(keys: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of the best score of each key, in order of the keys; of equal scores the first place."""
    if not len(keys):
        return np.zeros(0, np.int64)
    order = np.argsort(keys, kind="stable")
    keys, scores = keys[order], scores[order]
    is_first = starts_run(keys)
    groups = np.cumsum(is_first) - 1
    best = np.flatnonzero(scores == np.maximum.reduceat(scores, np.flatnonzero(is_first))[groups])
    return order[best[starts_run(groups[best])]]


def _is_first_with_outputs(
    keys: NDArray[np.int64], sides: NDArray[np.int64], hashes: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Which of some paths, the best first within a state and a side, are the first of their outputs there."""
    order = np.lexsort((hashes, sides, keys))  # stable, so that the best of equal ones stays first
    is_first = np.empty(len(order), np.bool_)
    is_first[order] = starts_run(keys[order], sides[order], hashes[order])
    return is_first
