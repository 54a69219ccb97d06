"""CTC search through a graph. Reference: every alignment of every path of tiny graphs. Law: company and explicit
topologies change nothing; pruning keeps what it promises."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.graph.hand_graphs import (
    Truth,
    assert_best,
    best_alignments_by_ctc,
    random_graph,
    token_graph,
    truths_of,
    with_ctc_topology,
)
from tests.search.hypotheses import assert_same
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.graph import NO_TOKEN, TokenGraph
from zipasr.search.graph.ctc_search import CtcGraphSearch, ctc_graph_search
from zipasr.search.graph.passing import Limits
from zipasr.search.greedy import ctc_greedy_search
from zipasr.search.hypothesis import Hypothesis, Output

VOCAB = 4
WIDE = {"beam_nats": 1e9, "max_states": 10**6}


def truths_by_ctc(scorer: ToyScorer, frames_TV: torch.Tensor, graph: TokenGraph) -> list[Truth]:
    log_probs_TV = scorer.ctc_log_probs(frames_TV.unsqueeze(0))[0].double().numpy()
    return truths_of(graph, best_alignments_by_ctc(log_probs_TV))


@settings(deadline=None, max_examples=30)
@given(
    lens=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    has_symbols=st.booleans(),
    num_best=st.sampled_from([1, 3, 50]),
    seed=st.integers(0, 10_000),
)
def test_equals_every_alignment_of_every_path(lens: list[int], has_symbols: bool, num_best: int, seed: int) -> None:
    """Each utterance has a graph of its own."""
    scorer, encoded = ToyScorer(VOCAB), toy_encoded(lens, VOCAB, seed=seed)
    graphs = [random_graph(VOCAB, seed + n, has_symbols=has_symbols) for n in range(len(lens))]
    found = ctc_graph_search(scorer, encoded, graphs, num_best=num_best, **WIDE)
    free = ctc_greedy_search(scorer, encoded)
    for n, graph in enumerate(graphs):
        truths = truths_by_ctc(scorer, encoded.frames[n, : lens[n]], graph)
        assert_best(found[n], graph, truths, num_best)
        for h in found[n] if truths else ():
            acoustic = next(truth.acoustic_score for truth in truths if truth.ids == h.ids)
            num_tokens = max(len(h.ids), len(free[n].ids), 1)
            assert h.shortfall == pytest.approx((free[n].score - acoustic) / num_tokens, abs=1e-5)
            assert all(a < b for a, b in itertools.pairwise(h.frames))


@pytest.mark.parametrize("seed", range(12))
def test_a_graph_with_ctc_topology_gives_the_same(seed: int) -> None:
    scorer, encoded = ToyScorer(VOCAB), toy_encoded([9, 6], VOCAB, seed=seed)
    graph = random_graph(VOCAB, seed)
    (implicit, other) = ctc_graph_search(scorer, encoded, graph, num_best=3, **WIDE)
    explicit, mixed = ctc_graph_search(scorer, encoded, [with_ctc_topology(graph), graph], num_best=3, **WIDE)
    assert_same(explicit, implicit)
    assert_same(mixed, other)


def test_repeated_tokens_need_a_blank_between() -> None:
    graph = token_graph([(0, 1, 2, "twice", 0.0), (1, 2, 2, "", 0.0)], {2: 0.0})
    frames = torch.full((1, 2, VOCAB), -5.0)
    frames[..., 2] = 5.0
    (ranked,) = ctc_graph_search(ToyScorer(VOCAB), Encoded(frames, torch.tensor([2])), graph)
    assert ranked == [Hypothesis(score=-math.inf, shortfall=math.inf, is_complete=False)]
    frames = torch.cat([frames, frames[:, :1]], dim=1)
    ((best,),) = ctc_graph_search(ToyScorer(VOCAB), Encoded(frames, torch.tensor([3])), graph)
    assert (best.ids, best.frames, best.outputs) == ((2, 2), (0, 2), (Output("twice", 0),))


def test_a_narrow_beam_only_loses_paths() -> None:
    scorer, encoded = ToyScorer(VOCAB), toy_encoded([30], VOCAB, seed=3)
    graph = random_graph(VOCAB, 5, num_states=30, num_arcs=90)
    exact = ctc_graph_search(scorer, encoded, graph, **WIDE)[0][0]
    scores = [ctc_graph_search(scorer, encoded, graph, beam_nats=beam)[0][0].score for beam in (1.0, 3.0, 20.0)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1] == pytest.approx(exact.score)
    scores = [ctc_graph_search(scorer, encoded, graph, max_states=number)[0][0].score for number in (1, 8, 1000)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1] == pytest.approx(exact.score)


def test_arcs_without_tokens_may_form_a_cycle_that_does_not_gain() -> None:
    arcs = [(0, 1, NO_TOKEN, "", -0.5), (1, 0, NO_TOKEN, "", 0.0), (1, 2, 2, "word", 0.0)]
    scorer, encoded = ToyScorer(VOCAB), toy_encoded([4], VOCAB, seed=0)
    ((best,),) = ctc_graph_search(scorer, encoded, token_graph(arcs, {2: 0.0}))
    ((plain,),) = ctc_graph_search(scorer, encoded, token_graph([(0, 2, 2, "word", -0.5)], {2: 0.0}))
    assert best == plain
    gaining = token_graph([*arcs, (1, 0, NO_TOKEN, "", 0.6)], {2: 0.0})
    with pytest.raises(ConfigError, match="must be 0 or below, but one gains"):
        ctc_graph_search(scorer, encoded, gaining)


def test_what_does_not_fit_is_refused() -> None:
    scorer, encoded = ToyScorer(VOCAB), toy_encoded([2, 2], VOCAB, seed=0)
    graph = token_graph([(0, 1, VOCAB, "", 0.0)], {1: 0.0})
    with pytest.raises(ValueError, match=f"must be below {VOCAB}, the vocabulary of the model, but one is {VOCAB}"):
        ctc_graph_search(scorer, encoded, graph)
    with pytest.raises(ValueError, match="must have no blanks, but arcs have token 0"):
        ctc_graph_search(scorer, encoded, token_graph([(0, 1, 0, "", 0.0)], {1: 0.0}))
    with pytest.raises(ValueError, match="must be 0 or more, or -1 for none, but one is -2"):
        ctc_graph_search(scorer, encoded, token_graph([(0, 1, -2, "", 0.0)], {1: 0.0}))
    with pytest.raises(ValueError, match="scores of a graph must be below infinity"):
        ctc_graph_search(scorer, encoded, token_graph([(0, 1, 2, "", math.nan)], {1: 0.0}))
    with pytest.raises(ValueError, match="one graph for each of 2 utterances, but there are 1"):
        ctc_graph_search(scorer, encoded, [graph])
    with pytest.raises(ValueError, match="but there is none"):
        CtcGraphSearch(scorer).start()
    for limits in (Limits(0.0, 1000), Limits(20.0, 0), Limits(20.0, 1000, 0)):
        with pytest.raises(ValueError, match="must be"):
            CtcGraphSearch(scorer, limits)
