"""N-gram priors. Reference: a dictionary and a recursion. Law: scoring label by label equals scoring the whole; batching
changes nothing. Contract: how the kind of a file is detected, and what is refused."""

import math
from pathlib import Path

import pytest

from tests.lm.slow_ngram import Arpa, parse, sentence_log_prob
from tests.tiny_model import tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.lm import TokenNgram, WordNgram, load_ngram, load_token_ngram
from zipasr.lm.estimate import estimate_ngram
from zipasr.lm.ngram import UNKNOWN_LOG_PROB
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.training import train_model

TEXTS = ["THE QUICK BROWN FOX", "THE LAZY DOG", "THE QUICK DOG JUMPS OVER THE LAZY FOX", "FIVE DOZEN JUGS", "ONE TWO"]
SCORED_TEXTS = [*TEXTS, "", "FOX", "THE FOX QUICK", "DOG DOG ZEBRA", "OVER OVER OVER", "BOX THE"]


@pytest.fixture(scope="module")
def tokens_arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer, path = tiny_tokenizer(), tmp_path_factory.mktemp("lm") / "tokens.arpa"
    estimate_ngram([[tokenizer.pieces[i] for i in tokenizer.encode(text)] for text in TEXTS], path, order=3)
    return path


@pytest.fixture(scope="module")
def words_arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "words.arpa.gz"
    estimate_ngram([text.split() for text in TEXTS], path, order=3)
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Arpa:
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    estimate_ngram([text.split() for text in TEXTS], path, order=3)
    return parse(path)


def score(prior: TokenNgram | WordNgram, labels: list[int]) -> float:
    """The score of the labels one by one and of the end."""
    state, total = prior.start(), 0.0
    for label in labels:
        (state,), (added,) = prior.extend([state], [label])
        total += added
    return total + prior.finish([state])[0]


def test_tokens_equal_the_whole_sequence_without_its_end(tokens_arpa: Path) -> None:
    tokenizer, prior, arpa = tiny_tokenizer(), load_ngram(tokens_arpa, tiny_tokenizer()), parse(tokens_arpa)
    assert isinstance(prior, TokenNgram)
    for text in SCORED_TEXTS:
        labels = tokenizer.encode(text)
        pieces = [tokenizer.pieces[label] for label in labels]
        assert score(prior, labels) == pytest.approx(sentence_log_prob(arpa, pieces, has_end=False), abs=1e-4)


def test_words_equal_the_whole_sentence(words_arpa: Path, words: Arpa) -> None:
    tokenizer, prior = tiny_tokenizer(), load_ngram(words_arpa, tiny_tokenizer())
    assert isinstance(prior, WordNgram)
    for text in SCORED_TEXTS:
        assert score(prior, tokenizer.encode(text)) == pytest.approx(sentence_log_prob(words, text.split()), abs=1e-4), text


@pytest.mark.parametrize("kind", ["char", "unigram"])
def test_words_do_not_depend_on_the_pieces(words_arpa: Path, words: Arpa, kind: str) -> None:
    tokenizer = Tokenizer.train(SCORED_TEXTS, kind=kind, vocab_size=None if kind == "char" else 40)
    prior = load_ngram(words_arpa, tokenizer)
    assert isinstance(prior, WordNgram)
    for text in SCORED_TEXTS:
        assert score(prior, tokenizer.encode(text)) == pytest.approx(sentence_log_prob(words, text.split()), abs=1e-4), text


def test_words_are_scored_when_the_next_starts(words_arpa: Path, words: Arpa) -> None:
    tokenizer = Tokenizer.train(SCORED_TEXTS, kind="char", vocab_size=None)
    prior = load_ngram(words_arpa, tokenizer)
    state, added = prior.start(), []
    for label in tokenizer.encode("THE FOX"):
        (state,), scores = prior.extend([state], [label])
        added += scores
    expected = [0.0] * 8
    expected[4] = sentence_log_prob(words, ["THE"], has_end=False)
    assert added == pytest.approx(expected, abs=1e-5)


def test_stray_spaces_and_unknown_labels(words_arpa: Path, words: Arpa) -> None:
    tokenizer = Tokenizer.train(SCORED_TEXTS, kind="char", vocab_size=None)
    prior = load_ngram(words_arpa, tokenizer)
    space, fox = tokenizer.pieces.index("▁"), tokenizer.encode("FOX")[1:]
    plain = score(prior, [space, *fox])
    assert score(prior, fox) == pytest.approx(plain)
    assert score(prior, [space, space, *fox, space]) == pytest.approx(plain)
    assert score(prior, []) == score(prior, [space]) == pytest.approx(sentence_log_prob(words, []), abs=1e-5)
    unknown = sentence_log_prob(words, ["<unk>"])
    assert score(prior, [space, tokenizer.unk_id]) == pytest.approx(unknown, abs=1e-5)
    assert score(prior, [space, *fox, tokenizer.unk_id]) == pytest.approx(unknown, abs=1e-5)


