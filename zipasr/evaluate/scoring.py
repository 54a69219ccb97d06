"""Scoring profiles: how reference and hypothesis are rewritten before errors are counted. Text in, text out.

Source of `gigaspeech`: the published GigaSpeech recipe of icefall; Chen et al. 2021, arXiv:2106.06909.
"""

from collections.abc import Callable

from zipasr.text import GARBAGE_TAGS, PUNCTUATION_TAGS, UNKNOWN_MARK, lower, normalize, upper, words_only

_FILLERS = frozenset("UH UHH UM EH MM HM AH HUH HA ER OOF HEE ACH EEE EW".split())
_IGNORED = _FILLERS | GARBAGE_TAGS | PUNCTUATION_TAGS | {"<UNK>"}


def words(text: str) -> str:
    """Return `text` in upper case without punctuation; hyphens and slashes separate words, and <unk> stays an error."""
    return words_only(upper(lower(normalize(text))), kept=UNKNOWN_MARK)


def gigaspeech(text: str) -> str:
    """Return `text` as GigaSpeech compares it: upper case, hyphens as spaces, without fillers, <UNK> and tags."""
    return " ".join(word for word in text.upper().replace("-", " ").split() if word not in _IGNORED)


AS_IS = "as-is"
SCORING: dict[str, Callable[[str], str]] = {
    AS_IS: str,
    "words": words,
    "gigaspeech": gigaspeech,
}
"""The rewriting of each scoring profile: texts as they are, words only, or the rules of a corpus."""
