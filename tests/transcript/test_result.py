"""Transcript. Law: words cover the tokens. Contract: its fields as JSON."""

import itertools
import json
import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zipasr.transcript import Token, Transcript, Word, words_from_tokens


def tokens_of(*texts: str) -> list[Token]:
    """Tokens 0.04 s apart, with log-probability -0.1 times their number."""
    return [Token(text, 0.04 * i, 0.04 * i + 0.04, -0.1 * (i + 1)) for i, text in enumerate(texts)]


def test_pieces_become_words() -> None:
    words = words_from_tokens(tokens_of("▁he", "ll", "o", "▁world"))
    assert [word.text for word in words] == ["hello", "world"]
    assert (words[0].start_s, words[0].end_s) == pytest.approx((0.0, 0.12))
    assert (words[1].start_s, words[1].end_s) == pytest.approx((0.12, 0.16))
    assert words[0].confidence == pytest.approx(math.exp(-0.2))  # mean of -0.1, -0.2, -0.3
    assert words[1].confidence == pytest.approx(math.exp(-0.4))


def test_a_first_piece_without_mark_starts_a_word() -> None:
    assert [word.text for word in words_from_tokens(tokens_of("ll", "o", "▁you"))] == ["llo", "you"]


def test_a_lone_mark_belongs_to_the_word_after_it() -> None:
    words = words_from_tokens(tokens_of("▁", "a", "b", "▁", "▁", "c", "▁"))
    assert [word.text for word in words] == ["ab", "c"]
    assert [word.start_s for word in words] == pytest.approx([0.0, 0.16])
    assert words[1].end_s == pytest.approx(0.24)


def test_each_token_a_word() -> None:
    words = words_from_tokens(tokens_of("▁", "日", "本", "▁語"), is_each_a_word=True)
    assert [word.text for word in words] == ["日", "本", "語"]
    assert [word.start_s for word in words] == pytest.approx([0.04, 0.08, 0.12])


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ([0.0, 0.2, 5.0], (0.0, 0.24)),  # the end of the word was emitted after a pause
        ([0.0, 5.0, 5.2], (5.0, 5.24)),
        ([0.0, 0.9, 1.8], (0.0, 1.84)),  # slow, but without a pause
    ],
)
def test_no_word_lasts_over_a_pause(times_s: list[float], expected: tuple[float, float]) -> None:
    tokens = [Token(text, start, start + 0.04, -0.1) for text, start in zip(("▁a", "b", "c"), times_s, strict=True)]
    (word,) = words_from_tokens(tokens)
    assert (word.text, word.start_s, word.end_s) == ("abc", *map(pytest.approx, expected))


def test_a_space_before_a_pause_is_not_the_start_of_the_word_after_it() -> None:
    tokens = [Token("▁", 0.4, 0.44, -0.1), Token("a", 6.0, 6.04, -3.0)]
    assert [(word.text, word.start_s) for word in words_from_tokens(tokens)] == [("a", 6.0)]


def test_no_tokens() -> None:
    assert words_from_tokens([]) == ()


@given(st.lists(st.sampled_from(["▁", "▁a", "b", "▁cd", "e"]), max_size=12))
def test_words_spell_the_tokens_in_order(texts: list[str]) -> None:
    tokens = tokens_of(*texts)
    words = words_from_tokens(tokens)
    assert " ".join(word.text for word in words) == " ".join("".join(texts).replace("▁", " ").split())
    for before, after in itertools.pairwise(words):
        assert before.end_s <= after.start_s + 1e-9
    assert all(0 <= word.confidence <= 1 and word.start_s < word.end_s for word in words)


def test_rounding_above_probability_one_is_cut() -> None:
    """Log-probabilities from float32 may be slightly above 0."""
    assert words_from_tokens([Token("▁a", 0.0, 0.04, 1e-7)])[0].confidence == 1.0


def test_to_dict_is_strict_json_with_rounded_numbers() -> None:
    transcript = Transcript(
        text="hé",
        tokens=(Token("▁hé", 1 / 3, 0.373333333, -0.123456789),),
        words=(Word("hé", 1 / 3, 0.373333333, 0.88383838),),
        duration_s=1.23456,
        score=-math.inf,
    )
    written = json.loads(json.dumps(transcript.to_dict(), allow_nan=False))
    assert written == {
        "text": "hé",
        "duration_s": 1.235,
        "score": None,
        "words": [{"text": "hé", "start_s": 0.333, "end_s": 0.373, "confidence": 0.883838}],
        "tokens": [{"text": "▁hé", "start_s": 0.333, "end_s": 0.373, "log_prob": -0.123457}],
    }


def test_a_transcript_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Transcript("a").text = "b"
