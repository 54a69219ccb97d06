"""Lattices. Reference: every alignment of every path of tiny graphs, and priors over all of them. Law: company changes
nothing; the best path is that of the search."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.graph.hand_graphs import best_alignments_by_ctc, random_graph, token_graph, truths_of
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.graph import NO_TOKEN
from zipasr.search.graph.ctc_search import CtcGraphSearch, ctc_graph_search
from zipasr.search.graph.lattice import graph_lattices
from zipasr.search.graph.passing import Limits
from zipasr.search.graph.transducer_search import GraphBeamSearch, transducer_graph_search
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prior import AnyPrior, WeightedPriors

VOCAB = 4
WIDE = Limits(1e9, 10**6)


def score_by(prior: AnyPrior, ids: tuple[int, ...]) -> float:
    state, total = prior.start(), 0.0
    for label in ids:
        (state,), (score,) = prior.extend([state], [label])
        total += score
    return total + prior.finish([state])[0]


@settings(deadline=None, max_examples=25)
@given(
    lens=st.lists(st.integers(0, 4), min_size=1, max_size=2),
    beam_nats=st.sampled_from([0.0, 2.0, 1e6]),
    seed=st.integers(0, 10_000),
)
def test_a_lattice_has_every_path_that_comes_near_the_best(lens: list[int], beam_nats: float, seed: int) -> None:
    scorer, encoded = ToyScorer(VOCAB), toy_encoded(lens, VOCAB, seed=seed)
    graphs = [random_graph(VOCAB, seed + n) for n in range(len(lens))]
    lattices = graph_lattices(CtcGraphSearch(scorer, WIDE), encoded, graphs, lattice_beam_nats=beam_nats)
    prior = WeightedPriors([(ToyPrior(VOCAB, seed=seed, end=0.3), 0.7)])
    for n, (graph, lattice) in enumerate(zip(graphs, lattices, strict=True)):
        log_probs_TV = scorer.ctc_log_probs(encoded.frames[n : n + 1, : lens[n]])[0].double().numpy()
        truths = truths_of(graph, best_alignments_by_ctc(log_probs_TV))
        near: dict[object, float] = {}
        for truth in truths:
            if truth.score >= truths[0].score - beam_nats:
                near.setdefault((truth.ids, truth.outputs), truth.score)
        found = lattice.best(10**6, num_kept=10**6)
        scores = {(h.ids, h.outputs): h.score for h in found}
        assert {key: scores[key] for key in near} == pytest.approx(near, abs=1e-5)
        if beam_nats > 100:
            assert scores.keys() == near.keys()
        rescored = lattice.best(10**6, prior=prior, num_kept=10**6)
        expected = sorted((score + score_by(prior, ids) for (ids, _), score in scores.items()), reverse=True)
        assert [h.score for h in rescored] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("graph_scale", [0.0, 0.5])
def test_the_scores_of_the_graph_can_be_weighted(graph_scale: float) -> None:
    scorer, encoded, graph = ToyScorer(VOCAB), toy_encoded([4], VOCAB, seed=1), random_graph(VOCAB, 4)
    (lattice,) = graph_lattices(CtcGraphSearch(scorer, WIDE), encoded, graph, lattice_beam_nats=1e6)
    alignments = best_alignments_by_ctc(scorer.ctc_log_probs(encoded.frames)[0].double().numpy())
    best: dict[object, float] = {}
    for truth in truths_of(graph, alignments):
        score = truth.acoustic_score + graph_scale * (truth.score - truth.acoustic_score)
        best[truth.ids, truth.outputs] = max(score, best.get((truth.ids, truth.outputs), -math.inf))
    found = lattice.best(10**6, graph_scale=graph_scale, num_kept=10**6)
    assert {(h.ids, h.outputs): h.score for h in found} == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("by_ctc", [True, False])
def test_the_best_path_is_that_of_the_search_and_company_changes_nothing(by_ctc: bool) -> None:
    scorer, encoded = ToyScorer(6, 2, 1), toy_encoded([20, 12, 0], 6, seed=3, blank_bonus=1.0)
    graphs = [random_graph(6, seed, num_states=12, num_arcs=50) for seed in (1, 2, 2)]
    search = CtcGraphSearch(scorer) if by_ctc else GraphBeamSearch(scorer)
    found = (ctc_graph_search if by_ctc else transducer_graph_search)(scorer, encoded, graphs)
    lattices = graph_lattices(search, encoded, graphs)
    for n, lattice in enumerate(lattices):
        row = Encoded(encoded.frames[n : n + 1, : int(encoded.lens[n])], encoded.lens[n : n + 1])
        (alone,) = graph_lattices(search, row, graphs[n])
        assert lattice.num_nodes == alone.num_nodes
        assert np.array_equal(lattice.arcs.labels, alone.arcs.labels)
        ranked = lattice.best(3, num_kept=50)
        expected: Hypothesis = found[n][0]
        if expected.score == -math.inf:
            assert ranked == []
            continue
        assert ranked[0].score == pytest.approx(expected.score, abs=1e-6)
        assert (ranked[0].ids, ranked[0].outputs) == (expected.ids, expected.outputs)
        assert ranked[0].frames == expected.frames
        assert ranked[0].log_probs == pytest.approx(expected.log_probs)
        assert [h.score for h in ranked] == sorted((h.score for h in ranked), reverse=True)


def test_what_does_not_fit_is_refused() -> None:
    scorer, encoded = ToyScorer(VOCAB), toy_encoded([2], VOCAB, seed=0)
    cyclic = token_graph([(0, 1, NO_TOKEN, "", -0.5), (1, 0, NO_TOKEN, "", 0.0), (1, 2, 2, "", 0.0)], {2: 0.0})
    with pytest.raises(ConfigError, match="must have no cycle of arcs without tokens for a lattice"):
        graph_lattices(CtcGraphSearch(scorer), encoded, cyclic)
    graph = token_graph([(0, 1, 2, "", 0.0)], {1: 0.0})
    with pytest.raises(ValueError, match="max_symbols_per_frame must be 1 for a lattice"):
        graph_lattices(GraphBeamSearch(scorer, max_symbols_per_frame=2), encoded, graph)
    with pytest.raises(ValueError, match="lattice_beam_nats must be 0 or more, but is -1"):
        graph_lattices(CtcGraphSearch(scorer), encoded, graph, lattice_beam_nats=-1.0)
    (lattice,) = graph_lattices(CtcGraphSearch(scorer), encoded, graph)
    with pytest.raises(ValueError, match="num_best and num_kept must be 1 or more"):
        lattice.best(0)
