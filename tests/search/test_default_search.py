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


def test_a_search_of_whole_utterances_names_another_for_streams(tmp_path: Path) -> None:
    joint = SearchConfig(method="joint", ctc_scale=1.0)
    write_default_search(tmp_path, joint, [of(SEVERAL, 12), of(CTC, 10), of(joint, 4)], chosen_on="dev")
    found = read_default_search(tmp_path)
    assert found is not None
    assert (found.search, found.streaming) == (joint, CTC)
    write_default_search(tmp_path, CTC, [of(SEVERAL, 12), of(CTC, 10)], chosen_on="dev")
    found = read_default_search(tmp_path)
    assert found is not None and found.streaming is None
    assert "streaming" not in found.to_dict()


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


def test_streams_follow_it_too_but_for_rescoring() -> None:
    assert resolve_search(SearchConfig(), Heads(), default=SEVERAL, is_streaming=True) == SEVERAL
    rescoring = SearchConfig(method="attention_rescoring", attention_scale=2.0)
    found = resolve_search(SearchConfig(), Heads(has_attention=True), default=rescoring, is_streaming=True)
    assert found == SearchConfig(method="ctc_beam")
    wide = SearchConfig(method="attention_rescoring", beam=100)
    assert resolve_search(SearchConfig(), Heads(has_attention=True), default=wide, is_streaming=True) == found
    asked = resolve_search(SearchConfig(beam=8), Heads(has_attention=True), default=wide, is_streaming=True)
    assert asked == SearchConfig(method="ctc_beam", beam=8)


def test_fields_as_usual_hold_where_they_are_explicit() -> None:
    default = SearchConfig(method="beam", beam=8, max_symbols_per_frame=5)
    assert default.reset([]) == default
    assert default.reset(["max_symbols_per_frame", "beam"]) == SearchConfig(method="beam")
    with pytest.raises(KeyError):
        default.reset(["beem"])
