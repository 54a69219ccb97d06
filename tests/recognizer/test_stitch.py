"""Stitching and seams. Law: any cuts into overlapping pieces give the original back, and times never decrease. Reference:
cases by hand."""

import dataclasses
import math
import random
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.recognizer.stitch import PlacedTranscript
from zipasr.recognizer.stitch import stitch as stitch_silently
from zipasr.transcript import Token, Transcript, Word, words_from_tokens
from zipasr.vad import WINDOW_SAMPLES, DetectorState, split_recording

PIECE_S, OVERLAP_S = 10.0, 4.0


def transcript(*timed: tuple[str, float, float], duration_s: float = 10.0, joiner: str = " ") -> Transcript:
    """A transcript from (text, start, end) of each word, with a token for each half of a word."""
    tokens = []
    for text, start_s, end_s in timed:
        half, middle_s = (len(text) + 1) // 2, (start_s + end_s) / 2
        tokens.append(Token("\u2581" * (joiner != "") + text[:half], start_s, middle_s, -0.1))
        if text[half:]:
            tokens.append(Token(text[half:], middle_s, end_s, -0.2))
    words = tuple(Word(text, start_s, end_s, 0.5) for text, start_s, end_s in timed)
    return Transcript(joiner.join(text for text, _, _ in timed), tuple(tokens), words, duration_s, score=-1.0)


def placed(start_s: float, overlap_s: float, *timed: tuple[str, float, float]) -> PlacedTranscript:
    """A piece of 10 s, with the times of its words in the recording."""
    shifted = [(text, word_start_s - start_s, end_s - start_s) for text, word_start_s, end_s in timed]
    return PlacedTranscript(transcript(*shifted), start_s, overlap_s)


def stitch(pieces: Iterable[PlacedTranscript], *, joiner: str = " ", duration_s: float | None = None) -> Transcript:
    """Stitch the pieces; the parts reported on the way must form the start of the final text and of its tokens."""
    texts, tokens = [], []

    def on_text(text: str, more: Iterable[Token]) -> None:
        texts.append(text)
        tokens.extend((token.text, token.log_prob) for token in more)

    whole = stitch_silently(pieces, joiner=joiner, duration_s=duration_s, on_text=on_text)
    assert whole.text.startswith("".join(texts)) and all(texts)
    assert [(token.text, token.log_prob) for token in whole.tokens[: len(tokens)]] == tokens
    return whole


def assert_consistent(whole: Transcript, joiner: str = " ") -> None:
    """Check that text, words and tokens agree, and that times never decrease."""
    assert whole.text == joiner.join(word.text for word in whole.words)
    assert "".join(token.text for token in whole.tokens).replace("\u2581", "") == "".join(word.text for word in whole.words)
    for items in (whole.words, whole.tokens):
        times_s = [time_s for item in items for time_s in (item.start_s, item.end_s)]
        assert times_s == sorted(times_s)


# Law


