"""The default search of a model folder. Contract: it is stored, `auto` uses it, and a damaged file is refused."""

from pathlib import Path
from typing import Any

import pytest

from tests.search.compared import CTC, SEVERAL, of
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import Heads
from zipasr.errors import CheckpointError, ConfigError
from zipasr.search.default_search import SEARCH_FILE, read_default_search, write_default_search
from zipasr.search.strategy import LanguageModels, SearchConfig, resolve_search


def test_round_trip(tmp_path: Path) -> None:
    assert read_default_search(tmp_path) is None
    search = SearchConfig(method="beam", beam=8, max_symbols_per_frame=3, blank_penalty=0.5)
    path = write_default_search(tmp_path, search, [of(CTC, 10), of(search, 4)], chosen_on="dev (7 utterances)")
    assert path == tmp_path / SEARCH_FILE
    found = read_default_search(tmp_path)
    assert found is not None
    assert (found.search, found.chosen_on) == (search, "dev (7 utterances)")
    assert [(entry["method"], entry["wer"]) for entry in found.compared] == [("ctc_greedy", 10.0), ("beam", 4.0)]
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_measured_on_the_same_set_stays_with_a_tuned_search(tmp_path: Path) -> None:
    write_default_search(tmp_path, CTC, [of(CTC, 10), of(SEVERAL, 12)], chosen_on="dev")
    tuned = SearchConfig(method="ctc_beam", blank_penalty=1.0)
    write_default_search(tmp_path, tuned, [], chosen_on="dev")
    found = read_default_search(tmp_path)
    assert found is not None and found.search == tuned
    assert [entry["wer"] for entry in found.compared] == [10.0, 12.0]
    write_default_search(tmp_path, tuned, [], chosen_on="another set")
    found = read_default_search(tmp_path)
    assert found is not None and found.compared == ()
    (tmp_path / SEARCH_FILE).write_text("{")
    write_default_search(tmp_path, tuned, [], chosen_on="dev")
    assert read_default_search(tmp_path) is not None


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"search": {"method": "viterbi"}}', '{"search": 3}', "{}", '{"search": {"beem": 4}}', '{"search": {}'],
)
def test_damaged_file_names_the_cure(tmp_path: Path, content: str) -> None:
    (tmp_path / SEARCH_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"search\.json must name the default search.*zipasr evaluate"):
        read_default_search(tmp_path)


