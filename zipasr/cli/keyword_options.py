"""The flags of keyword spotting, and the spotter that they configure."""

import argparse
from typing import TYPE_CHECKING

from zipasr.cli.flags import given

if TYPE_CHECKING:
    from zipasr.recognizer import KeywordSpotter, Recognizer, SpotterConfig

SPOTTER_FLAGS = ("boost", "threshold", "trailing_blanks", "refractory_s", "paths")
"""Names of the flags of `add_spotter_options`."""


def add_keyword_file_option(parser: argparse.ArgumentParser, what: str, *, is_required: bool = False) -> None:
    """Add `--keywords` to a verb; `what` starts its help."""
    parser.add_argument(
        "--keywords",
        metavar="FILE",
        required=is_required,
        help=f"{what}: a file with a phrase in each line, in plain words or in tokens, optionally followed by ` :BOOST "
        "#THRESHOLD @NAME`",
    )


def add_spotter_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the search for keywords to a verb."""
    parser.add_argument(
        "--boost", type=float, help="nats for each token of a keyword without a boost of its own (default: 1)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="mean probability of its tokens from which a keyword counts that has no threshold of its own (default: 0.25)",
    )
    parser.add_argument("--paths", type=int, help="paths that the search keeps (default: 4)")
    parser.add_argument(
        "--trailing-blanks",
        type=int,
        help="more blank frames of 40 ms than these must follow a keyword; more tell keywords apart that start with another "
        "keyword (default: 1)",
    )
    parser.add_argument(
        "--refractory-s",
        type=float,
        help="do not report a keyword again that ends within this time after its last event (default: 0.5)",
    )


def spotter_config(args: argparse.Namespace) -> "SpotterConfig":
    """The search for keywords that the flags configure.

    Raises:
        ConfigError: a value is out of range.
    """
    from zipasr.recognizer import SpotterConfig

    fields = {
        "max_symbols_per_frame": "max_symbols_per_frame",
        "paths": "beam",
        "trailing_blanks": "num_trailing_blanks",
        "refractory_s": "refractory_s",
        "near": "near",
    }
    return SpotterConfig(**{fields[name]: value for name, value in given(args, fields).items()})


def make_spotter(args: argparse.Namespace, recognizer: "Recognizer") -> "KeywordSpotter":
    """The spotter of the flags.

    Raises:
        ConfigError: the file cannot be used, the model cannot spot keywords, or a value is out of range.
    """
    from zipasr.search.keywords import DEFAULT_BOOST, DEFAULT_THRESHOLD, read_keywords

    return recognizer.spotter(
        read_keywords(args.keywords),
        boost=DEFAULT_BOOST if args.boost is None else args.boost,
        threshold=DEFAULT_THRESHOLD if args.threshold is None else args.threshold,
        config=spotter_config(args),
    )
