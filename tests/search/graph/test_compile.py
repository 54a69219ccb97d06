"""Reference: the compiled graph says what all paths of the word graph say, spelled by the tokenizer, with the same scores;
and the same for n-gram models and all ways to back off. Contract: bad graphs and files are refused."""

import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.lm.random_sentences import zipf_sentences
from tests.lm.slow_ngram import Arpa, parse
from tests.lm.slow_ngram import sentence_log_prob as arpa_log_prob
from tests.search.graph.paths import Said, Scores, random_word_graph, scores_of_tokens, scores_of_words
from tests.search.graph.vocabularies import VOCABULARIES
from zipasr.errors import ConfigError, DataError
from zipasr.lm.estimate import estimate_ngram
from zipasr.search.graph import NO_TOKEN, Lexicon, TokenGraph, WordArc, WordGraph, compile_ngram, compile_words
from zipasr.search.graph.spelled_arcs import logger as arcs_logger
from zipasr.search.graph.token_graph import empty_cycle
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.vocabulary import PieceList

MAX_ARCS = 6
BPE = VOCABULARIES["bpe"].tokenizer


def sentence_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[int, ...]:
    """The tokens of a whole sentence by the tokenizer."""
    return tuple(tokenizer.encode(tokenizer.word_joiner.join(words)))


def assert_equal(found: Scores, expected: Scores) -> None:
    assert found.keys() == expected.keys()
    for said, score in expected.items():
        assert found[said] == pytest.approx(score, abs=1e-3), said


def assert_has_no_arc_for_nothing(graph: TokenGraph) -> None:
    """No arc without a token and an output is left, and no two arcs of a state say the same."""
    sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
    assert not ((graph.tokens == NO_TOKEN) & (graph.output_symbols == 0)).any()
    says = np.stack([sources, graph.tokens, graph.output_symbols])
    assert np.unique(says, axis=1).shape[1] == graph.num_arcs


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("seed", range(12))
def test_it_says_what_the_word_graph_says(kind: str, seed: int) -> None:
    tokenizer, words = VOCABULARIES[kind]
    words_graph = random_word_graph(seed, words, has_loops=False)
    graph = compile_words(words_graph, tokenizer)
    expected = scores_of_words(words_graph, lambda said: [sentence_tokens(tokenizer, said)], MAX_ARCS)
    assert_equal(scores_of_tokens(graph, 60), expected)
    assert_has_no_arc_for_nothing(graph)


@pytest.mark.parametrize("kind", ["bpe", "spaceless", "spaced characters", "Chinese and English"])
@pytest.mark.parametrize("seed", range(100, 108))
def test_loops_say_what_the_word_graph_says(kind: str, seed: int) -> None:
    tokenizer, words = VOCABULARIES[kind]
    words_graph = random_word_graph(seed, words, num_states=3, num_arcs=6, has_loops=True)
    graph = compile_words(words_graph, tokenizer)
    # A path of more arcs than these has more tokens, since at most two arcs in a row have no word.
    max_tokens = 2
    expected = scores_of_words(words_graph, lambda said: [sentence_tokens(tokenizer, said)], 3 * max_tokens + 2)
    expected = {said: score for said, score in expected.items() if len(said.tokens) <= max_tokens}
    assert_equal(scores_of_tokens(graph, max_tokens), expected)


@pytest.mark.parametrize("seed", range(200, 206))
def test_every_spelling_of_a_lexicon_is_a_path(seed: int) -> None:
    tokens = [id for id in range(BPE.vocab_size) if id not in BPE.special_ids and id != BPE.unk_id][:4]
    spellings = {"one": [tuple(tokens[:1]), tuple(tokens[:2])], "two": [tuple(tokens[1:3])], "too": [tuple(tokens[1:3])]}
    words_graph = random_word_graph(seed, tuple(spellings), has_loops=False)

    def spell(words: Sequence[str]) -> list[tuple[int, ...]]:
        spelled: list[tuple[int, ...]] = [()]
        for word in words:
            spelled = [(*before, *spelling) for before in spelled for spelling in spellings[word]]
        return spelled

    graph = compile_words(words_graph, BPE, lexicon=Lexicon(BPE, spellings))
    assert_equal(scores_of_tokens(graph, 60), scores_of_words(words_graph, spell, MAX_ARCS))


