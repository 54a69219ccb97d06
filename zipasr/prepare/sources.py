"""Sources of speech: `open_source` detects the kind of a source and yields its `Utterance` and `Rejected` entries.

Sources are a folder of recordings with texts, a JSONL or TSV manifest, a Kaldi data directory, Lhotse cuts, or the
word `prompts`. No audio is opened here.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from zipasr.errors import DataError
from zipasr.prepare.folders import EXPECTED, read_folder
from zipasr.prepare.kaldi import read_kaldi
from zipasr.prepare.lhotse_cuts import read_cuts
from zipasr.prepare.manifests import SPLIT_NAMES, kind_of_rows, read_manifest
from zipasr.prepare.prompts import read_prompts
from zipasr.prepare.utterance import Rejected, Utterance

_ROWS_NAME = re.compile(r".*\.(?:jsonl|tsv)(?:\.gz)?")


class OpenSource(NamedTuple):
    """A source of a known kind, and its entries."""

    kind: str
    """folder, manifest, kaldi, cuts or prompts."""
    entries: Iterator[Utterance | Rejected]
    """Read lazily."""


def _split_of(name: str) -> str | None:
    """The split that a file name such as `librispeech_cuts_dev-clean.jsonl.gz` contains, or None."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


_READERS = {"manifest": read_manifest, "cuts": read_cuts}
"""The reader of each kind of file that `kind_of_rows` detects, in the order in which a folder is searched."""


def _open_folder(folder: Path, lang: str, skip: Path | None) -> OpenSource:
    """Open a folder source of any kind."""
    if (folder / "wav.scp").is_file():
        return OpenSource("kaldi", read_kaldi(folder, lang))
    parts = [folder / name for name in SPLIT_NAMES if (folder / name / "wav.scp").is_file()]
    if parts:
        return OpenSource("kaldi", chain.from_iterable(read_kaldi(part, lang, SPLIT_NAMES[part.name]) for part in parts))
    kinds = {path: kind_of_rows(path) for path in sorted(folder.iterdir()) if _ROWS_NAME.fullmatch(path.name)}
    for kind in _READERS:
        found = [path for path, kind_of_path in kinds.items() if kind_of_path == kind]
        named = [path for path in found if _split_of(path.name)]
        if len(found) > 1 and not named:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{folder} must contain one manifest, or names with train, dev and test, but has {names}")
        if found:
            readers = (_READERS[kind](path, lang, _split_of(path.name)) for path in named or found)
            return OpenSource(kind, chain.from_iterable(readers))
    return OpenSource("folder", read_folder(folder, lang, skip))


def open_source(source: str | Path, lang: str = "en", *, skip: Path | None = None) -> OpenSource:
    """Detect the kind of a source and open it.

    Args:
        source: a path, or the word `prompts` (write `./prompts` for a folder of that name).
        lang: language of entries that name none.
        skip: a subfolder of a folder source to ignore.
    Raises:
        DataError: the kind is unknown, or a file cannot be read; also while the entries are read.
    """
    if source == "prompts":
        return OpenSource("prompts", read_prompts(lang))
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, lang, skip)
    if not path.exists():
        raise DataError(f"{EXPECTED}, but {path} does not exist")
    if not _ROWS_NAME.fullmatch(path.name):
        raise DataError(f"{EXPECTED}, but is the file {path}")
    kind = kind_of_rows(path)
    if kind is None:
        raise DataError(f"the first line of {path} must be a Lhotse cut or have 'audio' and 'text', but is neither")
    return OpenSource(kind, _READERS[kind](path, lang))
