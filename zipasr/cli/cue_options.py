"""The flags of verbs that write subtitles."""

import argparse

from zipasr.cli.flags import flag, given
from zipasr.errors import ConfigError
from zipasr.transcript import CUE_FORMATS, CueConfig

_FIELDS = ("max_line_chars", "max_lines", "min_cue_s", "max_cue_s")


def add_cue_options(parser: argparse.ArgumentParser) -> None:
    """Add the limits of subtitles to a verb."""
    defaults = CueConfig()
    group = parser.add_argument_group(f"subtitles ({', '.join(CUE_FORMATS)})")
    group.add_argument(
        "--max-line-chars",
        type=int,
        help=f"most characters in a line; full-width ones count twice (default: {defaults.max_line_chars})",
    )
    group.add_argument("--max-lines", type=int, help=f"most lines in a subtitle (default: {defaults.max_lines})")
    group.add_argument(
        "--min-cue-s",
        type=float,
        metavar="S",
        help=f"shortest time on screen, unless the next subtitle starts earlier (default: {defaults.min_cue_s:g})",
    )
    group.add_argument(
        "--max-cue-s", type=float, metavar="S", help=f"longest time on screen (default: {defaults.max_cue_s:g})"
    )


def cue_config(args: argparse.Namespace, format: str) -> CueConfig | None:
    """The limits of the flags; None: none was given.

    Raises:
        ConfigError: a limit is out of range, or has no effect on this format.
    """
    limits = given(args, _FIELDS)
    if not limits:
        return None
    if format not in CUE_FORMATS:
        first = flag(next(iter(limits)))
        raise ConfigError(
            f"{first} has no effect with --format {format}; use --format {', '.join(CUE_FORMATS)}, or leave it out"
        )
    return CueConfig(**limits)
