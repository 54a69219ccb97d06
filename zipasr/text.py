"""The one normalization of texts that come in: training texts, references, hypotheses and prompts. Text in, text out."""

import re
import unicodedata
from collections.abc import Iterable

GARBAGE_TAGS = frozenset(("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"))
"""Tags of GigaSpeech and WenetSpeech for audio without speech."""
PUNCTUATION_TAGS = frozenset(("<COMMA>", "<PERIOD>", "<QUESTIONMARK>", "<EXCLAMATIONPOINT>"))
"""Tags of GigaSpeech and WenetSpeech for punctuation."""

_JOINING = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
"""Arabic and its neighbors, the scripts of India, Burmese, Khmer and Mongolian, in which joiners change the spelling."""
_INVISIBLE = (
    "\u00ad\u034f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff"
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
)
"""Soft hyphens, zero-width spaces, marks of direction, variation selectors, byte order marks, control characters."""
_JOINERS = re.compile(
    f"(?=[\u200c\u200d])((?<=[{_JOINING}])(?:\u200d|\u200c(?=[\u200c\u200d]*[{_JOINING}])))?[\u200c\u200d]*"
)
"""Joiners in a row; the group is the one that is needed: after a letter that joins, and a non-joiner also before one."""
_APOSTROPHES = str.maketrans(dict.fromkeys("\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}", "'"))
_OTHER_APOSTROPHES = (
    "`\N{ACUTE ACCENT}\N{LEFT SINGLE QUOTATION MARK}\N{MODIFIER LETTER TURNED COMMA}\N{FULLWIDTH APOSTROPHE}"
)
_INSIDE_WORDS = frozenset("'\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}")
"""Characters of words besides letters, marks and digits."""
UNKNOWN_MARK = "\N{DOUBLE QUESTION MARK}"
"""What stands for <unk> in the text that a model writes."""
_BETWEEN_LETTERS = re.compile(rf"[{_OTHER_APOSTROPHES}](?<=[^\W\d_].)(?=[^\W\d_])")
"""Other characters that are typed for an apostrophe; elsewhere they are quotation marks."""
_TO_NORMALIZE = re.compile(f"[{_INVISIBLE}\u200c\u200d{''.join(map(chr, _APOSTROPHES))}{_OTHER_APOSTROPHES}]")
"""What is rewritten besides letters that are not composed."""

# Differs: the published recipes also count Hangul and the scripts from U+A840 to U+ABFF, which have spaces between words.
_UNSPACED = "\u2e80-\u2fff\u3001-\u312f\u3190-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff65-\uff9f\U00020000-\U0002ffff"
"""Characters of Chinese and Japanese, which have no spaces between them."""
_WIDE_MARKS = "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64"
"""Punctuation of the same scripts."""
_LANGUAGE_NAMES = {
    "en": ("eng", "english"),
    "es": ("spa", "spanish"),
    "fr": ("fra", "fre", "french"),
    "it": ("ita", "italian"),
    "ru": ("rus", "russian"),
    "tr": ("tur", "turkish"),
    "az": ("aze", "azerbaijani"),
}
"""Other names, in lower case, of the languages whose texts are treated specially."""
_ONE_UNSPACED = re.compile(f"([{_UNSPACED}])")
_SPACE_BETWEEN = re.compile(f"(?<=[{_UNSPACED}{_WIDE_MARKS}]) (?=[{_UNSPACED}{_WIDE_MARKS}])")


class MixedJoiner(str):
    """A joiner of words, like the space, that puts nothing between words of Chinese and Japanese, which are characters."""

    def join(self, words: Iterable[str], /) -> str:
        """Return the text of words."""
        return unspaced(" ".join(words))


MIXED_JOINER = MixedJoiner(" ")


def normalize(text: str) -> str:
    """Return `text` in its one spelling.

    Characters are composed (NFC); the apostrophe is ASCII; invisible characters are gone, without a space in their place,
    except zero-width joiners and non-joiners between letters of scripts that need them, such as Persian and Malayalam.
    """
    if _TO_NORMALIZE.search(text) is None and unicodedata.is_normalized("NFC", text):
        return text  # the usual case, many times as fast
    text = unicodedata.normalize("NFC", _JOINERS.sub(r"\1", re.sub(f"[{_INVISIBLE}]", "", text)))
    return _BETWEEN_LETTERS.sub("'", text.translate(_APOSTROPHES))


