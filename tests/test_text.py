"""Contract: what normalization changes in a text, and what it keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zipasr.text import (
    MIXED_JOINER,
    lower,
    normalize,
    single_spaced,
    spaced,
    split_words,
    unspaced,
    upper,
    words_apart,
    words_only,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("it\u2019s, it\u02bcs", "it's, it's"),
        ("co\u00adoperate", "cooperate"),
        ("Word  by_word-1 \u2018x", "Word  by_word-1 \u2018x"),
        ("\ufeffone\u200btwo\u2060 \u200ethree\u202c\x00 four\ufe0f", "onetwo three four"),
        ("e\u200b\u0301", "\u00e9"),  # what was invisible kept them apart
        ("o\u02bbzbek o\u2018g\u2018il rock`n`roll", "o'zbek o'g'il rock'n'roll"),
        ("\u2018quoted\u2019", "\u2018quoted'"),
        # Persian "I go" and a Malayalam word that ends in a joiner keep theirs; at the end, or in Latin, none is needed.
        ("\u0645\u06cc\u200c\u0631\u0648\u0645", "\u0645\u06cc\u200c\u0631\u0648\u0645"),
        ("\u0645\u06cc\u200c\u200c\u0631\u0648\u0645\u200c", "\u0645\u06cc\u200c\u0631\u0648\u0645"),
        ("\u0d28\u0d4d\u200d \u0d28", "\u0d28\u0d4d\u200d \u0d28"),
        ("a\u200cb\u200dc", "abc"),
        ("\u200d\u0645", "\u0645"),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected
    assert normalize(expected) == expected


@given(
    st.text(
        st.sampled_from("aeE\u0301\u0308'’‘`ʻ\u200b\u200c\u200d\u00ad\u0645\u0d28\u0d4d\u1112\u1161\uf979 \n"), max_size=9
    )
)
def test_a_normalized_text_stays(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


def test_words_only() -> None:
    assert words_only("«Don't»—rock'n'roll, 3.5%: 'x' e-mail") == "Don't rock'n'roll 3 5 x e mail"
    assert words_only("می\u200cروم! ക്\u200d") == "می\u200cروم ക്\u200d"
    assert words_only("A⁇B ?", kept="⁇") == "A⁇B"


def test_single_spaced() -> None:
    assert single_spaced(" a\tb \u3000 c\n") == "a b c"


@pytest.mark.parametrize(
    ("text", "lang", "large", "small"),
    [
        ("Straße ÉTÉ it's", "de", "STRASSE ÉTÉ IT'S", "straße été it's"),
        ("ქართული", "ka", "ქართული", "ქართული"),
        ("ᏣᎳᎩ Abc", "chr", "ᏣᎳᎩ ABC", "ᏣᎳᎩ abc"),
        ("Iğdır İzmir kitap", "tr-TR", "IĞDIR İZMİR KİTAP", "ığdır izmir kitap"),
        ("Iris", "", "IRIS", "iris"),
        ("\u0390", "el", "\u03aa\u0301", "\u0390"),  # its upper case is composed
        ("ΟΔΟΣ", "el", "ΟΔΟΣ", "οδος"),
    ],
)
def test_case(text: str, lang: str, large: str, small: str) -> None:
    assert upper(text, lang) == large
    assert lower(text, lang) == small


@pytest.mark.parametrize(
    ("text", "apart", "joined"),
    [
        ("你好 WORLD", "你 好 WORLD", "你好 WORLD"),
        ("你 好WORLD好", "你 好 WORLD 好", "你好 WORLD 好"),
        ("你好，世界。", "你 好 ， 世 界 。", "你好，世界。"),
        ("日本語のテスト", "日 本 語 の テ ス ト", "日本語のテスト"),
        ("한국 사람", "한국 사람", "한국 사람"),  # the words of Korean have spaces between them
        ("ｱ ｲ 𠀀", "ｱ ｲ 𠀀", "ｱｲ𠀀"),
        ("ＡＢ ＣＤ", "ＡＢ ＣＤ", "ＡＢ ＣＤ"),
        ("", "", ""),
    ],
)
def test_spaces_between_characters_of_chinese_and_japanese(text: str, apart: str, joined: str) -> None:
    assert spaced(text) == words_apart(text, MIXED_JOINER) == apart
    assert split_words(text, MIXED_JOINER) == apart.split()
    assert unspaced(apart) == MIXED_JOINER.join(apart.split()) == joined
    assert words_apart(text, " ") == words_apart(text, "") == text
    assert split_words("a b好", " ") == ["a", "b好"] and split_words("a b好", "") == ["a", "b", "好"]


@given(text=st.text())
def test_spacing_again_changes_nothing(text: str) -> None:
    assert spaced(spaced(text)) == spaced(text)
    assert spaced(unspaced(spaced(text))) == spaced(text)
    assert unspaced(unspaced(spaced(text))) == unspaced(spaced(text))
