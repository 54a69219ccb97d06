"""Text of byte-level pieces. Golden: the table and the texts of the original. Reference: its dynamic programming for invalid
bytes. Law: any text survives, any characters give valid text."""

import unicodedata
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zipasr.tokenizer.byte_text import CHARACTERS, is_byte_text, is_surely_byte_text, to_bytes, to_characters

TEXTS = {
    "你好": "ƋţŅƌŋţ",
    "你 好 WORLD": "ƋţŅ ƌŋţ WORLD",
    "café": "cafũŏ",
    "CAFÉ": "CAFũĪ",
    "ÑANDÚ": "ũĴANDũĽ",
    "Привет": "ŶńŷġŶŞŶŘŶśŷģ",
    "한국": "ƔĸŁƑśœ",
    "😀": "ƗńĻġ",
}
INVALID = {
    "ƋţŅƌŋ": "你",
    "ţŅƌŋţ": "好",
    "ƋţAƌŋţ": "A好",
    "ũ": "",
    "ƋţŅƌ ok": "你 ok",
    "⁇ƌŋţ": " 好",
    "abƦ": "ab",
    "ƦƗńĻġġ": "😀",
    "中": "",
}


def text_of(characters: str) -> str:
    return to_bytes(characters).decode(errors="ignore")


def slow_decode(data: bytes) -> str:
    """The original's rule: the most segments of one to four bytes that are valid by themselves; other bytes are dropped."""

    @cache
    def best(end: int) -> tuple[int, str]:
        if end == 0:
            return 0, ""
        found = best(end - 1)
        for length in range(1, min(4, end) + 1):
            try:
                segment = data[end - length : end].decode()
            except UnicodeDecodeError:
                continue
            count, text = best(end - length)
            if count + 1 > found[0]:
                found = count + 1, text + segment
        return found

    return best(len(data))[1]


@pytest.mark.parametrize(("text", "characters"), TEXTS.items())
def test_texts_of_the_original(text: str, characters: str) -> None:
    assert to_characters(text) == characters
    assert text_of(characters) == text


@pytest.mark.parametrize(("characters", "text"), INVALID.items())
def test_invalid_bytes_are_dropped(characters: str, text: str) -> None:
    assert text_of(characters) == text


def test_the_table() -> None:
    assert len(set(CHARACTERS)) == len(CHARACTERS) == 256
    assert unicodedata.normalize("NFKC", CHARACTERS) == CHARACTERS  # sentencepiece's default keeps them
    ends = {0x00: 0x100, 0x1F: 0x11F, 0x20: 0x20, 0x7E: 0x7E, 0x7F: 0x120, 0x90: 0x131, 0x91: 0x134, 0x9B: 0x13E}
    ends |= {0x9C: 0x141, 0xA3: 0x148, 0xA4: 0x14A, 0xD8: 0x17E, 0xD9: 0x180, 0xFF: 0x1A6}
    assert {byte: ord(CHARACTERS[byte]) for byte in ends} == ends


def test_a_surrogate_has_no_bytes() -> None:
    assert to_characters("a\ud800é") == f"a\ufffd{to_characters('é')}"
    assert not is_byte_text("\ufffd") and is_byte_text("▁ƋţŅ ab")


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_survives(text: str) -> None:
    assert text_of(to_characters(text)) == text
    assert is_byte_text(to_characters(text))


@settings(max_examples=300, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=12),
        st.lists(st.sampled_from([b"A", b"\xe4\xbd", b"\xa0", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\xc3\xa9"])).map(
            b"".join
        ),
    )
)
def test_bytes_are_decoded_as_by_the_original(data: bytes) -> None:
    assert data.decode(errors="ignore") == slow_decode(data)


@settings(max_examples=200, deadline=None)
@given(characters=st.text(max_size=12))
def test_any_characters_are_decoded(characters: str) -> None:
    text = text_of(characters)
    assert text == slow_decode(to_bytes(characters)) == text.encode().decode()


@pytest.mark.parametrize(
    ("letters", "is_surely"),
    [
        (to_characters("今天天气很好HELLO"), True),
        (to_characters("日本語 café"), True),
        (to_characters("HELLO"), False),  # no other way to read them
        ("ABCĀĒĢĪĶĻŅŠŪŽ", False),  # Latvian
        ("ƁƊƘ'ABC", False),  # Hausa
        ("ŠKODA ŽIŽEK", False),
        ("ĈĜĤĴŜŬ", False),  # Esperanto
        ("ƠƯABC", False),
        ("今天", False),
    ],
)
def test_letters_are_not_taken_for_bytes(letters: str, is_surely: bool) -> None:
    assert is_surely_byte_text(letters) == is_surely
