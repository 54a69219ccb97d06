"""Contract: scoring profiles rewrite texts as the corpora compare them."""

import pytest

from zipasr.evaluate.scoring import SCORING, gigaspeech, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Um well-known <UNK> facts <COMMA>", "WELL KNOWN FACTS"),
        ("UH-HUH", ""),
        ("HUMAN EHM", "HUMAN EHM"),
        ("<NOISE> A <PERIOD>", "A"),
    ],
)
def test_gigaspeech(text: str, expected: str) -> None:
    assert gigaspeech(text) == expected
    assert SCORING["gigaspeech"](gigaspeech(text)) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It’s well-known: “three”!", "IT'S WELL KNOWN THREE"),
        ("cafe\u0301, Straße", "CAFÉ STRASSE"),
        ("ΟΔΟΣ", "οδος"),
        ("Ქართული", "ქართული"),
        ("今天，天气", "今天 天气"),
        ("and/or", "and or"),
    ],
)
def test_words_ignore_case_and_punctuation(one: str, other: str) -> None:
    assert words(one) == words(other) == words(words(one))


def test_words_keep_what_is_wrong() -> None:
    assert len({words(text) for text in ("A", "A B", "A ⁇", "A'S", "À", "1")}) == 6


def test_texts_can_stay_as_they_are() -> None:
    assert SCORING["as-is"]("It’s  so-so.") == "It’s  so-so."
