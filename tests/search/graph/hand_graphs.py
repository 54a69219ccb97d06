"""Token graphs made by hand or at random, and the truth about them: every path, and every alignment, one by one."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from zipasr.search.graph import NO_SYMBOL, NO_TOKEN, TokenGraph
from zipasr.search.hypothesis import Hypothesis, Output

Arc = tuple[int, int, int, str, float]
"""Source, target, token or `NO_TOKEN`, output or "", and score."""
Ids = tuple[int, ...]


def token_graph(arcs: Sequence[Arc], finals: Mapping[int, float], *, has_ctc_topology: bool = False) -> TokenGraph:
    """The graph of some arcs."""
    num_states = 1 + max([0, *(max(arc[:2]) for arc in arcs), *finals])
    symbols = ("", *sorted({arc[3] for arc in arcs} - {""}))
    arcs = sorted(arcs, key=lambda arc: arc[0])  # stable
    return TokenGraph(
        first_arc=np.searchsorted([arc[0] for arc in arcs], np.arange(num_states + 1)).astype(np.int64),
        tokens=np.array([arc[2] for arc in arcs], np.int32),
        output_symbols=np.array([symbols.index(arc[3]) for arc in arcs], np.int32),
        scores=np.array([arc[4] for arc in arcs], np.float32),
        targets=np.array([arc[1] for arc in arcs], np.int32),
        final_scores=np.array([finals.get(state, -math.inf) for state in range(num_states)], np.float32),
        symbols=symbols,
        has_ctc_topology=has_ctc_topology,
    )


def random_graph(
    vocab_size: int, seed: int, *, num_states: int = 4, num_arcs: int = 9, has_symbols: bool = True
) -> TokenGraph:
    """A graph whose arcs without token have no cycle; state 0 may be final."""
    generator = np.random.default_rng(seed)
    arcs: list[Arc] = []
    for _ in range(num_arcs):
        source, target = generator.integers(num_states, size=2).tolist()
        is_silent = bool(generator.random() < 0.25) and source != target
        if is_silent:
            source, target = sorted((source, target))
        token = NO_TOKEN if is_silent else int(generator.integers(1, vocab_size))
        symbol = str(generator.choice(["", "", "a", "b", "{c}"])) if has_symbols else ""
        arcs.append((source, target, token, symbol, -float(generator.exponential())))
    finals = {int(state): -float(generator.exponential()) for state in generator.integers(num_states, size=2)}
    return token_graph(arcs, finals)


def arcs_of(graph: TokenGraph) -> list[Arc]:
    """The arcs of a graph."""
    sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
    return [
        (int(sources[i]), int(graph.targets[i]), int(graph.tokens[i]), graph.symbols[graph.output_symbols[i]], float(score))
        for i, score in enumerate(graph.scores)
    ]


class GraphPath(NamedTuple):
    """One path from the start to a final state."""

    ids: Ids
    outputs: tuple[Output, ...]
    score: float


def all_paths(graph: TokenGraph, max_tokens: int) -> list[GraphPath]:
    """Every path of a graph with at most so many tokens."""
    arcs, found = arcs_of(graph), []

    def follow(state: int, ids: Ids, outputs: tuple[Output, ...], score: float) -> None:
        final = float(graph.final_scores[state])
        if final > -math.inf:
            found.append(GraphPath(ids, outputs, score + final))
        for source, target, token, symbol, arc_score in arcs:
            if source == state and (token == NO_TOKEN or len(ids) < max_tokens):
                new = (*outputs, Output(symbol, len(ids))) if symbol else outputs
                follow(target, ids if token == NO_TOKEN else (*ids, token), new, score + arc_score)

    follow(graph.start, (), (), 0.0)
    return found


def best_alignments_by_ctc(log_probs_TV: np.ndarray, blank_id: int = 0) -> dict[Ids, float]:
    """Log-probability of the best alignment of every token sequence."""
    best: dict[Ids, float] = {}
    for labels in itertools.product(range(log_probs_TV.shape[1]), repeat=len(log_probs_TV)):
        ids = tuple(label for label, _ in itertools.groupby(labels) if label != blank_id)
        score = sum(float(log_probs_TV[t, label]) for t, label in enumerate(labels))
        best[ids] = max(best.get(ids, -math.inf), score)
    return best


class Truth(NamedTuple):
    """A path with the best alignment of its tokens."""

    ids: Ids
    outputs: tuple[Output, ...]
    score: float
    acoustic_score: float


def truths_of(graph: TokenGraph, alignments: Mapping[Ids, float]) -> list[Truth]:
    """Every path of a graph whose tokens can be aligned, the best first."""
    paths = [path for path in all_paths(graph, max(map(len, alignments))) if path.ids in alignments]
    truths = [Truth(path.ids, path.outputs, alignments[path.ids] + path.score, alignments[path.ids]) for path in paths]
    return sorted(truths, key=lambda truth: -truth.score)


def assert_best(found: Sequence[Hypothesis], graph: TokenGraph, truths: Sequence[Truth], num_best: int) -> None:
    """Check that hypotheses are the best paths with different outputs, which are the tokens if the graph has no others.

    Paths with the same score may come in any order.
    """
    has_symbols = bool((graph.output_symbols != NO_SYMBOL).any())

    def outputs_of(path: Truth | Hypothesis) -> object:
        return tuple(output.symbol for output in path.outputs) if has_symbols else path.ids

    best: dict[object, float] = {}
    for truth in truths:
        best.setdefault(outputs_of(truth), truth.score)
    if not best:
        assert found == [Hypothesis(score=-math.inf, shortfall=math.inf, is_complete=False)]
        return
    assert [h.score for h in found] == pytest.approx([*best.values()][:num_best], abs=1e-5)
    assert len({outputs_of(h) for h in found}) == len(found)
    for h in found:
        same = [truth for truth in truths if (truth.ids, truth.outputs) == (h.ids, h.outputs)]
        assert h.score == pytest.approx(same[0].score, abs=1e-5)
        assert h.score == pytest.approx(best[outputs_of(h)], abs=1e-5)
        assert h.is_complete
        assert len(h.frames) == len(h.log_probs) == len(h.ids)


def with_ctc_topology(graph: TokenGraph, blank_id: int = 0) -> TokenGraph:
    """The same language with blanks and repeats as arcs: a state for each state and label of the last frame."""
    arcs = arcs_of(graph)
    states: dict[tuple[int, int], int] = {(graph.start, blank_id): 0}
    todo, made = [(graph.start, blank_id)], list[Arc]()
    while todo:
        state, last = place = todo.pop()
        following: list[tuple[tuple[int, int], int, str, float]] = [((state, blank_id), blank_id, "", 0.0)]
        if last != blank_id:
            following.append(((state, last), last, "", 0.0))
        for source, target, token, symbol, score in arcs:
            if source == state and token == NO_TOKEN:
                following.append(((target, last), NO_TOKEN, symbol, score))
            elif source == state and token != last:
                following.append(((target, token), token, symbol, score))
        for target_place, token, symbol, score in following:
            if target_place not in states:
                states[target_place] = len(states)
                todo.append(target_place)
            made.append((states[place], states[target_place], token, symbol, score))
    finals = {
        number: float(graph.final_scores[state])
        for (state, _), number in states.items()
        if graph.final_scores[state] > -math.inf
    }
    return token_graph(made, finals, has_ctc_topology=True)
