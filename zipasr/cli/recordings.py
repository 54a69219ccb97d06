"""The flags of verbs that read recordings."""

import argparse


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
