"""The default search of a model folder: `search.json`, written by training and read with the model.

Training compares the searches of a model on its dev set; the best one is saved beside the weights, with the results of all.
`SearchConfig(method="auto")` stands for it. Exports and averages copy the file.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zipasr.checkpoint import write_text
from zipasr.config import from_json
from zipasr.errors import CheckpointError
from zipasr.lines import parse_json
from zipasr.lm.ngram_file import NGRAM_FILE
from zipasr.search.comparison import ComparedSearch
from zipasr.search.strategy import SearchConfig

SEARCH_FILE = "search.json"
"""File in a model folder."""
SEARCH_FILES = (SEARCH_FILE, NGRAM_FILE)
"""What belongs to the default search of a folder; copies of a model have it too."""


@dataclass(frozen=True, kw_only=True)
class DefaultSearch:
    """A model's default search and how it was chosen."""

    search: SearchConfig
    chosen_on: str = ""
    """The set that it was chosen on, such as `dev (55 utterances)`."""
    compared: tuple[dict[str, Any], ...] = ()
    """Results of every search there, for information: `ComparedSearch.to_dict`."""

    def rates(self) -> dict[SearchConfig, float]:
        """The word error rates of the compared searches, in percent."""
        fields = SearchConfig.__dataclass_fields__
        return {
            SearchConfig(**{name: value for name, value in entry.items() if name in fields}): float(entry["wer"])
            for entry in self.compared
            if "wer" in entry
        }

    def to_dict(self) -> dict[str, Any]:
        """The document for JSON; of the search, only fields without their default value."""
        return {"search": self.search.changes(), "chosen_on": self.chosen_on, "compared": list(self.compared)}

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps(self.to_dict(), indent=1) + "\n"


def read_default_search(folder: str | os.PathLike[str]) -> DefaultSearch | None:
    """The default search of a model folder; None if it names none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / SEARCH_FILE
    if not path.is_file():
        return None
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        return DefaultSearch(
            search=from_json(SearchConfig, document["search"], where="search"),
            chosen_on=str(document.get("chosen_on", "")),
            compared=tuple(document.get("compared", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # ConfigError is a ValueError
        raise CheckpointError(
            f"{path} must name the default search of the model, but cannot be read: {error}; delete it, and choose again "
            "with: zipasr evaluate DIR DEV_CUTS --save"
        ) from error


def search_files(
    search: SearchConfig, compared: Sequence[ComparedSearch], *, chosen_on: str, ngram: bytes | None = None
) -> dict[str, bytes]:
    """The files of `SEARCH_FILES` by name, for a model folder that is written with them.

    `ngram` is the file of the n-gram of the training texts, for searches with an `ngram_scale`; None: there is none.
    """
    results = tuple(result.to_dict() for result in compared)
    default = DefaultSearch(search=search, chosen_on=chosen_on, compared=results)
    return {SEARCH_FILE: default.to_json().encode()} | ({NGRAM_FILE: ngram} if ngram is not None else {})


def write_default_search(
    folder: str | os.PathLike[str],
    search: SearchConfig,
    compared: Sequence[ComparedSearch],
    *,
    chosen_on: str,
) -> Path:
    """Make a search the default of a model folder; the file is written atomically.

    Without results, those that the file has from the same set stay.

    Raises:
        CheckpointError: it cannot be written.
    """
    results = tuple(result.to_dict() for result in compared)
    if not results:
        with contextlib.suppress(CheckpointError):  # a damaged file is replaced
            known = read_default_search(folder)
            results = known.compared if known is not None and known.chosen_on == chosen_on else ()
    default = DefaultSearch(search=search, chosen_on=chosen_on, compared=results)
    return write_text(Path(folder) / SEARCH_FILE, default.to_json())
