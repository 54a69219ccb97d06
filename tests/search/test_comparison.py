"""The comparison of searches. Reference: errors counted by hand on a model whose output is known. Contract: the printed
explanations."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.search.compared import CTC, GREEDY, SEVERAL, TOKENIZER, of
from tests.search.toy_scorer import ToyScorer
from zipasr.nn.encoded import Encoded
from zipasr.search import comparison
from zipasr.search.comparison import (
    SearchComparison,
    best_search,
    explain_differences,
    format_comparison,
    searches_to_compare,
)
from zipasr.search.edits import Errors, count_text_errors, error_rates
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.strategy import SearchConfig


def test_every_search_is_counted_over_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {GREEDY: ["LO", "HI"], CTC: ["LO MID", "UP HI"]}

    def find(scorer: Any, encoded: Encoded, searches: list[SearchConfig], **_: Any) -> Iterator[list[list[Hypothesis]]]:
        first = int(encoded.frames[0, 0, 0])
        for search in searches:
            texts = said[search][first : first + len(encoded.lens)]
            yield [[Hypothesis(tuple(TOKENIZER.encode(text)))] for text in texts]

    monkeypatch.setattr(comparison, "find_with_each", find)
    counted = SearchComparison(ToyScorer(5), TOKENIZER, [GREEDY, CTC])
    for i, reference in enumerate(["LO MID", "HI"]):
        counted.add(Encoded(torch.full((1, 1, 1), float(i)), torch.tensor([1])), [reference])
    greedy, ctc = counted.results()
    assert greedy.errors == error_rates([("LO MID", "LO"), ("HI", "HI")])
    assert ctc.errors == error_rates([("LO MID", "LO MID"), ("HI", "UP HI")])
    assert (greedy.wer, greedy.deletions) == pytest.approx((100 / 3, 100 / 3))
    counted.add_texts("UP DOWN", ["", ""])
    assert [result.errors.words.deletions for result in counted.results()] == [3, 2]


def test_characters_count_as_words_without_spaces() -> None:
    assert count_text_errors("天 地人", "天人", is_spaceless=True).words == Errors(0, 1, 0, 3)
    assert count_text_errors("天 地人", "天人").words == Errors(0, 1, 1, 2)


def test_the_best_has_the_fewest_word_errors_then_character_errors_then_comes_first() -> None:
    assert best_search([of(CTC, 5), of(GREEDY, 4)]).search == GREEDY
    assert best_search([of(CTC, 4, 9), of(GREEDY, 4, 8)]).search == GREEDY
    assert best_search([of(CTC, 4, 8), of(GREEDY, 4, 8)]).search == CTC


def test_what_is_compared_follows_from_the_heads() -> None:
    class Heads(ToyScorer):
        has_transducer, has_ctc, has_attention = True, False, True

    assert {search.method for search in searches_to_compare(Heads(5))} == {"greedy", "beam"}
    both = searches_to_compare(ToyScorer(5))
    assert {search.method for search in both} == {"greedy", "beam", "ctc_greedy", "ctc_beam", "joint"}
    assert [search.ctc_scale for search in both if search.method == "joint"] == [0.3, 1.0]
    assert [search.method for search in both if search.max_symbols_per_frame > 1] == ["greedy", "beam"]
    assert searches_to_compare(ToyScorer(5), lattice="regular") == both
    of_one_symbol = searches_to_compare(ToyScorer(5), lattice="modified")
    assert [search.method for search in of_one_symbol if search.max_symbols_per_frame > 1] == ["greedy"]
    assert [search for search in both if search not in of_one_symbol] == [dataclasses.replace(SEVERAL, method="beam")]
    with_ngram = searches_to_compare(ToyScorer(5), has_ngram=True)
    assert with_ngram[: len(both)] == both
    assert [str(search) for search in with_ngram[len(both) :]] == [
        "ctc_beam, ngram_scale 0.5",
        "beam, ngram_scale 0.5",
        "joint, ngram_scale 0.5",
        "joint, ctc_scale 1, ngram_scale 0.5",
    ]


def test_the_transducer_is_advised_unless_both_heads_are_better() -> None:
    (found,) = explain_differences([of(CTC, 30), of(GREEDY, 20), of(SearchConfig(method="joint"), 20)])
    assert "search with the transducer. Times of words come from the CTC head" in found
    (found,) = explain_differences([of(CTC, 30), of(GREEDY, 20), of(SearchConfig(method="joint"), 15)])
    assert "the transducer has 20.0 %: times of words come from the CTC head" in found


def test_bursts_are_explained_with_their_cure() -> None:
    (found,) = explain_differences([of(GREEDY, 30, deletions=20), of(SEVERAL, 5)], lattice="regular")
    assert "bursts" in found and "30.0 % WER (20.0 % deleted)" in found and "several a frame 5.0 %" in found
    assert "--max-symbols-per-frame 5" in found and "model.transducer.lattice=modified" in found
    (found,) = explain_differences([of(GREEDY, 30), of(SEVERAL, 5)], lattice="modified")
    assert "needs several symbols a frame" in found and "bursts" not in found and "lattice=" not in found


def test_differences_between_heads_are_explained() -> None:
    differing = [of(GREEDY, 30, deletions=12), of(SEVERAL, 30, deletions=12), of(CTC, 10)]
    (found,) = explain_differences(differing, lattice="regular")
    assert "the transducer head has 30.0 % WER (12.0 % deleted) where CTC has 10.0 %" in found
    assert "model.transducer.lattice=modified" in found
    (found,) = explain_differences(differing, lattice="modified")
    assert "Train longer" in found and "lattice=" not in found
    (found,) = explain_differences([of(GREEDY, 10), of(SEVERAL, 10), of(CTC, 30)])
    assert "the CTC head has 30.0 % WER where the transducer has 10.0 %" in found


@pytest.mark.parametrize(("worse", "better"), [(104, 100), (13, 9), (3, 0), (7, 7)])
def test_small_differences_say_nothing(worse: int, better: int) -> None:
    """Differences up to a tenth and five words may be chance, so nothing is reported."""
    assert explain_differences([of(GREEDY, worse, num_words=200), of(CTC, better, num_words=200)]) == []


def test_table_marks_the_chosen_search() -> None:
    table = format_comparison([of(CTC, 10, 20), of(SEVERAL, 4, 7, deletions=1)], SEVERAL, what="dev (7 utterances)")
    head, ctc, several = table.splitlines()
    assert head.startswith("search on dev (7 utterances)") and head.endswith("seconds")
    assert ctc.split() == ["ctc_greedy", "10.00", "0.00", "4.00", "0.25"]
    assert several.split() == ["*", "greedy,", "max_symbols_per_frame", "5", "4.00", "1.00", "1.40", "0.25"]
    assert len({len(line) for line in (head, ctc, several)}) == 1
