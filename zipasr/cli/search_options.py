"""The flags that the verbs with a recogniser share: device and search."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zipasr.recognizer import SearchConfig


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--search",
        choices=("auto", "beam", "greedy", "ctc_greedy", "ctc_beam", "attention_rescoring"),
        default="auto",
        help="how to search; auto: beam where the model has a transducer head, else attention_rescoring where it has an "
        "attention decoder, else ctc_greedy",
    )
    parser.add_argument("--beam", type=int, metavar="N", help="hypotheses that a beam search keeps (default: 4)")
    parser.add_argument(
        "--attention-scale",
        type=float,
        metavar="X",
        help="weight of the attention decoder in attention_rescoring, beside 1 for CTC (default: 1)",
    )
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

    given = {"beam": args.beam, "attention_scale": args.attention_scale}
    set_values = {name: value for name, value in given.items() if value is not None}
    return SearchConfig(method=args.search, blank_penalty=args.blank_penalty, **set_values)
