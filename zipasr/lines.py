"""Lines of UTF-8 text files, gzipped or not."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from zipasr.errors import DataError


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
        raise DataError(f"expected a readable text file, but {path} cannot be read: {error}") from error
