"""The form in which texts are given to sentencepiece: single-spaced, as characters or as bytes."""

import re

from zipasr.text import single_spaced, spaced
from zipasr.tokenizer.byte_text import to_characters
from zipasr.tokenizer.model_file import WORD_START

# Sentencepiece drops NUL, rejects lone surrogates and skips every text with its own unknown mark, ▅. Here they all
# count as unknown characters: they are encoded as U+FFFD, which no vocabulary of ours contains.
_UNWRITABLE = re.compile("[\x00\u2585\ufffd\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
UNKNOWN_CHARACTER = "\ufffd"


def plain_text(text: str, replacement: str = UNKNOWN_CHARACTER) -> str:
    """Single spaces between words and none around; ▁ counts as white space, which is its meaning in a piece.

    Args:
        replacement: of characters that sentencepiece cannot take.
    """
    return single_spaced(_UNWRITABLE.sub(replacement, text).replace(WORD_START, " "))


def byte_text(text: str, replacement: str = "\ud800") -> str:
    """The characters of the bytes of a text whose words are apart; ▁ counts as white space.

    Args:
        replacement: of lone surrogates, which have no bytes; one of them becomes U+FFFD.
    """
    return to_characters(spaced(_SURROGATES.sub(replacement, text).replace(WORD_START, " ")))
