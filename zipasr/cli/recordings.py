"""The flags of verbs that read recordings."""

import argparse


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what to read of a file."""
    parser.add_argument(
        "--audio-track",
        type=_track_number,
        metavar="N",
        help="read this audio track, from 0 (default: the file's default one)",
    )
    parser.add_argument(
        "--allow-damaged",
        action="store_true",
        help="read damaged and cut files too: silence stands for what cannot be decoded, and where is told on stderr "
        "(default: refuse them)",
    )


def _track_number(text: str) -> int:
    """A number from 0 up, as argparse wants it read."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, got {text!r}")
    return int(text)
