"""Estimating n-grams. Reference: sums over dictionaries. Law: probabilities sum to 1. Contract: files, errors."""

import gzip
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lm.random_sentences import Sentences, zipf_sentences
from tests.lm.slow_ngram import Arpa, log_prob, parse
from zipasr.errors import ConfigError, DataError
from zipasr.lm.estimate import estimate_ngram

CORPORA = {
    "one word": [["a"]],
    "empty sentence": [[], ["a"]],
    "same again": [["a", "b", "a"]] * 5,
    "small": [["the", "cat", "sat"], ["the", "dog", "sat"], ["a", "cat", "ran", "the", "cat"]],
    "zipf": zipf_sentences(0),
}


def slow_kneser_ney(sentences: Sentences, order: int) -> dict[tuple[str, ...], float]:
    """Probabilities of every n-gram of the highest existing order and of all lower orders, by the textbook."""
    rows = [["<s>", *sentence, "</s>"] for sentence in sentences]
    raw = Counter(tuple(r[i : i + n]) for r in rows for n in range(1, order + 1) for i in range(len(r) - n + 1))
    longest = max(map(len, raw))
    raw.setdefault(("<unk>",), 0)
    adjusted = {}
    for gram in raw:
        if len(gram) == longest or gram[0] == "<s>":
            adjusted[gram] = raw[gram]
        else:
            adjusted[gram] = len({other[0] for other in raw if len(other) == len(gram) + 1 and other[1:] == gram})
    adjusted[("<s>",)] = 0
    vocabulary = [gram[0] for gram in raw if len(gram) == 1 and gram != ("<s>",)]

    def discount(n: int, count: int) -> float:
        n1, n2, n3, n4 = (sum(len(g) == n and adjusted[g] == k for g in adjusted) for k in (1, 2, 3, 4))
        values = [0.5, 1.0, 1.5]
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            formula = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            values = formula if min(formula) > 0 else values
        return [0.0, *values][min(count, 3)]

    def probability(gram: tuple[str, ...]) -> float:
        if not gram:
            return 1 / len(vocabulary)
        same = [g for g in adjusted if len(g) == len(gram) and g[:-1] == gram[:-1]]
        total = sum(adjusted[g] for g in same)
        gamma = sum(discount(len(gram), adjusted[g]) for g in same) / total
        own = adjusted[gram] - discount(len(gram), adjusted[gram])
        return own / total + gamma * probability(gram[1:])

    return {gram: probability(gram) for gram in adjusted if gram != ("<s>",)}


def histories(arpa: Arpa) -> list[tuple[str, ...]]:
    """Every n-gram that something can follow, and the empty one."""
    longest = max(map(len, arpa))
    return [(), *(gram for gram in arpa if len(gram) < longest and gram[-1] != "</s>")]


def sum_after(arpa: Arpa, history: tuple[str, ...]) -> float:
    vocabulary = [gram[0] for gram in arpa if len(gram) == 1 and gram != ("<s>",)]
    return sum(math.exp(log_prob(arpa, history, word)) for word in vocabulary)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", [name for name in CORPORA if name != "zipf"])
def test_equals_slow_code(tmp_path: Path, name: str, order: int) -> None:
    estimate_ngram(CORPORA[name], tmp_path / "a.arpa", order=order)
    arpa = parse(tmp_path / "a.arpa")
    slow = slow_kneser_ney(CORPORA[name], order)
    assert arpa.keys() - {("<s>",)} == slow.keys()
    for gram, probability in slow.items():
        assert math.exp(arpa[gram][0]) == pytest.approx(probability, rel=1e-5), gram


def test_equals_slow_code_where_the_formula_gives_the_discounts(tmp_path: Path) -> None:
    sentences = zipf_sentences(1, num=60, num_words=12)
    estimate_ngram(sentences, tmp_path / "a.arpa", order=2)
    arpa = parse(tmp_path / "a.arpa")
    for gram, probability in slow_kneser_ney(sentences, 2).items():
        assert math.exp(arpa[gram][0]) == pytest.approx(probability, rel=1e-5), gram


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", list(CORPORA))
def test_probabilities_after_each_history_sum_to_1(tmp_path: Path, name: str, order: int) -> None:
    counts = estimate_ngram(CORPORA[name], tmp_path / "a.arpa", order=order)
    arpa = parse(tmp_path / "a.arpa")
    assert counts == [sum(len(gram) == n for gram in arpa) for n in range(1, len(counts) + 1)]
    for history in histories(arpa)[:: 1 if name != "zipf" else 40]:
        assert sum_after(arpa, history) == pytest.approx(1.0, abs=1e-5), history


@settings(max_examples=30)
@given(
    sentences=st.lists(st.lists(st.sampled_from("abcde"), max_size=6), min_size=1, max_size=8).filter(any),
    order=st.integers(1, 4),
)
def test_any_text_gives_a_distribution(tmp_path_factory: pytest.TempPathFactory, sentences: Sentences, order: int) -> None:
    path = tmp_path_factory.mktemp("any") / "a.arpa"
    estimate_ngram(sentences, path, order=order)
    arpa = parse(path)
    for history in histories(arpa):
        assert sum_after(arpa, history) == pytest.approx(1.0, abs=1e-5), history


def test_longer_histories_help(tmp_path: Path) -> None:
    sentences = [["a", "b", "c"], ["d", "b", "e"]] * 10
    estimate_ngram(sentences, tmp_path / "a.arpa", order=3)
    arpa = parse(tmp_path / "a.arpa")
    assert log_prob(arpa, ["<s>", "a", "b"], "c") > -0.2 > -2 > log_prob(arpa, ["<s>", "d", "b"], "c")


def test_order_of_sentences_changes_nothing(tmp_path: Path) -> None:
    estimate_ngram(CORPORA["zipf"], tmp_path / "a.arpa", order=3)
    estimate_ngram(CORPORA["zipf"][::-1], tmp_path / "b.arpa.gz", order=3)
    assert (tmp_path / "a.arpa").read_bytes() == gzip.decompress((tmp_path / "b.arpa.gz").read_bytes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.arpa", "b.arpa.gz"]


def test_reserved_symbols_are_unknown_words(tmp_path: Path) -> None:
    estimate_ngram([["a", "</s>", "b"], ["#0"]], tmp_path / "a.arpa", order=2)
    estimate_ngram([["a", "<unk>", "b"], ["<unk>"]], tmp_path / "b.arpa", order=2)
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 to 9, but is 0"):
        estimate_ngram([["a"]], tmp_path / "a.arpa", order=0)
    for nothing in ([], [[], []]):
        with pytest.raises(DataError, match="there is no symbol; check the texts"):
            estimate_ngram(nothing, tmp_path / "a.arpa", order=2)
    with pytest.raises(DataError, match="without white space, but one is 'a b'"):
        estimate_ngram([["a b"]], tmp_path / "a.arpa", order=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="free some space"):
        estimate_ngram([["a"]], tmp_path / "file" / "a.arpa", order=2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.arpa").symlink_to(tmp_path / "model.arpa")
    estimate_ngram([["a", "b"]], tmp_path / "link.arpa", order=2)
    assert (tmp_path / "link.arpa").is_symlink() and (tmp_path / "model.arpa").read_text().startswith("\\data\\")
    assert len(list(tmp_path.iterdir())) == 2
