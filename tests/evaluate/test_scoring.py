"""Contract: scoring profiles rewrite texts as the corpora compare them."""

import pytest

from zipasr.evaluate.scoring import SCORING, gigaspeech


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
