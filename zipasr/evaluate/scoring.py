"""Scoring profiles: how reference and hypothesis are rewritten before errors are counted. Text in, text out.

Source: the published GigaSpeech recipe of icefall; Chen et al. 2021, arXiv:2106.06909.
"""

from collections.abc import Callable

from zipasr.text import GARBAGE_TAGS, PUNCTUATION_TAGS

_FILLERS = frozenset("UH UHH UM EH MM HM AH HUH HA ER OOF HEE ACH EEE EW".split())
_IGNORED = _FILLERS | GARBAGE_TAGS | PUNCTUATION_TAGS | {"<UNK>"}


def gigaspeech(text: str) -> str:
    """Return `text` as GigaSpeech compares it: upper case, hyphens as spaces, without fillers, <UNK> and tags."""
    return " ".join(word for word in text.upper().replace("-", " ").split() if word not in _IGNORED)


SCORING: dict[str, Callable[[str], str]] = {
    "gigaspeech": gigaspeech,
}
"""The rewriting of each scoring profile, by corpus. Corpora without a profile compare texts as they are."""