def other_spellings(character: str) -> tuple[str, ...]:
    """Return what else a normalized character is written as in texts that are not normalized, the most usual first."""
    if character == "'":
        return (*map(chr, _APOSTROPHES), *_OTHER_APOSTROPHES)
    return ("",) if character in "\u200c\u200d" else (unicodedata.normalize("NFD", character),)


def words_only(text: str, *, kept: str = "") -> str:
    """Return the words of `text`, single-spaced: letters, marks, digits, and apostrophes and joiners inside of them.

    Args:
        kept: further characters of words.
    """
    inside = _INSIDE_WORDS.union(kept)
    text = re.sub(r"(?<!\w)'|'(?!\w)", " ", text)
    letters = (c if c.isalnum() or c in inside or unicodedata.category(c)[0] == "M" else " " for c in text)
    return single_spaced("".join(letters))


def single_spaced(text: str) -> str:
    """Return `text` with one space between words and no other white space."""
    return " ".join(text.split())


def spaced(text: str) -> str:
    """Return `text` with a space around every character of Chinese and Japanese, and no double spaces."""
    return single_spaced(_ONE_UNSPACED.sub(r" \1 ", text))


def unspaced(text: str) -> str:
    """Return `text` without the spaces between characters of Chinese and Japanese and their punctuation."""
    return _SPACE_BETWEEN.sub("", text)


def is_unspaced(character: str) -> bool:
    """Return whether a character is one of Chinese and Japanese, which have no spaces between them."""
    return _ONE_UNSPACED.fullmatch(character) is not None


def are_unspaced(before: str, after: str) -> bool:
    """Return whether no space belongs between two texts, as `unspaced` has it."""
    return _SPACE_BETWEEN.search(f"{before[-1:]} {after[:1]}") is not None


def split_words(text: str, joiner: str) -> list[str]:
    """Return the words of `text` that `joiner` would join: all characters if it is empty."""
    if not joiner:
        return list("".join(text.split()))
    return (spaced(text) if isinstance(joiner, MixedJoiner) else text).split()


def words_apart(text: str, joiner: str) -> str:
    """Return `text` with spaces between the words that `joiner` would join, if it has others; to count errors in words."""
    return spaced(text) if isinstance(joiner, MixedJoiner) else text


def language_code(lang: str) -> str:
    """Return the code of a language with rules of its own here: "en" for "en-US", "en_US", "EN", "eng" and "English".

    Any other language, such as "pt-BR", is what is left of its code without the region.
    """
    name = lang.lower().replace("_", "-").split("-")[0].strip()
    return next((code for code, names in _LANGUAGE_NAMES.items() if name in names), name)


def upper(text: str, lang: str = "") -> str:
    """Return `text` in upper case.

    Georgian stays as it is: its capitals are for headlines only. In Turkish and Azerbaijani, i becomes İ.

    Args:
        lang: language code such as "tr"; empty: unknown.
    """
    text = text.replace("i", "İ") if _has_dotless_i(lang) else text
    is_georgian = re.compile("[\N{GEORGIAN LETTER AN}-\N{GEORGIAN LETTER LABIAL SIGN}]").match
    return unicodedata.normalize("NFC", "".join(c if is_georgian(c) else c.upper() for c in text))


def lower(text: str, lang: str = "") -> str:
    """Return `text` in lower case.

    Cherokee stays as it is: its small letters are rare. In Turkish and Azerbaijani, I becomes ı, and İ becomes i.

    Args:
        lang: language code such as "tr"; empty: unknown.
    """
    text = text.replace("İ", "i").replace("I", "ı") if _has_dotless_i(lang) else text
    parts = re.split("([\N{CHEROKEE LETTER A}-\N{CHEROKEE LETTER MV}]+)", text)
    return unicodedata.normalize("NFC", "".join(part if i % 2 else part.lower() for i, part in enumerate(parts)))


def _has_dotless_i(lang: str) -> bool:
    """Whether a language has two letters i, with and without a dot, each in both cases."""
    return language_code(lang) in ("tr", "az")