def test_homographs_keep_their_outputs() -> None:
    arcs = (WordArc(0, 1, "LIGHT", "{noun}", -1.0), WordArc(0, 1, "LIGHT", "{adjective}", -2.0), WordArc(0, 1, "light"))
    graph = compile_words(WordGraph(arcs, {1: 0.0}), BPE)
    tokens = sentence_tokens(BPE, ["LIGHT"])
    expected = {("LIGHT", "{noun}"): -1.0, ("LIGHT", "{adjective}"): -2.0, ("light",): 0.0}
    assert_equal(scores_of_tokens(graph, 60), {(tokens, outputs): score for outputs, score in expected.items()})


def test_equal_beginnings_are_one_path() -> None:
    phrases = ["TURN ON THE LIGHT", "TURN ON THE LIGHTS", "TURN OFF THE LIGHT", "TURN OFF THE LIGHTS"]
    arcs, num_states = [], 2
    for phrase in phrases:
        words = phrase.split()
        states = [0, *range(num_states, num_states + len(words) - 1), 1]
        num_states += len(words) - 1
        arcs += [WordArc(a, b, word) for (a, b), word in zip(itertools.pairwise(states), words, strict=True)]
    graph = compile_words(WordGraph(tuple(arcs), {1: 0.0}), BPE)
    expected = {(sentence_tokens(BPE, phrase.split()), tuple(phrase.split())): 0.0 for phrase in phrases}
    assert_equal(scores_of_tokens(graph, 60), expected)
    # LIGHT ends in an arc that puts it out, LIGHTS goes on without; else no two arcs of a state have one token.
    sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
    pairs = set(zip(sources.tolist(), graph.tokens.tolist(), strict=True))
    assert graph.num_arcs - len(pairs) <= 1
    one_phrase = compile_words(WordGraph(tuple(arcs[:4]), {1: 0.0}), BPE)
    assert graph.num_states < 2 * one_phrase.num_states


def test_loops_without_a_deterministic_form_still_say_the_same(caplog: pytest.LogCaptureFixture) -> None:
    # Two loops over the same word with different scores, told apart only by the word after them.
    arcs = (
        *(WordArc(0, state) for state in (1, 2)),
        WordArc(1, 1, "ON", None, -1.0),
        WordArc(2, 2, "ON", None, -2.0),
        WordArc(1, 3, "OFF", None, -9.0),
        WordArc(2, 3, "LIGHT"),
    )
    words_graph = WordGraph(arcs, {3: 0.0})
    with caplog.at_level("WARNING", logger=arcs_logger.name):
        graph = compile_words(words_graph, BPE)
    assert "has no deterministic form" in caplog.text
    expected = scores_of_words(words_graph, lambda said: [sentence_tokens(BPE, said)], 8)
    expected = {said: score for said, score in expected.items() if len(said.tokens) <= 5}
    assert_equal(scores_of_tokens(graph, 5), expected)


def test_loops_for_nothing_vanish() -> None:
    arcs = (WordArc(0, 1, None, None, -1.0), WordArc(1, 0, None, None, -1.0), WordArc(1, 2, "ON"), WordArc(2, 1))
    words_graph = WordGraph(arcs, {2: -0.5})
    graph = compile_words(words_graph, BPE)
    assert empty_cycle(graph) is None
    expected = scores_of_words(words_graph, lambda said: [sentence_tokens(BPE, said)], 9)
    most = 2 * len(BPE.encode("ON"))
    assert_equal(scores_of_tokens(graph, most), {said: s for said, s in expected.items() if len(said.tokens) <= most})


