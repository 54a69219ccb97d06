"""Files of JSON lines that appear complete or not at all, and have the same bytes for the same rows."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def writing(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open a file of JSON lines for writing, gzipped if its name ends in `.gz`; it appears when the block ends.

    A file name that is not UTF-8 has lone surrogates in Python; they are written as JSON escapes, from which they are
    read back unchanged.

    Yields:
        A function that writes one row.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def write_to(file: Any) -> Callable[[dict[str, Any]], None]:
        return lambda row: file.write((json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))

    try:
        with temporary.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
                    yield write_to(file)
            else:
                yield write_to(raw)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
