"""The one normalization of texts that come in: training texts, references, hypotheses and prompts. Text in, text out.

Files of texts are read here too, line by line.
"""

import gzip
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from zipasr.errors import DataError

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


def read_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a text file, gzipped or not, with their numbers from 1; None for a line that is not UTF-8.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    yield number, None
    except (OSError, EOFError) as error:
        raise DataError(f"a text file must be readable, but {path} cannot be read: {error}") from error