def test_words_are_spelled_in_the_case_of_the_vocabulary() -> None:
    graph = compile_words(WordGraph((WordArc(0, 1, "light"),), {1: 0.0}), BPE)
    assert_equal(scores_of_tokens(graph, 60), {(tuple(BPE.encode("LIGHT")), ("light",)): 0.0})


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (WordGraph((), {}), "must have a path from its start to a final state, but has none"),
        (WordGraph((WordArc(0, 1, "ON"),), {2: 0.0}), "must have a path from its start to a final state, but has none"),
        (WordGraph((WordArc(0, 1, "ON", None, -math.inf),), {1: 0.0}), "must have a path"),
        (WordGraph((WordArc(0, 1, "ON"), WordArc(0, 1, "42")), {1: 0.0}), "it cannot write '42'; write them"),
        (WordGraph((WordArc(0, 1, "ON"), WordArc(1, 0, None, "{x}"), WordArc(0, 1)), {1: 0.0}), "without any puts out {x}"),
        (WordGraph((WordArc(0, 0, None, None, 0.5),), {0: 0.0}), "without any gains 0.5 nats"),
    ],
)
def test_graphs_that_cannot_be_compiled_are_refused(graph: WordGraph, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compile_words(graph, BPE)


def test_tags_between_loops_are_allowed() -> None:
    arcs = (WordArc(0, 0, "ON"), WordArc(0, 1, None, "{x}"), WordArc(1, 1, "OFF"))
    graph = compile_words(WordGraph(arcs, {1: 0.0}), BPE)
    assert scores_of_tokens(graph, 0) == {((), ("{x}",)): 0.0}


def test_without_kaldifst_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaldifst", None)
    with pytest.raises(ConfigError, match=r'pip install "zipasr\[graph\]"'):
        compile_words(WordGraph((WordArc(0, 1, "ON"),), {1: 0.0}), BPE)


# n-gram models


def best_score(arpa: Arpa, words: Sequence[str], order: int) -> float:
    """The best score of a sentence over all ways to back off: by the n-gram where it exists, or by a shorter history."""

    def follow(history: tuple[str, ...], rest: tuple[str, ...]) -> float:
        if not rest:
            return 0.0
        scores = []
        if (ngram := (*history, rest[0])) in arpa:
            after = ngram[max(0, len(ngram) - order + 1) :]
            while after and after not in arpa:
                after = after[1:]
            scores.append(arpa[ngram][0] + follow(after, rest[1:]))
        if history:
            scores.append(arpa[history][1] + follow(history[1:], rest))
        return max(scores)

    return follow(("<s>",) if order > 1 else (), (*words, "</s>"))


CHARACTERS = Tokenizer.train(["w0 w1 w2 w3"], kind="char", vocab_size=None)


def write_ngram(folder: Path, order: int) -> Path:
    estimate_ngram(zipf_sentences(0, num=60, num_words=4), folder / "a.arpa", order=order)
    return folder / "a.arpa"


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_an_ngram_model_scores_by_the_best_way_to_back_off(tmp_path: Path, order: int, scale: float) -> None:
    path = write_ngram(tmp_path, order)
    graph, arpa = compile_ngram(path, CHARACTERS, scale=scale), parse(path)
    assert empty_cycle(graph) is None
    words = ["w0", "w1", "w2", "w3"]
    sentences = [said for num in range(4) for said in itertools.product(words, repeat=num)]
    expected = {(sentence_tokens(CHARACTERS, said), said): scale * best_score(arpa, said, order) for said in sentences}
    assert_equal(scores_of_tokens(graph, 3 * len(CHARACTERS.encode("w0"))), expected)
    for said in sentences:
        assert best_score(arpa, said, order) >= arpa_log_prob(arpa, said) - 1e-6


def test_an_ngram_model_with_words_that_start_differently(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_bytes(PieceList(pieces=["<blk>", "<unk>", "▁", *"w0123"], cut="spaced characters").to_bytes())
    path = write_ngram(tmp_path, 2)
    graph, arpa = compile_ngram(path, tokenizer), parse(path)
    words = ["w0", "w1", "w2", "w3"]
    sentences = [said for num in range(3) for said in itertools.product(words, repeat=num)]
    expected = {(sentence_tokens(tokenizer, said), said): best_score(arpa, said, 2) for said in sentences}
    assert_equal(scores_of_tokens(graph, 5), expected)


def test_an_ngram_model_of_tokens_puts_out_nothing(tmp_path: Path) -> None:
    texts = [
        [CHARACTERS.pieces[i] for i in CHARACTERS.encode(" ".join(said))] for said in zipf_sentences(0, num=60, num_words=4)
    ]
    estimate_ngram(texts, tmp_path / "tokens.arpa", order=2)
    graph, arpa = compile_ngram(tmp_path / "tokens.arpa", CHARACTERS), parse(tmp_path / "tokens.arpa")
    ids = [CHARACTERS.pieces.index(piece) for piece in "▁w01"]
    sequences = [said for num in range(4) for said in itertools.product(ids, repeat=num)]
    found = scores_of_tokens(graph, 3)
    for said in sequences:
        score = best_score(arpa, [CHARACTERS.pieces[i] for i in said], 2)
        assert found[Said(said, ())] == pytest.approx(score, abs=1e-3)
    with pytest.raises(ConfigError, match="must be of words for a lexicon to have an effect"):
        compile_ngram(tmp_path / "tokens.arpa", CHARACTERS, lexicon=Lexicon(CHARACTERS))


def test_words_that_the_model_cannot_write_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_ngram(tmp_path, 2)
    some = Tokenizer.train(["w0 w1 w2"], kind="char", vocab_size=None)
    with caplog.at_level("WARNING"):
        graph = compile_ngram(path, some)
    assert "1 of 4 words are left out, since the model cannot write them: w3" in caplog.text
    assert graph.symbols == ("", "w0", "w1", "w2")
    arpa = parse(path)
    found = scores_of_tokens(graph, 6)
    for said in itertools.product(["w0", "w1", "w2"], repeat=2):
        assert found[Said(sentence_tokens(some, said), said)] == pytest.approx(best_score(arpa, said, 2), abs=1e-3)
    few = Tokenizer.train(["w0"], kind="char", vocab_size=None)
    with pytest.raises(ConfigError, match="of 4 it cannot write 3, such as w1, w2, w3"):
        compile_ngram(path, few)


@pytest.mark.filterwarnings("error")
def test_an_ngram_model_with_scale_0_only_says_what_may_be_said(tmp_path: Path) -> None:
    graph = compile_ngram(write_ngram(tmp_path, 2), CHARACTERS, scale=0.0)
    allowed = compile_ngram(write_ngram(tmp_path, 2), CHARACTERS)
    length = len(CHARACTERS.encode("w0"))
    assert scores_of_tokens(graph, length) == dict.fromkeys(scores_of_tokens(allowed, length), 0.0)


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_scales_that_mean_nothing_are_refused(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ConfigError, match="the scale of an n-gram model must be 0 or more"):
        compile_ngram(write_ngram(tmp_path, 1), CHARACTERS, scale=scale)


def test_an_ngram_model_without_the_end_of_sentences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-99\t<s>\n-0.5\tw0\n\n\\end\\\n")
    with pytest.raises(ConfigError, match="must say how probable the end of a sentence is"):
        compile_ngram(tmp_path / "a.arpa", CHARACTERS)


def test_a_damaged_ngram_model_is_refused(tmp_path: Path) -> None:
    path = write_ngram(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError):
        compile_ngram(path, CHARACTERS)