@pytest.mark.parametrize(
    ("asked", "default", "expected"),
    [
        ({}, {"method": "ctc_greedy"}, {"method": "ctc_greedy"}),
        ({}, {"method": "greedy", "max_symbols_per_frame": 5}, {"method": "greedy", "max_symbols_per_frame": 5}),
        ({"method": "beam"}, {"method": "ctc_greedy"}, {"method": "beam"}),
        ({"blank_penalty": 1.0}, {"method": "greedy"}, {"method": "greedy", "blank_penalty": 1.0}),
        ({"num_best": 3}, {"method": "ctc_greedy"}, {"method": "ctc_beam", "num_best": 3}),
        (
            {"beam": 8},
            {"method": "greedy", "max_symbols_per_frame": 5},
            {"method": "beam", "beam": 8, "max_symbols_per_frame": 5},
        ),
        ({"beam": 8}, {"method": "beam", "beam": 16}, {"method": "beam", "beam": 8}),
        (
            {"max_symbols_per_frame": 3},
            {"method": "ctc_beam", "blank_penalty": 2.0},
            {"method": "beam", "max_symbols_per_frame": 3},
        ),
    ],
)
def test_auto_follows_the_default_with_what_is_asked(
    asked: dict[str, Any], default: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = resolve_search(SearchConfig(**asked), Heads(), default=SearchConfig(**default))
    assert found == SearchConfig(**expected)


@pytest.mark.parametrize(("method", "with_beam"), [("greedy", "beam"), ("ctc_greedy", "ctc_beam"), ("beam", "beam")])
def test_auto_takes_the_beam_of_the_same_head_where_something_needs_it(method: Any, with_beam: str) -> None:
    default = SearchConfig(method=method)
    assert resolve_search(SearchConfig(), Heads(), has_hotwords=True, default=default).method == with_beam
    models = LanguageModels(ToyPrior(5))
    assert resolve_search(SearchConfig(), Heads(), language_models=models, default=default).method == with_beam


def test_default_that_the_heads_do_not_allow_is_passed_over() -> None:
    only_transducer = Heads(has_ctc=False)
    assert resolve_search(SearchConfig(), only_transducer, default=SearchConfig(method="ctc_greedy")).method == "beam"
    only_ctc = Heads(has_transducer=False)
    assert resolve_search(SearchConfig(), only_ctc, default=SEVERAL).method == "ctc_greedy"


def test_what_does_not_go_together_is_refused_all_the_same() -> None:
    with pytest.raises(ConfigError, match="attention_scale has no effect"):
        resolve_search(SearchConfig(attention_scale=2.0), Heads(), default=SearchConfig(method="beam"))


@pytest.mark.parametrize(
    ("asked", "default", "expected"),
    [
        ({"beam": 4}, {"method": "greedy"}, {"method": "beam"}),
        ({"beam": 4}, {"method": "beam", "beam": 16}, {"method": "beam"}),
        ({"ctc_scale": 0.3}, {"method": "beam"}, {"method": "joint"}),
        ({"max_symbols_per_frame": 1}, {"method": "ctc_greedy"}, {"method": "beam"}),
        ({"blank_penalty": 0.0}, {"method": "beam", "blank_penalty": 2.0}, {"method": "beam"}),
    ],
)
def test_explicit_fields_are_requested_whatever_their_value(
    asked: dict[str, Any], default: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = resolve_search(SearchConfig(**asked), Heads(), default=SearchConfig(**default), explicit=asked)
    assert found == SearchConfig(**expected)


def test_explicit_fields_must_have_an_effect() -> None:
    with pytest.raises(ConfigError, match="ctc_scale has no effect on the search beam"):
        resolve_search(SearchConfig(method="beam", ctc_scale=0.3), Heads(), explicit=["ctc_scale"])
    with pytest.raises(ConfigError, match="beam has no effect on the search greedy"):
        resolve_search(SearchConfig(method="greedy"), Heads(), explicit=["beam", "blank_penalty"])


@pytest.mark.parametrize("method", ["beam", "ctc_beam", "joint"])
def test_n_best_lists_widen_the_beam_of_the_default(method: Any) -> None:
    default = SearchConfig(method=method, beam=2)
    assert resolve_search(SearchConfig(num_best=4), Heads(), default=default).beam == 4
    assert resolve_search(SearchConfig(num_best=2), Heads(), default=default).beam == 2
    wide = SearchConfig(method=method, beam=16)
    assert resolve_search(SearchConfig(num_best=4), Heads(), default=wide).beam == 16


def test_a_beam_needs_a_beam_search_with_and_without_a_default() -> None:
    only_ctc = Heads(has_transducer=False)
    for default in (None, SearchConfig(method="ctc_greedy")):
        found = resolve_search(SearchConfig(beam=8), only_ctc, default=default)
        assert found == SearchConfig(method="ctc_beam", beam=8)


def test_the_ngram_of_the_texts_belongs_to_the_default() -> None:
    default = SearchConfig(method="joint", ngram_scale=0.5, blank_penalty=0.5)
    without = SearchConfig(method="joint", blank_penalty=0.5)
    own = LanguageModels(own=ToyPrior(5))
    assert resolve_search(SearchConfig(), Heads(), default=default, language_models=own) == default
    assert resolve_search(SearchConfig(), Heads(), default=default) == without  # its file is missing
    both = LanguageModels(ToyPrior(5), own=ToyPrior(5))
    assert resolve_search(SearchConfig(), Heads(), default=default, language_models=both) == without
    asked = SearchConfig(ngram_scale=0.3)
    assert resolve_search(asked, Heads(), default=default, language_models=both).ngram_scale == 0.3
    off = resolve_search(SearchConfig(), Heads(), default=default, language_models=own, explicit=["ngram_scale"])
    assert off == without
    greedy = SearchConfig(method="greedy")
    assert resolve_search(greedy, Heads(), default=default, language_models=own) == greedy
    assert resolve_search(asked, Heads(), default=greedy, language_models=own) == SearchConfig(
        method="beam", ngram_scale=0.3
    )
    with pytest.raises(ConfigError, match="but the model has none"):
        resolve_search(asked, Heads(), default=default)
    with pytest.raises(ConfigError, match="ngram_scale has no effect on the search greedy"):
        SearchConfig(method="greedy", ngram_scale=0.5)


def test_fields_as_usual_hold_where_they_are_explicit() -> None:
    default = SearchConfig(method="beam", beam=8, max_symbols_per_frame=5)
    assert default.reset([]) == default
    assert default.reset(["max_symbols_per_frame", "beam"]) == SearchConfig(method="beam")
    with pytest.raises(KeyError):
        default.reset(["beem"])
