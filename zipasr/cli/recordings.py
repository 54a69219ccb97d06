"""The flags of verbs that read recordings, and their output files: one per recording, named after it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zipasr.errors import ConfigError, DataError


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add `--audio-track` and `--allow-damaged` to a verb."""
    parser.add_argument(
        "--audio-track",
        type=_track_number,
        metavar="N",
        help="read this audio track, from 0 (default: the file's default one)",
    )
    parser.add_argument(
        "--allow-damaged",
        action="store_true",
        help="accept damaged and truncated files: silence replaces what cannot be decoded, and a warning says where "
        "(default: refuse them)",
    )


def _track_number(text: str) -> int:
    """The number of a track, an integer of 0 or more, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"it must be a whole number from 0 up, but is {text!r}")
    return int(text)


def result_paths(recordings: Sequence[str], folder: str, ending: str) -> list[Path]:
    """The output file of each recording in a folder: the name of the recording with another ending.

    Raises:
        ConfigError: two recordings would share a file.
    """
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", errors="backslashreplace")  # file names may not be UTF-8
    except OSError as error:
        raise DataError(f"{path} must be writable, but is not: {error.strerror}; check the path and permissions") from error
