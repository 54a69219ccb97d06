"""The n-gram of the training texts. Reference: the ARPA file of the same texts. Contract: the file, and damaged ones."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.lm.random_sentences import zipf_sentences
from tests.tiny_model import TEXTS, tiny_tokenizer
from zipasr.errors import CheckpointError, ConfigError, DataError
from zipasr.lm import (
    NGRAM_FILE,
    estimate_graph,
    estimate_ngram,
    load_language_model,
    load_token_ngram,
    ngram_of_texts,
    ngram_to_bytes,
    read_ngram,
    write_ngram,
)
from zipasr.lm.arpa import NgramGraph, read_arpa
from zipasr.lm.ngram import NgramModel
from zipasr.lm.training import train_ngram
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.model_file import table_model


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_graph_is_what_the_arpa_file_says(tmp_path: Path, order: int) -> None:
    sentences = zipf_sentences(1)
    counts = estimate_ngram(sentences, tmp_path / "x.arpa", order=order)
    graph, same_counts = estimate_graph(sentences, order=order)
    assert same_counts == counts
    expected, found = NgramModel(read_arpa(tmp_path / "x.arpa")), NgramModel(graph)
    assert len(found) == len(expected)
    generator = random.Random(0)
    symbols = [*found.known_symbols, "unknown"]
    others = [generator.choices(symbols, k=generator.randint(0, 8)) for _ in range(100)]
    for sentence in [*sentences[:50], *others]:
        assert found.sentence_log_prob(sentence) == pytest.approx(expected.sentence_log_prob(sentence), abs=1e-3)


def test_file_scores_labels_as_the_arpa_file_does(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    train_ngram([tmp_path / "texts.txt"], tokenizer, tmp_path / "x.arpa", order=4, unit="token")
    report = train_ngram([tmp_path / "texts.txt"], tokenizer, tmp_path / NGRAM_FILE, order=4, unit="token")
    assert report.model == tmp_path / NGRAM_FILE
    expected, found = load_token_ngram(tmp_path / "x.arpa", tokenizer), load_token_ngram(tmp_path / NGRAM_FILE, tokenizer)
    assert type(load_language_model(tmp_path / NGRAM_FILE, tokenizer)) is type(found)
    for text in TEXTS:
        states, totals = [expected.start(), found.start()], [0.0, 0.0]
        for label in tokenizer.encode(text):
            for i, prior in enumerate((expected, found)):
                ((states[i],), (score,)) = prior.extend([states[i]], [label])
                totals[i] += score
        assert totals[1] == pytest.approx(totals[0], abs=1e-3)


def test_it_needs_no_package_for_arpa_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipasr.lm.arpa.importlib.util.find_spec", lambda _: None)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    train_ngram([tmp_path / "texts.txt"], tiny_tokenizer(), tmp_path / NGRAM_FILE, order=3, unit="token")
    assert read_ngram(tmp_path / NGRAM_FILE, tiny_tokenizer()).model.known_symbols
    with pytest.raises(DataError, match="needs kaldilm"):
        train_ngram([tmp_path / "texts.txt"], tiny_tokenizer(), tmp_path / "x.arpa", order=3, unit="token")


def test_a_token_that_is_a_space_counts_as_unknown(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_bytes(table_model(["<blk>", "<unk>", " ", *"AB"]))
    write_ngram(ngram_of_texts(["A B", "B A"], tokenizer, order=2), tmp_path / NGRAM_FILE)
    prior = read_ngram(tmp_path / NGRAM_FILE, tokenizer)
    assert prior.model.known_symbols == ["A", "B"]
    _, scores = prior.extend([prior.start()] * 2, [2, 3])
    assert all(-5.0 < score < 0.0 for score in scores)


def test_other_pieces_are_refused_and_few_are_enough(tmp_path: Path) -> None:
    write_ngram(ngram_of_texts(TEXTS[:1], tiny_tokenizer(), order=2), tmp_path / NGRAM_FILE)
    known = read_ngram(tmp_path / NGRAM_FILE, tiny_tokenizer()).model.known_symbols
    assert 0 < len(known) < len(tiny_tokenizer().pieces) - 3
    other = Tokenizer.train([TEXTS[0].lower()], kind="char", vocab_size=None)
    for read in (read_ngram, load_language_model, load_token_ngram):
        with pytest.raises(
            ConfigError, match=r"ngram\.safetensors must hold the recognizer's pieces, but holds .*make it for"
        ):
            read(tmp_path / NGRAM_FILE, other)


def test_words_have_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"of words is an ARPA file, .*; end it in \.arpa, or use --unit token"):
        train_ngram([], tiny_tokenizer(), tmp_path / NGRAM_FILE, order=3, unit="word")


def graph() -> NgramGraph:
    return ngram_of_texts(TEXTS, tiny_tokenizer(), order=3)


def changed(**fields: Callable[[Any], Any]) -> bytes:
    known = graph()
    return ngram_to_bytes(known._replace(**{name: change(getattr(known, name).copy()) for name, change in fields.items()}))


def with_first(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.concatenate([np.array([value], array.dtype), array[1:]])


def without_a_unigram(known: NgramGraph) -> NgramGraph:
    """Without the first unigram of a symbol that longer n-grams end in."""
    is_unigram, symbols = known.arc_keys < len(known.symbols), known.arc_keys % len(known.symbols)
    first = int(np.flatnonzero(is_unigram & np.isin(symbols, symbols[~is_unigram]))[0])
    kept = np.arange(len(symbols)) != first
    return known._replace(
        arc_keys=known.arc_keys[kept], arc_targets=known.arc_targets[kept], arc_scores=known.arc_scores[kept]
    )


DAMAGED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "cut short": lambda: ngram_to_bytes(graph())[:-100],
    "no symbols": lambda: safetensors.numpy.save({"arc_keys": np.zeros(3, np.int64)}),
    "another length": lambda: changed(arc_scores=lambda array: array[:-1]),
    "another type": lambda: changed(arc_targets=lambda array: array.astype(np.int64)),
    "arcs out of order": lambda: changed(arc_keys=lambda array: array[::-1]),
    "a state that does not exist": lambda: changed(arc_targets=with_first(10**6)),
    "a negative state": lambda: changed(arc_targets=with_first(-1)),
    "a circle of histories": lambda: changed(backoff_targets=lambda array: np.arange(len(array), dtype=array.dtype)),
    "a score that is not finite": lambda: changed(arc_scores=with_first(np.nan)),
    "a symbol without unigram": lambda: ngram_to_bytes(without_a_unigram(graph())),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / NGRAM_FILE).write_bytes(DAMAGED[name]())
    with pytest.raises(CheckpointError, match=r"ngram\.safetensors must hold the n-gram model .*copy the model's folder"):
        read_ngram(tmp_path / NGRAM_FILE, tiny_tokenizer())


def test_a_file_that_is_missing_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_ngram(tmp_path / NGRAM_FILE, tiny_tokenizer())
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_ngram(graph(), tmp_path / "file" / NGRAM_FILE)
    with pytest.raises(DataError, match="must be sentences"):
        ngram_of_texts([], tiny_tokenizer(), order=3)
