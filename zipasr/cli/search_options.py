"""The flags that the verbs with a recogniser share: device and search."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zipasr.recognizer import SearchConfig


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--search",
        choices=("auto", "beam", "greedy", "ctc_greedy"),
        default="auto",
        help="how to search; auto: beam where the model has a transducer head, else ctc_greedy",
    )
    parser.add_argument("--beam", type=int, metavar="N", help="continuations that the beam search keeps (default: 4)")
    parser.add_argument(
        "--blank-penalty",
        type=float,
        default=0.0,
        metavar="X",
        help="taken off the score of blank; positive values delete fewer words (default: 0)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def search_config(args: argparse.Namespace) -> "SearchConfig":
    """The search that the flags ask for.

    Raises:
        ConfigError: a value is out of range, or a flag has no effect on the search that was chosen.
    """
    from zipasr.recognizer import SearchConfig

    if args.beam is None:
        return SearchConfig(method=args.search, blank_penalty=args.blank_penalty)
    return SearchConfig(method=args.search, beam=args.beam, blank_penalty=args.blank_penalty)
