"""Hotwords. Reference: the best set of non-overlapping phrases, found by trying all; what a state keeps when it fails, by
trying all of its suffixes. Law: `bonus_V` equals `extend` for every label; unfinished phrases add nothing. Contract: the
file, errors that name the phrase."""

import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.toy_scorer import ToyScorer, toy_encoded
from tests.tiny_model import tiny_tokenizer
from tests.tokenizer.published import write_scores
from zipasr.errors import ConfigError
from zipasr.search.beam import modified_beam_search
from zipasr.search.greedy import greedy_search
from zipasr.search.hotwords import Hotword, HotwordGraph, HotwordState, encode_hotwords, is_writable, read_hotwords
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.prior import WeightedPriors
from zipasr.tokenizer import Tokenizer

Phrases = list[tuple[int, ...]]
PHRASES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4, unique=True)


def total(graph: HotwordGraph, ids: list[int]) -> float:
    """The total bonus that the graph gives a whole sequence."""
    state, score = graph.start(), 0.0
    for label in ids:
        (state,), (step,) = graph.extend([state], [label])
        score += step
    return score + graph.finish([state])[0]


def occurrences(phrases: Phrases, ids: list[int], starts_word: list[bool] | None = None) -> list[tuple[int, int]]:
    """Positions of whole phrases, as (start, end)."""
    found = []
    for phrase in phrases:
        for i in range(len(ids) - len(phrase) + 1):
            end = i + len(phrase)
            is_whole = starts_word is None or end == len(ids) or starts_word[ids[end]]
            if tuple(ids[i:end]) == phrase and is_whole:
                found.append((i, end))
    return found


def best_cover(spans: list[tuple[int, int]]) -> int:
    """The largest number of labels that non-overlapping phrases can cover."""
    best = 0
    for size in range(len(spans) + 1):
        for chosen in itertools.combinations(sorted(spans), size):
            if all(a[1] <= b[0] for a, b in itertools.pairwise(chosen)):
                best = max(best, sum(end - start for start, end in chosen))
    return best


@settings(deadline=None, max_examples=300)
@given(phrases=PHRASES, ids=st.lists(st.integers(0, 3), max_size=9))
def test_a_sequence_gets_what_its_phrases_are_worth(phrases: Phrases, ids: list[int]) -> None:
    """The bonus never exceeds that of the best choice of phrases, and equals it where no two phrases overlap."""
    graph = HotwordGraph([(phrase, 1.0) for phrase in phrases])
    spans = occurrences(phrases, ids)
    score = total(graph, ids)
    assert -1e-9 <= score <= best_cover(spans) + 1e-9
    if all(a[1] <= b[0] or b[1] <= a[0] for a, b in itertools.combinations(spans, 2)):
        assert score == pytest.approx(sum(end - start for start, end in spans))
    assert (score > 0) == bool(spans)


@settings(deadline=None, max_examples=200)
@given(phrases=PHRASES, ids=st.lists(st.integers(0, 3), max_size=9), begins=st.lists(st.booleans(), min_size=4, max_size=4))
def test_only_whole_words_count(phrases: Phrases, ids: list[int], begins: list[bool]) -> None:
    graph = HotwordGraph([(phrase, 1.0) for phrase in phrases], starts_word=begins)
    score, cover = total(graph, ids), best_cover(occurrences(phrases, ids, begins))
    assert -1e-9 <= score <= cover + 1e-9
    if len(phrases) == 1 and begins[phrases[0][0]] and not any(begins[i] for i in phrases[0][1:]):
        assert score == pytest.approx(cover)  # a single word cannot overlap itself


