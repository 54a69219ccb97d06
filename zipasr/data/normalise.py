"""Texts of published corpora: what a transcript is trained on, and what two texts are compared by. Text in, text out.

A function named after a corpus gives None for an utterance that its recipe drops; `SCORING` is applied to reference and
hypothesis before errors are counted.
Source: the published recipes of icefall for these corpora; for GigaSpeech also Chen et al. 2021, arXiv:2106.06909.
"""

import re
from collections.abc import Callable

GARBAGE_TAGS = frozenset(("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"))
"""What GigaSpeech and WenetSpeech write where nobody speaks."""

_GIGASPEECH_PUNCTUATION = frozenset(("<COMMA>", "<PERIOD>", "<QUESTIONMARK>", "<EXCLAMATIONPOINT>"))
# The published WenetSpeech recipe leaves <COMMA> alone.
_WENETSPEECH_PUNCTUATION = re.compile("<PERIOD>|<QUESTIONMARK>|<EXCLAMATIONPOINT>")
_GARBAGE = re.compile("|".join(sorted(GARBAGE_TAGS)))
_FILLERS = frozenset("UH UHH UM EH MM HM AH HUH HA ER OOF HEE ACH EEE EW".split())


def librispeech(text: str) -> str | None:
    """Keep a LibriSpeech transcript, which is upper case without punctuation already."""
    return " ".join(text.split())


def aishell(text: str) -> str | None:
    """Write an AISHELL-1 transcript without spaces, its full-width letters as ASCII, and all letters upper case."""
    from lhotse.recipes.aishell import text_normalize

    return "".join(text_normalize(text).split())


def wenetspeech(text: str) -> str | None:
    """Remove the marks of punctuation but commas from a WenetSpeech transcript; None where it has a garbage tag."""
    if _GARBAGE.search(text):
        return None
    return " ".join(_WENETSPEECH_PUNCTUATION.sub("", text).split())


def gigaspeech(text: str) -> str | None:
    """Remove the punctuation tags from a GigaSpeech transcript; None where it has a garbage tag."""
    words = text.split()
    if GARBAGE_TAGS.intersection(words):
        return None
    return " ".join(word for word in words if word not in _GIGASPEECH_PUNCTUATION)


def gigaspeech_scoring(text: str) -> str:
    """Write a text as GigaSpeech compares it: upper case, hyphens as spaces, without fillers, <UNK> and tags."""
    left_out = _FILLERS | GARBAGE_TAGS | _GIGASPEECH_PUNCTUATION | {"<UNK>"}
    return " ".join(word for word in text.upper().replace("-", " ").split() if word not in left_out)


SCORING: dict[str, Callable[[str], str]] = {
    "gigaspeech": gigaspeech_scoring,
}
"""What is applied to reference and hypothesis before errors are counted, by corpus; the others compare texts as they are."""
