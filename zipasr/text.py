"""The one normalization of texts that come in: training texts, references, hypotheses and prompts. Text in, text out."""

import unicodedata

GARBAGE_TAGS = frozenset(("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"))
"""Tags of GigaSpeech and WenetSpeech for audio without speech."""
PUNCTUATION_TAGS = frozenset(("<COMMA>", "<PERIOD>", "<QUESTIONMARK>", "<EXCLAMATIONPOINT>"))
"""Tags of GigaSpeech and WenetSpeech for punctuation."""

_APOSTROPHES = str.maketrans(dict.fromkeys("\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}", "'"))


def normalize(text: str) -> str:
    """Return `text` in NFC, with the ASCII apostrophe for its typographic forms and without soft hyphens."""
    return unicodedata.normalize("NFC", text).translate(_APOSTROPHES).replace("\N{SOFT HYPHEN}", "")


def single_spaced(text: str) -> str:
    """Return `text` with one space between words and no other white space."""
    return " ".join(text.split())
