"""The choice of a search and its settings. Contract: settings without effect are refused with the cure; `auto` chooses a
search that the heads allow."""

import dataclasses
from typing import Any

import pytest

from tests.search.graph.hand_graphs import random_graph
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import Heads, ToyScorer, toy_encoded
from zipasr.errors import ConfigError
from zipasr.search.beam import modified_beam_search
from zipasr.search.finding import find_hypotheses
from zipasr.search.graph.ctc_search import ctc_graph_search
from zipasr.search.graph.transducer_search import transducer_graph_search
from zipasr.search.greedy import greedy_search
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.prior import WeightedPriors
from zipasr.search.rescoring import rescored_by_prior
from zipasr.search.strategy import LanguageModels, Method, SearchConfig, resolve_search


def test_auto_takes_the_best_that_the_heads_allow() -> None:
    assert resolve_search(SearchConfig(), Heads()).method == "beam"
    assert resolve_search(SearchConfig(), Heads(has_transducer=False)).method == "ctc_greedy"
    assert resolve_search(SearchConfig(), Heads(has_transducer=False, has_attention=True)).method == "attention_rescoring"
    only_ctc = Heads(has_transducer=False)
    assert resolve_search(SearchConfig(), only_ctc, has_hotwords=True).method == "ctc_beam"
    assert resolve_search(SearchConfig(num_best=2), only_ctc).method == "ctc_beam"
    assert resolve_search(SearchConfig(), only_ctc, language_models=LanguageModels(ToyPrior(5))).method == "ctc_beam"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "viterbi"}, "must be one of"),
        ({"beam": 0}, "beam must be at least 1"),
        ({"num_best": 0}, "num_best must be from 1"),
        ({"num_best": 5}, "num_best must be from 1 to the beam, 4"),
        ({"max_symbols_per_frame": 101}, "max_symbols_per_frame must be at most 100, but is 101"),
        ({"method": "greedy", "beam": 8}, "beam has no effect"),
        ({"method": "ctc_greedy", "num_best": 2}, "num_best has no effect"),
        ({"method": "beam", "attention_scale": 2.0}, "attention_scale has no effect"),
        ({"max_symbols_per_frame": 0}, "max_symbols_per_frame must be at least 1, but is 0"),
        ({"method": "ctc_greedy", "max_symbols_per_frame": 2}, "has no effect on the search ctc_greedy"),
        ({"method": "ctc_beam", "max_symbols_per_frame": 2}, "has no effect on the search ctc_beam"),
        ({"method": "attention_rescoring", "max_symbols_per_frame": 2}, "has no effect on the search attention_rescoring"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": 1e-7}, "temperature must be at least 1e-06, but is 1e-07"),
        ({"lm_scale": -0.1}, "lm_scale must be 0 or more"),
        ({"lodr_scale": 0.1}, "lodr_scale must be 0 or below"),
        ({"blank_penalty": float("nan")}, "blank_penalty must be a finite number"),
        ({"hotword_boost": -1.0}, "hotword_boost must be above 0"),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**fields)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("greedy", {"language_models": LanguageModels(ToyPrior(5))}, "cannot use a language model"),
        ("ctc_greedy", {"language_models": LanguageModels(ToyPrior(5))}, "cannot use a language model"),
        ("beam", {"language_models": LanguageModels(None, ToyPrior(5))}, "subtracted from a language model"),
        ("ctc_greedy", {"has_hotwords": True}, "cannot use hotwords"),
    ],
)
def test_what_a_search_cannot_use_is_refused(method: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_search(SearchConfig(method=method), Heads(), **given)


def test_several_symbols_a_frame_need_a_transducer() -> None:
    config = SearchConfig(max_symbols_per_frame=3)
    assert resolve_search(config, Heads()) == SearchConfig(method="beam", max_symbols_per_frame=3)
    with pytest.raises(ConfigError, match="max_symbols_per_frame has no effect on the search ctc_greedy"):
        resolve_search(config, Heads(has_transducer=False))


@pytest.mark.parametrize("method", ["greedy", "ctc_greedy"])
def test_what_is_explicitly_off_suits_any_search(method: Method) -> None:
    for config, default in ((SearchConfig(), SearchConfig(method=method)), (SearchConfig(method=method), None)):
        found = resolve_search(config, Heads(), default=default, explicit=("num_best", "ngram_scale"))
        assert found == SearchConfig(method=method)
        with pytest.raises(ConfigError, match=f"ctc_scale has no effect on the search {method}"):
            resolve_search(SearchConfig(method=method), Heads(), explicit=("ctc_scale",))


@pytest.mark.parametrize("num_symbols", [1, 2, 3])
def test_transducer_searches_get_their_symbols_per_frame(num_symbols: int) -> None:
    scorer, encoded = ToyScorer(5), toy_encoded([9, 4], 5, seed=1)
    found = {
        method: find_hypotheses(scorer, encoded, SearchConfig(method=method, max_symbols_per_frame=num_symbols), unk_id=3)
        for method in ("beam", "greedy")
    }
    beams = modified_beam_search(scorer, encoded, unk_id=3, max_symbols_per_frame=num_symbols)
    assert found["beam"] == [ranked[:1] for ranked in beams]
    assert found["greedy"] == [[h] for h in greedy_search(scorer, encoded, unk_id=3, max_symbols_per_frame=num_symbols)]
    for ranked in found.values():
        assert max(hypothesis.frames.count(t) for (hypothesis,) in ranked for t in range(9)) == num_symbols


def test_every_search_gets_what_it_is_given() -> None:
    scorer, encoded, lm, ngram = ToyScorer(5), toy_encoded([7, 4], 5, seed=1), ToyPrior(5, seed=1), ToyPrior(5, seed=2)
    graph = HotwordGraph([((2, 3), 1.0)])
    config = SearchConfig(method="beam", num_best=3, lm_scale=0.4, lodr_scale=-0.2)
    prior = WeightedPriors([(lm, 0.4), (ngram, -0.2), (graph, 1.0)])
    given: dict[str, Any] = {"language_models": LanguageModels(lm, ngram), "hotwords": graph}
    for method, search in (("beam", modified_beam_search), ("ctc_beam", ctc_prefix_search)):
        found = find_hypotheses(scorer, encoded, dataclasses.replace(config, method=method), **given)
        expected = search(scorer, encoded, prior=prior)  # type: ignore[operator]
        assert found == [ranked[:3] for ranked in expected]
        assert found != [ranked[:3] for ranked in search(scorer, encoded)]  # type: ignore[operator]


def test_weights_of_zero_ask_no_model() -> None:
    lm = ToyPrior(5)
    config = SearchConfig(method="beam", lm_scale=0.0)
    find_hypotheses(ToyScorer(5), toy_encoded([5], 5, seed=1), config, language_models=LanguageModels(lm))
    assert lm.num_calls == 0


def test_searches_through_graphs_get_what_they_are_given() -> None:
    scorer, encoded, lm, ngram = ToyScorer(5), toy_encoded([7, 4], 5, seed=1), ToyPrior(5, seed=1), ToyPrior(5, seed=2)
    graphs = [random_graph(5, seed, num_states=6, num_arcs=30) for seed in (1, 2)]
    models = LanguageModels(lm, ngram)
    config = SearchConfig(method="graph", beam=5, num_best=3, lm_scale=0.4, lodr_scale=-0.2, max_contexts=4, max_states=50)
    limits: dict[str, Any] = {"beam_nats": 9.0, "max_states": 50, "num_best": 5}
    for method, search in (("graph", transducer_graph_search), ("ctc_graph", ctc_graph_search)):
        own = dataclasses.replace(config, method=method, max_contexts=4 if method == "graph" else 8, graph_beam_nats=9.0)
        settings = limits | ({"max_contexts": 4, "unk_id": 3} if method == "graph" else {})
        plain = search(scorer, encoded, graphs, **settings)  # type: ignore[operator]
        assert find_hypotheses(scorer, encoded, own, graphs=graphs, unk_id=3) == [ranked[:3] for ranked in plain]
        found = find_hypotheses(scorer, encoded, own, graphs=graphs, unk_id=3, language_models=models)
        prior = WeightedPriors([(lm, 0.4), (ngram, -0.2)])
        assert found == [rescored_by_prior(ranked, prior)[:3] for ranked in plain]
        assert found != [ranked[:3] for ranked in plain]
        one = dataclasses.replace(own, num_best=1)
        assert find_hypotheses(scorer, encoded, one, graphs=graphs, unk_id=3, language_models=models) == [
            ranked[:1] for ranked in found
        ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"graph_beam_nats": 0.0}, "graph_beam_nats must be above 0 and finite"),
        ({"max_states": 0}, "max_states must be from 1 to 1000000, but is 0"),
        ({"max_contexts": 10**7}, "max_contexts must be from 1 to 1000000"),
        ({"method": "beam", "graph_beam_nats": 5.0}, "graph_beam_nats has no effect on the search beam"),
        ({"method": "ctc_graph", "max_contexts": 4}, "max_contexts has no effect on the search ctc_graph"),
        ({"method": "ctc_graph", "max_symbols_per_frame": 2}, "max_symbols_per_frame has no effect on the search ctc_graph"),
    ],
)
def test_settings_of_graphs_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**fields)