@pytest.mark.parametrize("name", ["tokens_arpa", "words_arpa"])
def test_batching_changes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer, prior = tiny_tokenizer(), load_ngram(request.getfixturevalue(name), tiny_tokenizer())
    rows = [tokenizer.encode(text) for text in SCORED_TEXTS]
    alone = [score(prior, row) for row in rows]
    states, totals = [prior.start() for _ in rows], [0.0] * len(rows)
    for t in range(max(map(len, rows))):
        live = [i for i, row in enumerate(rows) if t < len(row)]
        after, added = prior.extend([states[i] for i in live], [rows[i][t] for i in live])
        for i, state, more in zip(live, after, added, strict=True):
            states[i], totals[i] = state, totals[i] + more
    assert [a + b for a, b in zip(totals, prior.finish(states), strict=True)] == pytest.approx(alone)
    assert prior.extend([], []) == ([], []) and prior.finish([]) == []


def test_without_unk_the_stated_penalty(words_arpa: Path, tmp_path: Path) -> None:
    text = "\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.5 </s>\n-0.5 FOX\n\n\\end\\\n"
    (tmp_path / "a.arpa").write_text(text)
    labels, end = tiny_tokenizer().encode("DOG"), -0.5 * math.log(10)
    prior = load_ngram(tmp_path / "a.arpa", tiny_tokenizer())
    assert score(prior, labels) == pytest.approx(UNKNOWN_LOG_PROB + end)
    milder = load_ngram(tmp_path / "a.arpa", tiny_tokenizer(), unknown_log_prob=-5.0)
    assert score(milder, labels) == pytest.approx(-5.0 + end)


def test_without_end_it_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-99 <s>\n-0.5 FOX\n\n\\end\\\n")
    prior = load_ngram(tmp_path / "a.arpa", tiny_tokenizer())
    assert score(prior, tiny_tokenizer().encode("FOX")) == pytest.approx(-0.5 * math.log(10), abs=1e-5)


def test_characters_without_spaces(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["你好世界", "世界你好", "再见"], kind="spaceless", vocab_size=None)
    estimate_ngram([list("你好世界"), list("再见")], tmp_path / "a.arpa", order=2)
    prior = load_ngram(tmp_path / "a.arpa", tokenizer)
    assert isinstance(prior, TokenNgram)
    whole = sentence_log_prob(parse(tmp_path / "a.arpa"), list("你好"), has_end=False)
    assert score(prior, tokenizer.encode("你好")) == pytest.approx(whole, abs=1e-5)
    estimate_ngram([["你好", "世界"]], tmp_path / "b.arpa", order=2)
    with pytest.raises(ConfigError, match="2 of 2 symbols that are none: 世界, 你好; make it for this tokenizer"):
        load_ngram(tmp_path / "b.arpa", tokenizer)
    with pytest.raises(ConfigError, match="needs a tokenizer with spaces"):
        WordNgram(prior.model, tokenizer)


def test_files_for_another_recognizer_are_refused(words_arpa: Path, tokens_arpa: Path, tmp_path: Path) -> None:
    lower = Tokenizer.train([text.lower() for text in TEXTS], kind="char", vocab_size=None)
    with pytest.raises(ConfigError, match=r"holds 13 of 13 that it cannot, such as BROWN, .*; in lower case it could"):
        load_ngram(words_arpa, lower)
    with pytest.raises(ConfigError, match=r"symbols that are none: .*; make it for this tokenizer"):
        load_ngram(tokens_arpa, lower)
    estimate_ngram([["слово", "дело"]], tmp_path / "a.arpa", order=1)
    with pytest.raises(ConfigError, match="the recognizer's own writing"):
        load_ngram(tmp_path / "a.arpa", lower)
    estimate_ngram([["<unk>"]], tmp_path / "a.arpa", order=1)
    with pytest.raises(ConfigError, match="special symbols only"):
        load_ngram(tmp_path / "a.arpa", lower)
    with pytest.raises(ConfigError, match=r"pieces, but .* is one of words .*zipasr train-lm"):
        load_token_ngram(words_arpa, tiny_tokenizer())
    assert isinstance(load_token_ngram(tokens_arpa, tiny_tokenizer()), TokenNgram)


@pytest.mark.parametrize(("learned", "written"), [("IT'S", "IT’S"), ("IT’S", "IT'S"), ("CAFÉ", "CAFE\u0301")])
def test_words_are_found_in_every_spelling(tmp_path: Path, learned: str, written: str) -> None:
    tokenizer = Tokenizer.from_bytes(train_model([f"{learned} A"], "char", 4 + len(set(learned + "A"))))
    estimate_ngram([[written, "A"], [written]], tmp_path / "a.arpa", order=2)
    prior, arpa = load_ngram(tmp_path / "a.arpa", tokenizer), parse(tmp_path / "a.arpa")
    expected = pytest.approx(sentence_log_prob(arpa, [written, "A"]), abs=1e-4)
    assert score(prior, tokenizer.encode(f"{written} A")) == score(prior, tokenizer.encode(f"{learned} A")) == expected
