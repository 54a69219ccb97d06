"""Files that verbs write for recordings: one each, named after it."""

from collections.abc import Sequence
from pathlib import Path


def result_paths(recordings: Sequence[str], folder: str, ending: str) -> list[Path]:
    """The file of each recording in a folder: its name with another ending.

    Raises:
        ConfigError: two recordings would share a file.
    """
    from zipasr.errors import ConfigError

    paths = [Path(folder) / f"{Path(recording).stem}.{ending}" for recording in recordings]
    twice = {str(path) for path in paths if paths.count(path) > 1}
    if twice:
        raise ConfigError(f"expected recordings with different names for --out, got several for {min(twice)}")
    return paths


def write_result(path: Path, content: str) -> None:
    """Write a result, and the folders above it if need be.

    Raises:
        DataError: it cannot be written.
    """
    from zipasr.errors import DataError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", errors="backslashreplace")  # a file's name may be no UTF-8
    except OSError as error:
        raise DataError(f"expected to write {path}, got: {error.strerror}; check the path and permissions") from error
