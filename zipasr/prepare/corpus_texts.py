"""Text rules of published corpora: from a transcript as published to the text that a model is trained on.

A function named after a corpus returns None for an utterance that the published recipe drops.
Source: the published recipes of icefall for these corpora; for GigaSpeech also Chen et al. 2021, arXiv:2106.06909.
"""

import re

from zipasr.text import GARBAGE_TAGS, PUNCTUATION_TAGS, single_spaced

# The published WenetSpeech recipe keeps <COMMA>.
_WENETSPEECH_PUNCTUATION = re.compile("|".join(sorted(PUNCTUATION_TAGS - {"<COMMA>"})))
_GARBAGE = re.compile("|".join(sorted(GARBAGE_TAGS)))


def librispeech(text: str) -> str | None:
    """Return a LibriSpeech transcript single-spaced; it is upper case without punctuation already."""
    return single_spaced(text)


def aishell(text: str) -> str | None:
    """Return an AISHELL-1 transcript without spaces, with full-width letters as ASCII and all letters in upper case."""
    from lhotse.recipes.aishell import text_normalize

    return "".join(text_normalize(text).split())


def wenetspeech(text: str) -> str | None:
    """Return a WenetSpeech transcript without punctuation tags except <COMMA>; None if it has a garbage tag."""
    if _GARBAGE.search(text):
        return None
    return single_spaced(_WENETSPEECH_PUNCTUATION.sub("", text))


def gigaspeech(text: str) -> str | None:
    """Return a GigaSpeech transcript without punctuation tags; None if it has a garbage tag."""
    words = text.split()
    if GARBAGE_TAGS.intersection(words):
        return None
    return " ".join(word for word in words if word not in PUNCTUATION_TAGS)
