"""Text of byte-level pieces: every byte of a text in UTF-8 as one printable character, and back.

A sentencepiece model that was trained on such text has pieces for bytes and runs of bytes, which may start or end inside a
character. Bytes that are no valid UTF-8 are dropped, since a recognizer may emit them.
Source: icefall, byte_utils.py (its table, and what its `smart_byte_decode` returns).
"""

import re

from zipasr.text import UNKNOWN_MARK
from zipasr.tokenizer.model_file import WORD_START

_REWRITTEN = (0x132, 0x133, 0x13F, 0x140, 0x149, 0x17F)
"""Characters that NFKC changes, which sentencepiece applies by default; they stand for no byte."""
_ASCII = range(0x20, 0x7F)
_OTHERS = iter([chr(code) for code in range(0x100, 0x1A7) if code not in _REWRITTEN])
CHARACTERS = "".join(chr(byte) if byte in _ASCII else next(_OTHERS) for byte in range(256))
"""The character of each byte; those of printable ASCII and of the space are themselves."""
_TO_CHARACTERS = dict(enumerate(CHARACTERS))
_TO_BYTES: dict[int, int | None] = dict.fromkeys(range(256))  # other characters below 256 stand for no byte
_TO_BYTES |= {ord(character): byte for byte, character in _TO_CHARACTERS.items()}
_TO_BYTES |= {ord(WORD_START): 0x20, ord(UNKNOWN_MARK): 0x20}
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNKNOWN_CHARACTER = "\ufffd"


def to_characters(text: str) -> str:
    """Return the characters of the bytes of a text; lone surrogates, which have no bytes, become U+FFFD, no byte either."""
    parts = (part.encode().decode("latin-1").translate(_TO_CHARACTERS) for part in _SURROGATES.split(text))
    return _UNKNOWN_CHARACTER.join(parts)


def to_bytes(characters: str) -> bytes:
    """Return the bytes that characters stand for, a space for ▁ and for ⁇; characters that stand for no byte are dropped."""
    return characters.translate(_TO_BYTES).encode("latin-1", "ignore")


def is_byte_text(characters: str) -> bool:
    """Return whether all characters stand for bytes."""
    return set(characters) <= {*CHARACTERS, WORD_START}


def is_surely_byte_text(characters: str) -> bool:
    """Return whether characters can hardly be anything but bytes.

    They stand for bytes that occur in UTF-8 for three-byte characters, never for control characters. No alphabet consists of
    such letters: those of Latin scripts have some below U+0120, or none from U+0180.
    """
    found = set(to_bytes(characters.replace(WORD_START, "")))
    has_long, has_inner = any(byte >= 0xE0 for byte in found), any(0x80 <= byte < 0xC0 for byte in found)
    return is_byte_text(characters) and has_long and has_inner and min(found) >= 0x20


def is_byte_text_for_sherpa(characters: str) -> bool:
    """Return whether sherpa-onnx takes the characters of a table for bytes, which it cannot look up anywhere.

    Source: sherpa-onnx, symbol-table.cc: the largest byte of their UTF-8, without ▁, is 0xC6 (U+0180 to U+01BF).
    """
    rest = characters.replace(WORD_START, "")
    return is_byte_text(rest) and max(rest.encode(), default=0) == 0xC6