@settings(deadline=None, max_examples=100)
@given(phrases=PHRASES, ids=st.lists(st.integers(0, 3), max_size=6), has_words=st.booleans())
def test_bonus_of_all_labels_is_that_of_each(phrases: Phrases, ids: list[int], has_words: bool) -> None:
    starts_word = [True, False, True, False] if has_words else None
    graph = HotwordGraph([(phrase, 1.5) for phrase in phrases], starts_word=starts_word)
    state = functools.reduce(lambda state, label: graph.extend([state], [label])[0][0], ids, graph.start())
    _, steps = graph.extend([state] * 4, range(4))
    torch.testing.assert_close(graph.bonus_V(state, 4), torch.tensor(steps))


def kept(node: HotwordState, starts_word: list[bool] | None, *, is_boundary: bool) -> tuple[float, int]:
    """What a state keeps when it fails, inside a word or at the end of one: all of its suffixes are tried, one by one."""
    if node.parent is None:
        return 0.0, 0
    best = kept(node.parent, starts_word, is_boundary=starts_word is None or starts_word[node.label])
    suffix = node
    while is_boundary and suffix.parent is not None:
        if suffix.is_end:
            first = node
            while first.level > node.level - suffix.level + 1:
                assert first.parent is not None
                first = first.parent
            score = kept(first, starts_word, is_boundary=False)[0] + suffix.score
            best = (score, node.level) if score >= best[0] else best
        suffix = suffix.fail
    return best


@settings(deadline=None, max_examples=200)
@given(
    phrases=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=7), min_size=1, max_size=6),
    boosts=st.lists(st.sampled_from([0.3, 1.0, 1.7, 2.5]), min_size=6, max_size=6),
    starts_word=st.none() | st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_what_phrases_that_overlap_keep_is_that_of_all_suffixes(
    phrases: list[list[int]], boosts: list[float], starts_word: list[bool] | None
) -> None:
    graph = HotwordGraph(list(zip(phrases, boosts, strict=False)), starts_word=starts_word)
    nodes = [graph.start()]
    for node in nodes:
        nodes += node.children.values()
        assert node.kept_inside == kept(node, starts_word, is_boundary=False)
        assert node.kept_at_boundary == kept(node, starts_word, is_boundary=True)


def num_lines(run: Callable[[], object]) -> int:
    """The number of lines of the module that a call executes."""
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line" and frame.f_globals["__name__"] == HotwordGraph.__module__
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("num_endings", [0, 20])
def test_phrases_that_overlap_themselves_take_no_more_steps_than_they_have_labels(num_endings: int) -> None:
    """A prompt that repeats a word a thousand times must not stop a server; each phrase that ends there is one step more."""

    def steps(num_labels: int, num_endings: int) -> int:
        phrases = [([1] * length, 1.0) for length in (num_labels, *range(1, num_endings + 1))]
        return num_lines(lambda: HotwordGraph(phrases))

    def bonus_steps(num_labels: int) -> int:
        graph = HotwordGraph([([1] * num_labels, 1.0)])
        state = functools.reduce(lambda state, _: graph.extend([state], [1])[0][0], range(num_labels - 1), graph.start())
        return num_lines(lambda: graph.bonus_V(state, 3))

    assert steps(400, num_endings) < 2.2 * steps(200, num_endings)
    assert steps(200, 2 * num_endings) < 2.2 * steps(200, num_endings)
    assert bonus_steps(400) < 2.2 * bonus_steps(200)


def test_boosts_count_by_token_and_the_larger_one_rules_what_phrases_share() -> None:
    graph = HotwordGraph([((1, 2), 1.0), ((1, 3), 2.0), ((1,), 0.5)])
    assert total(graph, [1, 2]) == pytest.approx(3.0)
    assert total(graph, [1, 3]) == pytest.approx(4.0)
    assert total(graph, [1, 0]) == pytest.approx(2.0)


def test_a_phrase_inside_one_that_fails_counts() -> None:
    graph = HotwordGraph([((1, 2, 3, 4), 1.0), ((2,), 1.0)])
    assert total(graph, [1, 2, 3, 5]) == pytest.approx(1.0)
    assert total(graph, [1, 2, 3, 4]) == pytest.approx(4.0)


