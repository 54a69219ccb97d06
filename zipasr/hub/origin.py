"""Where a model folder comes from: `source.json` beside it, for every folder that is made of files of others."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.lines import parse_json

SOURCE_FILE = "source.json"
"""File in a model folder that says where the model comes from: a `source_document`."""
CONVERTER_VERSION = 1
"""Raised when files are converted in another way than before; downloads are then converted again."""


class Origin(NamedTuple):
    """The place of files: a repository, or nothing known for local ones."""

    repository: str | None = None
    """Its name, OWNER/NAME."""
    revision: str | None = None
    """Its commit."""
    subfolder: str = ""
    """Its folder with the model, if it has several."""


def source_document(root: Path, names: Iterable[str], *, family: str, origin: Origin) -> dict[str, Any]:
    """The content of `source.json` for files of a folder, of this family (see `Layout`)."""
    files = {name: _sha256(root / name) for name in names}
    return {**origin._asdict(), "family": family, "converter": CONVERTER_VERSION, "files": files}


def read_source(folder: Path) -> dict[str, Any]:
    """The content of `source.json` in a folder; empty if it cannot be read."""
    try:
        document = parse_json((folder / SOURCE_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
