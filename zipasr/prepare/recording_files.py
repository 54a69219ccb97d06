"""The recording that a source names: from a path as written to a file that exists."""

import os
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zipasr.audio import AUDIO_SUFFIXES

_ENDINGS = ("", ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
"""What is tried after a name that states no ending, in this order."""


def find_recording(name: str, folders: Sequence[Path]) -> Path:
    """The file of a path as written in a source.

    ~ is the home directory. A name whose accents are composed finds a file whose accents are not, and the reverse: macOS
    stores them apart. A name without an ending, such as the ids of LJSpeech, finds the recording of that name.

    Args:
        name: an absolute path, or one that is relative to one of the folders.
        folders: where to look, in this order.
    Returns:
        The first path that exists; the one in the first folder if none does.
    """
    path = expanded(name)
    endings = ("",) if path.suffix.lower() in AUDIO_SUFFIXES else _ENDINGS
    for folder in folders:
        for ending in endings:
            found = _existing(folder / f"{path}{ending}")
            if found is not None:
                return found
    return folders[0] / path


def expanded(name: str | Path) -> Path:
    """The path of a name, which may start with ~ for a home directory; if there is no such user, a file of that name."""
    path = Path(name)
    if str(name).startswith("~"):
        with suppress(RuntimeError):
            path = path.expanduser()
    return path


def composed(name: str) -> str:
    """A file name with composed accents, the form in which names are compared and become ids."""
    return unicodedata.normalize("NFC", name)


def _existing(path: Path) -> Path | None:
    """The path if it exists, else the one that differs only in how accents are stored; None if there is neither."""
    if os.path.exists(path):  # Path.exists raises for names that are too long
        return path
    if str(path).isascii() or path == path.parent:
        return None
    parent = _existing(path.parent)
    forms = [] if parent is None else [parent / unicodedata.normalize(form, path.name) for form in ("NFC", "NFD")]
    return next(filter(os.path.exists, forms), None)
