"""Output files of verbs: one per recording, named after it."""

from collections.abc import Sequence
from pathlib import Path


def result_paths(recordings: Sequence[str], folder: str, ending: str) -> list[Path]:
    """The output file of each recording in a folder: the name of the recording with another ending.

    Raises:
        ConfigError: two recordings would share a file.
    """
    from zipasr.errors import ConfigError

    paths = [Path(folder) / f"{Path(recording).stem}.{ending}" for recording in recordings]
    duplicates = {str(path) for path in paths if paths.count(path) > 1}
    if duplicates:
        raise ConfigError(
            f"recordings must have different names with --out, but several are for {min(duplicates)}; rename them"
        )
    return paths


def write_result(path: Path, content: str) -> None:
    """Write a result to a file and create its folder if it is missing.

    Raises:
        DataError: the file cannot be written.
    """
    from zipasr.errors import DataError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", errors="backslashreplace")  # file names may not be UTF-8
    except OSError as error:
        raise DataError(f"{path} must be writable, but is not: {error.strerror}; check the path and permissions") from error