@pytest.mark.parametrize("phrases", [[((), 1.0)], [((1,), 0.0)], [((1,), float("nan"))], [((1,), float("inf"))]])
def test_bad_phrases_are_refused(phrases: list) -> None:
    with pytest.raises(ValueError, match="hotword"):
        HotwordGraph(phrases)


@pytest.mark.parametrize("search", ["greedy", "beam", "ctc"])
def test_searches_follow_a_boost_that_is_large_and_ignore_one_that_is_tiny(search: str) -> None:
    scorer, encoded = ToyScorer(5), toy_encoded([9, 4], 5, seed=3, blank_bonus=1.0)

    def found(phrase: tuple[int, int], boost: float | None) -> list[tuple[int, ...]]:
        graph = HotwordGraph([(phrase, boost)]) if boost is not None else None
        if search == "greedy":
            return [h.ids for h in greedy_search(scorer, encoded, hotwords=graph)]
        prior = WeightedPriors([(graph, 1.0)]) if graph is not None else None
        if search == "beam":
            return [ranked[0].ids for ranked in modified_beam_search(scorer, encoded, beam=8, prior=prior)]
        return [ranked[0].ids for ranked in ctc_prefix_search(scorer, encoded, beam=5, prior=prior)]

    plain = found((1, 2), None)
    said = {pair for ids in plain for pair in itertools.pairwise(ids)}
    phrase = next(pair for pair in itertools.permutations(range(1, 5), 2) if pair not in said)
    assert found(phrase, 1e-6) == plain
    assert all(phrase in itertools.pairwise(ids) for ids in found(phrase, 30.0))


@settings(deadline=None, max_examples=25)
@given(lens=st.lists(st.integers(0, 9), min_size=1, max_size=4), window=st.integers(1, 9), seed=st.integers(0, 99))
def test_greedy_with_hotwords_depends_neither_on_window_nor_batch(lens: list[int], window: int, seed: int) -> None:
    scorer, encoded = ToyScorer(5, seed=seed), toy_encoded(lens, 5, seed=seed, blank_bonus=1.0)
    graph = HotwordGraph([((4, 3), 2.0), ((3, 1, 2), 1.0)], starts_word=[True, True, False, True, False])
    together = greedy_search(scorer, encoded, hotwords=graph, window_frames_25hz=window)
    for n, length in enumerate(lens):
        one = encoded._replace(frames=encoded.frames[n : n + 1, :length], lens=encoded.lens[n : n + 1])
        (alone,) = greedy_search(scorer, one, hotwords=graph, window_frames_25hz=1)
        assert (together[n].ids, together[n].frames) == (alone.ids, alone.frames)
        assert together[n].score == pytest.approx(alone.score, abs=1e-4)


def test_phrases_are_spelled_by_the_tokenizer_whatever_their_case() -> None:
    tokenizer = tiny_tokenizer()
    graph = encode_hotwords(["Quick Fox", Hotword("five jugs", 3.0)], tokenizer)
    assert total(graph, tokenizer.encode("QUICK FOX")) == pytest.approx(1.5 * len(tokenizer.encode("QUICK FOX")))
    assert total(graph, tokenizer.encode("FIVE JUGS")) == pytest.approx(3.0 * len(tokenizer.encode("FIVE JUGS")))
    assert total(graph, tokenizer.encode("QUICK")) == 0.0


def test_a_phrase_is_found_in_every_spelling() -> None:
    tokenizer = Tokenizer.train(["O'NEILL CAFÉ"], kind="char", vocab_size=None)
    expected = tokenizer.encode("O'NEILL CAFÉ")
    for phrase in ("O’Neill cafe\u0301", "\ufeffo`neill\u200b café"):
        assert total(encode_hotwords([phrase], tokenizer, default_boost=1.0), expected) == pytest.approx(len(expected))
    with pytest.raises(ConfigError, match="is empty"):
        encode_hotwords(["\u200b"], tokenizer, default_boost=1.0)


