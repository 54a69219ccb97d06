"""Recordings with known texts to evaluate on: any source that `prepare` takes in, Lhotse cuts out."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from zipasr.errors import DataError
from zipasr.prepare.config import PrepareConfig
from zipasr.prepare.manifests import recognize
from zipasr.prepare.preparation import prepare
from zipasr.prepare.published import find_corpus
from zipasr.prepare.validate import Limits


class References(NamedTuple):
    """Cuts to evaluate on, and what cannot be used."""

    cuts: Path
    rejected: tuple[tuple[str, str], ...] = ()
    """Id and reason of every entry of the source that is not in the cuts."""


@contextmanager
def open_references(source: str | Path, *, has_progress: bool = False) -> Iterator[References]:
    """Open Lhotse cuts as they are, and any other source by preparing it whole in a temporary folder.

    Raises:
        DataError: the source is several parts, whose names or the command to prepare them the message gives; or its kind is
            unknown, or nothing in it can be used.
    """
    path = Path(source)
    if source == "prompts" or find_corpus(source) is not None:
        raise DataError(
            f"the set to evaluate on must be one, but {source} has several parts; prepare them with: zipasr prepare "
            f"{source} --out DATA, then name one of DATA/*_cuts.jsonl.gz"
        )
    manifest = recognize(path) if path.is_file() else None
    is_cuts = ".jsonl" in path.suffixes if manifest is None else manifest.kind == "cuts"
    if any(path.glob("*_cuts.jsonl*")) or not path.exists() or is_cuts:
        yield References(path)  # if it is no file of cuts, its reader says what is
        return
    with TemporaryDirectory(prefix="zipasr-evaluate-") as folder:
        rejected = Path(folder, "rejected.jsonl")
        config = PrepareConfig(split="test", limits=Limits(min_duration_s=0.0, max_duration_s=math.inf))
        try:
            prepare(source, folder, config, has_progress=has_progress)
        except DataError as error:
            raise DataError(str(error).removesuffix(f". See {rejected}")) from error
        with rejected.open(encoding="utf-8") as file:  # splitlines would end lines within texts too, as at U+2028
            rows = [json.loads(line) for line in file]
        problems = tuple((row["id"], f"{row['reason']}: {row['detail']}") for row in rows)
        yield References(Path(folder, "test_cuts.jsonl.gz"), problems)
