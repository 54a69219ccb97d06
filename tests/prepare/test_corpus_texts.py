"""Contract: the published text rules, applied to texts as the corpora write them."""

import pytest

from zipasr.prepare.corpus_texts import aishell, gigaspeech, librispeech, wenetspeech


def test_librispeech_stays() -> None:
    assert librispeech("IT'S  A LONG-LOST STORY ") == "IT'S A LONG-LOST STORY"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("而 对 楼市", "而对楼市"), ("ｔ 恤 衫", "T恤衫"), ("看 ab 片", "看AB片"), (" ", "")],
)
def test_aishell(text: str, expected: str) -> None:
    assert aishell(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好<QUESTIONMARK>", "你好"),
        ("你好 <PERIOD> 世界<EXCLAMATIONPOINT>", "你好 世界"),
        ("你<COMMA>好", "你<COMMA>好"),
        ("<SIL>", None),
        ("你<MUSIC>好", None),
        ("<PERIOD>", ""),
    ],
)
def test_wenetspeech(text: str, expected: str | None) -> None:
    assert wenetspeech(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("YES <COMMA> I DO <QUESTIONMARK>", "YES I DO"),
        ("WHY <EXCLAMATIONPOINT> UM <PERIOD>", "WHY UM"),
        ("<OTHER>", None),
        ("<COMMA>", ""),
    ],
)
def test_gigaspeech(text: str, expected: str | None) -> None:
    assert gigaspeech(text) == expected
