"""The flags of verbs that read recordings, and their output files: one per recording, named after it."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from zipasr.errors import ConfigError, DataError
from zipasr.lines import replacing

SINGLE_FORMATS = ("srt", "vtt", "tsv", "textgrid")
"""Formats whose files hold a single recording, so that several recordings cannot share stdout."""


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


def expand_folders(names: Sequence[str]) -> list[str]:
    """The recordings that are named: files as they are, and for a folder all recordings in it and below, sorted; see
    `files_below`.

    Raises:
        ConfigError: there is no recording in a folder, or the standard input is named twice.
    """
    from zipasr.audio import AUDIO_SUFFIXES, files_below

    paths: list[str] = []
    for name in names:
        if not os.path.isdir(name):
            paths.append(name)
            continue
        files = [path for path in files_below(name) if path.suffix.lower() in AUDIO_SUFFIXES]
        if not files:
            raise ConfigError(f"a folder must hold recordings, but {name} holds none; name files of other kinds one by one")
        paths += map(str, files)
    if paths.count("-") > 1:
        raise ConfigError("the standard input can be read once, but - is named twice; name it once")
    return paths


def ctm_names(recordings: Sequence[str]) -> dict[str, str]:
    """The name of each recording in CTM: that of its file without the ending, or its path where several have that name."""
    numbers = Counter(Path(name).stem for name in set(recordings))
    return {name: Path(name).stem if numbers[Path(name).stem] == 1 else name for name in recordings}


def result_paths(recordings: Sequence[str], folder: str, ending: str, *, root: str | None = None) -> list[Path]:
    """The output file of each recording: its path below the root, in the output folder, with another ending.

    Args:
        recordings: paths of the recordings; - is the standard input.
        folder: folder of the outputs.
        ending: their ending, without the dot.
        root: a folder that all recordings are in; None: the deepest one.
    Raises:
        ConfigError: two recordings would share a file, or one is not below the root.
    """
    folders = {name: os.path.dirname(os.path.abspath(name)) for name in recordings if name != "-"}
    root = os.path.abspath(root) if root is not None else os.path.commonpath(folders.values() or ["/"])
    taken: dict[Path, str] = {}
    paths = []
    for name in recordings:
        below = os.path.relpath(folders.get(name, root), root)
        if below.split(os.sep)[0] == os.pardir:
            raise ConfigError(f"--root must be a folder that every recording is in, but {name} is not in {root}")
        path = Path(folder) / below / f"{Path(name).stem}.{ending}"
        if path in taken:
            found = f"{taken[path]} and {name} are both for {path}; rename one of them"
            if os.path.abspath(taken[path]) == os.path.abspath(name):
                found = f"{name} is named twice; name it once"
            raise ConfigError(f"recordings in a folder must have different names with --out, but {found}")
        taken[path] = name
        paths.append(path)
    return paths


def is_beside(path: Path, recording: str) -> bool:
    """Whether a file is, or would be, in the folder of a recording, which the standard input has none of."""
    return recording != "-" and os.path.realpath(path.parent) == os.path.realpath(os.path.dirname(recording) or ".")


def refuse_overwriting(recordings: Sequence[str], paths: Sequence[Path], *, cure: str = "") -> None:
    """Refuse to overwrite files beside recordings: people keep references there, such as a.txt beside a.wav.

    Args:
        recordings: paths of the recordings; - is the standard input.
        paths: the output file of each.
        cure: what to do besides another --out.
    Raises:
        ConfigError: an output file exists in the folder of its recording.
    """
    for name, path in zip(recordings, paths, strict=True):
        if path.exists() and is_beside(path, name):
            raise ConfigError(
                f"results must not replace files beside recordings, but {path} is there beside {name}; choose another "
                f"--out, {cure}or delete it if it is an old result"
            )


def report_failure(recording: str, problem: str, *, is_json: bool) -> None:
    """Write to stderr why a recording has no result and, where results are printed as JSON, an object in its place."""
    print(f"zipasr: error: {problem}", file=sys.stderr)
    if is_json:
        print(json.dumps({"audio": recording, "error": problem}, ensure_ascii=False), flush=True)


def write_result(path: Path, content: str) -> None:
    """Write a result to a file, completely or not at all, and create its folder if it is missing.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as target:
            target.write_text(content, encoding="utf-8", errors="backslashreplace")  # file names may not be UTF-8
    except OSError as error:
        raise DataError(f"{path} must be writable, but is not: {error.strerror}; check the path and permissions") from error