@st.composite
def spoken(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[tuple[str, float, float]]:
    """Words of 0.16 to 1.2 s with gaps of 0 to 3 s."""
    time_s, timed = 0.0, []
    for text in draw(st.lists(texts, max_size=60)):
        start_s = time_s + draw(st.sampled_from([0.0, 0.05, 0.2, 3.0]))
        time_s = start_s + draw(st.floats(0.16, 1.2))
        timed.append((text, start_s, time_s))
    return timed


def recognized(
    timed: list[tuple[str, float, float]], start_s: float, overlap_s: float, rng: random.Random, *, jitter_s: float
) -> PlacedTranscript:
    """The words that a perfect recognizer finds in a piece. A word cut by its edge is lost, cut too, or guessed right."""
    end_s, inside, floor_s = start_s + PIECE_S, [], start_s
    for text, word_start_s, word_end_s in timed:
        first_s, last_s = max(word_start_s, start_s), min(word_end_s, end_s)
        if first_s >= last_s:
            continue
        if (first_s, last_s) != (word_start_s, word_end_s):
            text = rng.choice(["", f"~{text}", text if last_s - first_s > 0.8 * (word_end_s - word_start_s) else ""])
        shift_s = rng.uniform(-jitter_s, jitter_s)
        first_s = max(first_s + shift_s, floor_s)
        last_s = floor_s = max(last_s + shift_s, first_s)
        if text:
            inside.append((text, first_s, last_s))
    return placed(start_s, overlap_s, *inside)


def cut(timed: list[tuple[str, float, float]], rng: random.Random, *, jitter_s: float = 0.0) -> list[PlacedTranscript]:
    end_s = max([word_end_s for _, _, word_end_s in timed], default=0.0)
    start_s, overlap_s, pieces = 0.0, 0.0, []
    while not pieces or start_s + overlap_s < end_s:
        pieces.append(recognized(timed, start_s, overlap_s, rng, jitter_s=jitter_s))
        overlap_s = rng.uniform(2.5, OVERLAP_S)
        start_s += PIECE_S - overlap_s
    return pieces


@settings(max_examples=300)
@given(
    timed=spoken(st.sampled_from("alpha bravo charlie delta echo foxtrot golf hotel india".split())),
    seed=st.integers(0, 999),
)
def test_any_cuts_give_the_original_back(timed: list[tuple[str, float, float]], seed: int) -> None:
    whole = stitch(cut(timed, random.Random(seed)))
    assert [word.text for word in whole.words] == [text for text, _, _ in timed]
    for word, (_, start_s, end_s) in zip(whole.words, timed, strict=True):
        assert word.start_s >= start_s - 1e-6
        assert word.end_s <= end_s + 1e-6
    assert_consistent(whole)


@settings(max_examples=300)
@given(timed=spoken(st.sampled_from("no yes no no a".split())), seed=st.integers(0, 999))
def test_words_said_again_and_again(timed: list[tuple[str, float, float]], seed: int) -> None:
    whole = stitch(cut(timed, random.Random(seed), jitter_s=0.03))
    assert [word.text for word in whole.words] == [text for text, _, _ in timed]
    assert_consistent(whole)


def without_spaces(pieces: Iterable[PlacedTranscript]) -> list[PlacedTranscript]:
    """The same in a language where every token is a word; the rest "~" of a cut word is one as well."""
    changed = []
    for piece in pieces:
        tokens = tuple(dataclasses.replace(t, text=t.text.replace("\u2581", "")) for t in piece.transcript.tokens)
        words = words_from_tokens(tokens, is_each_a_word=True)
        spaceless = Transcript("".join(word.text for word in words), tokens, words, piece.transcript.duration_s)
        changed.append(piece._replace(transcript=spaceless))
    return changed


SEVEN_TIMES_S = (
    (0.0, 1.125),
    (1.125, 1.625),
    (1.825, 2.575),
    (5.575, 5.95),
    (8.95, 10.075),
    (10.075, 10.575),
    (10.575, 11.575),
)
"""One word seven times: in a first piece of 10 s, the rest of the cut word is nearer to the sixth than to the fifth."""


@given(
    timed=spoken(st.sampled_from("甲 乙 丙 丁 戊".split())), seed=st.integers(0, 999), jitter_s=st.sampled_from([0.0, 0.03])
)
@example(timed=[("甲", start_s, end_s) for start_s, end_s in SEVEN_TIMES_S], seed=1, jitter_s=0.0)
@example(
    timed=[
        ("甲", 3.0, 3.5),
        ("甲", 3.5, 4.54),
        ("甲", 4.74, 5.94),
        ("甲", 8.94, 10.06),
        ("甲", 10.06, 10.31),
        ("甲", 10.31, 10.56),
        ("甲", 10.56, 11.76),
    ],
    seed=67,
    jitter_s=0.0,
)
@example(
    timed=[
        ("甲", 3.0, 4.12),
        ("甲", 4.12, 5.33),
        ("甲", 5.53, 6.03),
        ("甲", 9.03, 10.03),
        ("甲", 10.03, 10.53),
        ("甲", 10.53, 11.03),
        ("甲", 11.03, 12.03),
    ],
    seed=21,
    jitter_s=0.03,
)
def test_languages_without_spaces(timed: list[tuple[str, float, float]], seed: int, jitter_s: float) -> None:
    whole = stitch(without_spaces(cut(timed, random.Random(seed), jitter_s=jitter_s)), joiner="")
    assert whole.text.replace("~", "") == "".join(text for text, _, _ in timed)
    assert_consistent(whole, "")


@pytest.mark.parametrize("jitter_s", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("word", ["甲", "乙", "no"])
def test_one_word_seven_times(word: str, jitter_s: float) -> None:
    """The recording is cut in 150 ways, in a language without spaces and in one with spaces."""
    timed = [(word, start_s, end_s) for start_s, end_s in SEVEN_TIMES_S]
    for seed in range(150):
        pieces = cut(timed, random.Random(seed), jitter_s=jitter_s)
        assert [text.text for text in stitch(pieces).words] == [word] * 7, seed
        if len(word) == 1:
            assert stitch(without_spaces(pieces), joiner="").text.replace("~", "") == word * 7, seed


class LoudIsSpeech:
    """A detector without a model: the probability of speech is the level."""

    def probabilities(self, samples: np.ndarray, state: DetectorState | None) -> tuple[np.ndarray, DetectorState]:
        nothing = np.zeros(0)
        levels = np.abs(samples.reshape(-1, WINDOW_SAMPLES)).max(axis=1)
        return np.minimum(levels, 1.0), DetectorState(nothing, nothing, nothing)


@settings(max_examples=150)
@given(
    timed=spoken(st.sampled_from("no yes alpha bravo charlie delta".split())),
    has_detector=st.booleans(),
    max_piece_s=st.sampled_from([14.0, 30.0]),
)
def test_splitting_and_stitching_loses_and_doubles_no_word(
    timed: list[tuple[str, float, float]], has_detector: bool, max_piece_s: float
) -> None:
    """The recognizer finds each word that is whole in a piece, and only those."""
    samples = np.zeros(round((timed[-1][2] if timed else 1.0) * SAMPLE_RATE_HZ), np.float32)
    for _, start_s, end_s in timed:
        samples[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)] = 1.0
    detector = LoudIsSpeech() if has_detector else None
    recognized_pieces = []
    for piece in split_recording([samples], detector=detector, max_piece_s=max_piece_s, overlap_s=4.0):
        end_s = piece.start_s + piece.duration_s + 1e-4
        inside = [word for word in timed if piece.start_s - 1e-4 <= word[1] and word[2] <= end_s]
        one = placed(piece.start_s, piece.overlap_s, *inside)
        recognized_pieces.append(one._replace(transcript=dataclasses.replace(one.transcript, duration_s=piece.duration_s)))
    whole = stitch(recognized_pieces)
    assert [word.text for word in whole.words] == [text for text, _, _ in timed]
    assert_consistent(whole)


WORDS = st.lists(st.tuples(st.sampled_from("a b c d".split()), st.floats(0, 11), st.floats(0, 2)), max_size=25)


@settings(max_examples=300)
@given(pieces=st.lists(st.tuples(WORDS, st.floats(0, 10)), max_size=5), joiner=st.sampled_from([" ", ""]))
def test_pieces_that_agree_in_nothing(pieces: list[tuple[list[tuple[str, float, float]], float]], joiner: str) -> None:
    """With any words, even after the end of their piece, there is no error, times never decrease, and all parts agree."""
    start_s, inputs = 0.0, []
    for words, overlap_s in pieces:
        timed, floor_s = [], 0.0
        for text, word_start_s, length_s in sorted(words, key=lambda word: word[1]):
            first_s = max(word_start_s, floor_s)
            floor_s = first_s + length_s
            timed.append((text, first_s, floor_s))
        start_s = max(start_s - overlap_s, 0.0)
        inputs.append(PlacedTranscript(transcript(*timed, joiner=joiner), start_s, overlap_s))
        start_s += 10.0
    inputs.sort(key=lambda piece: piece.start_s)
    whole = stitch(inputs, joiner=joiner)
    assert_consistent(whole, joiner)
    assert math.isclose(whole.score, -len(inputs))


# Reference


def test_the_seam_is_in_the_middle_of_what_both_agree_on() -> None:
    left = placed(
        0, 0, ("so", 5, 5.5), ("i", 6.2, 6.4), ("went", 6.5, 7), ("to", 7.1, 7.3), ("town", 7.4, 8), ("tod", 9.6, 10)
    )
    right = placed(6, 4, ("bent", 6.5, 7), ("to", 7.12, 7.32), ("town", 7.42, 8.02), ("today", 9, 10.2), ("ok", 11, 12))
    whole = stitch([left, right])
    assert whole.text == "so i went to town today ok"
    assert whole.words[3] == Word("to", 7.1, 7.3, 0.5)
    assert whole.words[4] == Word("town", 7.42, 8.02, 0.5)
    assert [token.text for token in whole.tokens[-6:]] == ["▁to", "wn", "▁tod", "ay", "▁o", "k"]
    assert whole.duration_s == 16
    assert whole.score == -2


def test_without_agreement_the_seam_is_in_a_gap_near_the_middle() -> None:
    left = placed(0, 0, ("one", 5, 5.5), ("two", 6.5, 7.5), ("three", 7.7, 8.3), ("fo", 9.7, 10))
    right = placed(6, 4, ("wo", 6.6, 7.4), ("tree", 7.7, 8.3), ("four", 9.7, 10.2))
    assert stitch([left, right]).text == "one two tree four"


def test_the_same_word_at_another_time_is_another_word() -> None:
    left = placed(0, 0, ("no", 6.2, 6.5), ("well", 7, 7.4))
    right = placed(6, 4, ("well", 8.6, 9), ("no", 9.5, 9.8))
    assert stitch([left, right]).text == "no well well no"


def test_no_no_no_of_which_each_piece_misses_one() -> None:
    left = placed(0, 0, ("no", 7, 7.2), ("no", 7.3, 7.5))
    right = placed(6, 4, ("no", 7.3, 7.5), ("no", 7.6, 7.8))
    assert stitch([left, right]).text == "no no no"


def test_words_late_by_more_than_half_their_distance_keep_their_order_where_others_show_it() -> None:
    """The second "no" on the left is nearest to the first on the right; the seam is where the words in a row agree."""
    left = placed(0, 0, ("no", 7.3, 7.46), ("no", 7.54, 7.7), ("go", 7.7, 8.2), ("on", 8.4, 8.9))
    right = placed(6, 4, ("no", 7.5, 7.66), ("no", 7.74, 7.9), ("go", 7.9, 8.4), ("on", 8.6, 9.1))
    assert stitch([left, right]).text == "no no go on"


def test_what_is_left_of_a_cut_word_is_no_other_word() -> None:
    """The times of "no" in the right piece are on both sides of the rest of a "no" in the left."""
    left = placed(0, 0, ("n", 9.0, 9.5), ("no", 9.5, 10))
    right = placed(6, 4, ("no", 9.0, 9.5), ("no", 10.1, 10.3), ("no", 10.6, 11.1))
    assert stitch([left, right]).text == "no no no"


def test_a_word_that_is_recognized_differently_is_taken_once() -> None:
    left = placed(0, 0, ("a", 6.5, 7), ("bet", 7.8, 8.15), ("c", 9, 9.5))
    right = placed(6, 4, ("a", 6.5, 7), ("bed", 7.9, 8.25), ("c", 9, 9.5))
    assert stitch([left, right]).text in ("a bet c", "a bed c")


def test_pieces_without_overlap_are_put_one_after_another() -> None:
    left, right = placed(0, 0, ("one", 9, 10)), placed(12, 0, ("one", 12, 12.5))
    whole = stitch(iter([left, right]), duration_s=60)
    assert whole.text == "one one"
    assert whole.words == (Word("one", 9, 10, 0.5), Word("one", 12, 12.5, 0.5))
    assert whole.duration_s == 60


def test_text_is_reported_when_the_piece_after_the_next_starts() -> None:
    told = []

    def pieces() -> Iterable[PlacedTranscript]:
        yield placed(0, 0, ("one", 1, 2), ("two", 7, 8))
        yield placed(6, 4, ("two", 7, 8), ("three", 12.5, 13))
        told.append("|")
        yield placed(12, 4, ("three", 12.5, 13), ("four", 18.5, 19))
        told.append("|")
        yield placed(18, 4, ("four", 18.5, 19))

    whole = stitch_silently(pieces(), on_text=lambda text, _: told.append(text))
    assert told == ["|", "one two", "|", " three"]
    assert whole.text == "one two three four"


def test_a_silent_piece_between() -> None:
    pieces = [placed(0, 0, ("one", 7, 7.5)), placed(6, 4), placed(12, 4, ("two", 14, 15))]
    assert stitch(pieces).text == "one two"
    pieces = [placed(0, 0, ("one", 6, 6.5), ("two", 9.7, 10)), placed(6, 4), placed(12, 4, ("three", 14.5, 15))]
    assert stitch(pieces).text == "one three"


def test_a_piece_that_is_whole_keeps_its_text() -> None:
    """A decoder may spell pieces of the vocabulary differently from the words."""
    odd = PlacedTranscript(dataclasses.replace(transcript(("<unk>", 1, 2)), text="⁇"), 0.0)
    assert stitch([odd, placed(12, 0, ("b", 13, 14))]).text == "⁇ b"
    assert stitch([]) == Transcript("")
    assert stitch([], duration_s=3.0) == Transcript("", duration_s=3.0)
    alone = transcript(("a", 1, 2), ("b", 3, 4))
    assert stitch([PlacedTranscript(alone, 0.0)]) == alone
    reading = dataclasses.replace(alone, channel=1, alternatives=(alone,))
    assert stitch([PlacedTranscript(reading, 0.0)]) == dataclasses.replace(alone, channel=1)


def test_tokens_that_do_not_spell_the_words_go_by_time() -> None:
    tokens = (Token("x", 1.0, 1.1, 0.0), Token("yy", 3.2, 3.3, 0.0))
    left = PlacedTranscript(dataclasses.replace(transcript(("a", 1, 2), ("b", 3, 4)), tokens=tokens), 0.0)
    right = placed(2, 8, ("b", 3, 4), ("c", 5, 6))
    assert [token.text for token in stitch([left, right]).tokens] == ["x", "yy", "▁c"]


def test_lone_word_starts_go_with_the_word_after_them() -> None:
    pieces = ("\u2581", "a", "\u2581", "b")
    tokens = tuple(Token(text, float(i), i + 0.5, 0.0) for i, text in enumerate(pieces))
    left = PlacedTranscript(Transcript("a b", tokens, words_from_tokens(tokens), 4.0), 0.0)
    right = PlacedTranscript(transcript(("a", 0, 0.5), ("c", 2, 3), duration_s=4.0), 1.0, 3.0)
    assert [token.text for token in stitch([left, right]).tokens] == ["\u2581", "a", "▁c"]


def test_wrong_pieces() -> None:
    for pieces in (
        [placed(5, 0), placed(4, 0)],
        [placed(0, 0), placed(1, 10.5)],
        [placed(0, -1)],
    ):
        with pytest.raises(ValueError, match="in order of time"):
            stitch(pieces)


def test_words_of_a_graph_keep_their_tokens_where_their_letters_only_are_as_many() -> None:
    """A lexicon spells words otherwise: here both have five letters, but not the same in each word."""

    def piece(words: str, offset_s: float) -> Transcript:
        tokens = {"ab": (("▁x", 7.5), ("y", 7.6), ("z", 7.7)), "cde": (("▁u", 8.3), ("v", 8.4))}
        timed = [(text, time_s - offset_s) for word in words.split() for text, time_s in tokens[word]]
        own = tuple(Token(text, time_s, time_s + 0.04, -0.1) for text, time_s in timed)
        spans = {"ab": (7.5, 7.74), "cde": (8.3, 8.44)}
        said = tuple(Word(w, spans[w][0] - offset_s, spans[w][1] - offset_s, 0.5) for w in words.split())
        return Transcript(words, own, said, 10.0)

    whole = stitch_silently([PlacedTranscript(piece("ab cde", 0.0), 0.0), PlacedTranscript(piece("ab cde", 6.0), 6.0, 4.0)])
    assert whole.text == "ab cde" and [word.text for word in whole.words] == ["ab", "cde"]
    assert [token.text for token in whole.tokens] == ["▁x", "y", "z", "▁u", "v"]
    assert [token.start_s for token in whole.tokens] == pytest.approx([7.5, 7.6, 7.7, 8.3, 8.4])
