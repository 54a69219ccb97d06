"""Transducer search through a graph. Reference: every alignment of every path of tiny graphs; the search without a graph.
Law: pruning keeps what it promises."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.graph.hand_graphs import Ids, assert_best, random_graph, token_graph, truths_of
from tests.search.toy_scorer import ToyScorer, label_scores, toy_encoded
from zipasr.search.graph import TokenGraph
from zipasr.search.graph.passing import Limits
from zipasr.search.graph.transducer_search import GraphBeamSearch, transducer_graph_search
from zipasr.search.greedy import greedy_search

VOCAB = 4
WIDE = {"beam_nats": 1e9, "max_states": 10**6, "max_contexts": 10**6}


def best_alignments(scorer: ToyScorer, frames: torch.Tensor, max_symbols: int, silent: tuple[int, ...]) -> dict[Ids, float]:
    """Log-probability of the best alignment of every token sequence, whose frames emit at most so many tokens."""
    labels = range(1, frames.shape[1])
    outcomes = [(*ids, 0) for length in range(max_symbols) for ids in itertools.product(labels, repeat=length)]
    outcomes += itertools.product(labels, repeat=max_symbols)

    @functools.cache
    def score(t: int, context: Ids, label: int) -> float:
        scores = label_scores(scorer, frames[t], context)
        return float(scores[list(silent)].max() if label == 0 else scores[label])

    best: dict[Ids, float] = {}
    for path in itertools.product(outcomes, repeat=len(frames)):
        ids, log_prob = (), 0.0
        for t, outcome in enumerate(path):
            for label in outcome:
                log_prob += score(t, ids[-scorer.context_size :], label)
                ids = (*ids, label) if label else ids
        best[ids] = max(best.get(ids, -math.inf), log_prob)
    return best


@pytest.mark.parametrize(("max_symbols", "max_frames"), [(1, 4), (2, 2), (3, 1)])
@settings(deadline=None, max_examples=15)
@given(
    num_utterances=st.integers(1, 2),
    context_size=st.integers(1, 2),
    has_symbols=st.booleans(),
    unk_id=st.sampled_from([None, 2]),
    num_best=st.sampled_from([1, 50]),
    seed=st.integers(0, 10_000),
)
def test_equals_every_alignment_of_every_path(
    max_symbols: int,
    max_frames: int,
    num_utterances: int,
    context_size: int,
    has_symbols: bool,
    unk_id: int | None,
    num_best: int,
    seed: int,
) -> None:
    """Each utterance has a graph of its own."""
    scorer = ToyScorer(VOCAB, context_size, seed)
    lens = [(seed + n) % (max_frames + 1) for n in range(num_utterances)]
    encoded = toy_encoded(lens, VOCAB, seed=seed + 1)
    graphs = [random_graph(VOCAB, seed + n, has_symbols=has_symbols) for n in range(num_utterances)]
    found = transducer_graph_search(
        scorer, encoded, graphs, num_best=num_best, unk_id=unk_id, max_symbols_per_frame=max_symbols, **WIDE
    )
    free = greedy_search(scorer, encoded, unk_id=unk_id, max_symbols_per_frame=max_symbols)
    silent = (0,) if unk_id is None else (0, unk_id)
    for n, graph in enumerate(graphs):
        truths = truths_of(graph, best_alignments(scorer, encoded.frames[n, : lens[n]], max_symbols, silent))
        assert_best(found[n], graph, truths, num_best)
        for h in found[n] if truths else ():
            acoustic = next(truth.acoustic_score for truth in truths if truth.ids == h.ids)
            num_tokens = max(len(h.ids), len(free[n].ids), 1)
            assert h.shortfall == pytest.approx((free[n].score - acoustic) / num_tokens, abs=1e-5)


def any_tokens(vocab_size: int) -> TokenGraph:
    """The trivial graph: one state, and a loop for each token."""
    return token_graph([(0, 0, token, "", 0.0) for token in range(1, vocab_size)], {0: 0.0})


@pytest.mark.parametrize("seed", range(6))
def test_the_graph_of_all_tokens_is_no_worse_than_greedy_search(seed: int) -> None:
    scorer, encoded = ToyScorer(6, 2, seed), toy_encoded([20, 13], 6, seed=seed, blank_bonus=1.0)
    free = greedy_search(scorer, encoded)
    for (best,), greedy in zip(transducer_graph_search(scorer, encoded, any_tokens(6)), free, strict=True):
        assert best.score >= greedy.score - 1e-6
        assert best.shortfall is not None
        assert best.shortfall <= 1e-6


def test_pruning_only_loses_paths() -> None:
    scorer, encoded = ToyScorer(6, 2, 1), toy_encoded([25], 6, seed=3)
    graph = random_graph(6, 7, num_states=30, num_arcs=120)
    exact = transducer_graph_search(scorer, encoded, graph, **WIDE)[0][0].score

    def score(**setting: float) -> float:
        return transducer_graph_search(scorer, encoded, graph, **{**WIDE, **setting})[0][0].score  # type: ignore[arg-type]

    assert score(beam_nats=1.0) < exact
    assert score(beam_nats=30.0) == pytest.approx(exact)
    assert score(max_contexts=1) < exact
    assert score(max_contexts=36) == pytest.approx(exact)
    assert score(max_states=2) < exact
    assert score(max_states=500) == pytest.approx(exact)


def test_contexts_are_scored_once_and_at_most_so_many() -> None:
    scorer, encoded = ToyScorer(6, 2, 1), toy_encoded([10], 6, seed=3)
    rows = []
    plain = scorer.join

    def join(frames_MJ: torch.Tensor, contexts_MJ: torch.Tensor) -> torch.Tensor:
        rows.append(len(frames_MJ))
        return plain(frames_MJ, contexts_MJ)

    scorer.join = join  # type: ignore[method-assign]
    search = GraphBeamSearch(scorer, Limits(1e9, 1000), max_contexts=3)
    search.free_search = GraphBeamSearch(ToyScorer(6, 2, 1)).free_search  # not counted
    state = search.start(random_graph(6, 7, num_states=30, num_arcs=120))
    search.advance([state], encoded)
    assert len(rows) == 10
    assert max(rows) == 3
    assert len(np.unique(state.paths.sides)) == len(state.contexts)


def test_what_does_not_fit_is_refused() -> None:
    scorer, encoded = ToyScorer(VOCAB), toy_encoded([2], VOCAB, seed=0)
    graph = token_graph([(0, 1, VOCAB, "", 0.0)], {1: 0.0})
    with pytest.raises(ValueError, match=f"must be below {VOCAB}, the vocabulary of the model, but one is {VOCAB}"):
        transducer_graph_search(scorer, encoded, graph)
    with pytest.raises(ValueError, match="max_contexts must be at least 1, but is 0"):
        GraphBeamSearch(scorer, max_contexts=0)
    with pytest.raises(ValueError, match="max_symbols_per_frame must be at least 1, but is 0"):
        GraphBeamSearch(scorer, max_symbols_per_frame=0)
    topology = token_graph([(0, 1, 2, "", 0.0)], {1: 0.0}, has_ctc_topology=True)
    with pytest.raises(ValueError, match="must be over tokens, such as a grammar or LG, but this one"):
        GraphBeamSearch(scorer).start(topology)
