"""Contract: what normalization changes in a text, and what it keeps."""

import pytest

from zipasr.text import normalize, single_spaced


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("it\u2019s, it\u02bcs", "it's, it's"),
        ("co\u00adoperate", "cooperate"),
        ("Word  by_word-1 \u2018x", "Word  by_word-1 \u2018x"),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected
    assert normalize(expected) == expected


def test_single_spaced() -> None:
    assert single_spaced(" a\tb \u3000 c\n") == "a b c"