def test_chinese_is_found_however_the_phrase_is_written(tmp_path: Path) -> None:
    pieces = ["<blk>", "<sos/eos>", "<unk>", "▁", *"张三你"]
    tokenizer = Tokenizer.from_file(
        write_scores(tmp_path / "m.vocab", [(piece, -float(i)) for i, piece in enumerate(pieces)])
    )
    for phrase in ("张三", "张 三"):
        graph = encode_hotwords([phrase], tokenizer, default_boost=1.0)
        for spelled in ("▁张三", "▁张▁三", "▁你张三"):
            ids = [tokenizer.pieces.index(piece) for piece in spelled]
            assert total(graph, ids) >= 2.0, (phrase, spelled)


def test_tokens_are_no_hotwords() -> None:
    with pytest.raises(ConfigError, match="hotword '▁FI VE' must be plain words, but has ▁"):
        encode_hotwords(["▁FI VE"], tiny_tokenizer())
    assert is_writable("FI VE", tiny_tokenizer()) and not is_writable("▁FI VE", tiny_tokenizer())


def test_a_phrase_does_nothing_for_longer_words() -> None:
    tokenizer = Tokenizer.train(["ANN ANNUAL BAN"], kind="char", vocab_size=None)
    graph = encode_hotwords(["Ann"], tokenizer)
    assert total(graph, tokenizer.encode("ANN")) > 0
    assert total(graph, tokenizer.encode("ANN BAN")) == total(graph, tokenizer.encode("ANN"))
    assert total(graph, tokenizer.encode("ANNUAL")) == 0.0


@pytest.mark.parametrize(
    ("hotword", "message"),
    [
        ("Łódź", "'Łódź' must be writable.* lacks 'ÓŁŹ'"),
        ("  ", "empty"),
        (Hotword("FOX", -1.0), "boost of hotword 'FOX'"),
        (Hotword("FOX", 1e308), "boost of hotword 'FOX'"),
        (Hotword("FOX", float("inf")), "boost of hotword 'FOX'"),
    ],
)
def test_phrases_that_cannot_be_used_are_named(hotword: str | Hotword, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encode_hotwords(["QUICK", hotword], tiny_tokenizer())


def test_a_bad_default_boost_is_refused() -> None:
    with pytest.raises(ConfigError, match="boost"):
        encode_hotwords(["QUICK"], tiny_tokenizer(), default_boost=0.0)


def test_file_of_hotwords(tmp_path: Path) -> None:
    path = tmp_path / "hotwords.txt"
    path.write_text("\ufeffNEW YORK :2.5\n\nanna maria\n  ratio 3:4  \n", encoding="utf-8")
    assert read_hotwords(path) == [Hotword("NEW YORK", 2.5), Hotword("anna maria"), Hotword("ratio 3:4")]


@pytest.mark.parametrize("line", ["ANNA :high", "ANNA :-1", "ANNA :0", "ANNA :inf", "ANNA :1e308", "ANNA :", ":2"])
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "hotwords.txt"
    path.write_text(f"FINE\n{line}\n", encoding="utf-8")
    if line == ":2":
        assert read_hotwords(path)[1] == Hotword(":2")  # without a space in front it is a phrase, which encoding refuses
        return
    with pytest.raises(ConfigError, match="line 2 of"):
        read_hotwords(path)


def test_lines_end_at_line_feeds_in_either_encoding(tmp_path: Path) -> None:
    expected = [Hotword("ONE\u2028LINE", 2.0), Hotword("TWO")]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "x.txt").write_bytes("ONE\u2028LINE :2\r\nTWO\r\n".encode(encoding))
        assert read_hotwords(tmp_path / "x.txt") == expected


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_hotwords(tmp_path / "none.txt")
    for content in (b"\xff\xfe\x00\x80\x01", b"\x89PNG\r\n"):
        (tmp_path / "binary").write_bytes(content)
        with pytest.raises(ConfigError, match="not UTF-8 text, nor UTF-16"):
            read_hotwords(tmp_path / "binary")
