"""`zipasr transcribe DIR AUDIO...`: the text of recordings on stdout, a line each."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from zipasr.cli.search_options import add_search_options, load_recognizer

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    SubParsers = Any


def add_parser(subparsers: SubParsers) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "transcribe",
        help="write down what is said in recordings",
        description="Print the text of each recording, with its name in front if there are several. "
        "One that cannot be read is reported and the next goes on; the exit code is 1 at the end.",
    )
    parser.add_argument("model", metavar="DIR", help="the folder of a training run or of a model")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings of any format")
    add_search_options(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each recording: audio, text, times; or audio, error",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribe the recordings one after the other and print each as soon as it is done."""
    from zipasr.errors import AudioError

    recognizer = load_recognizer(args)
    num_failed = 0
    for audio in args.audio:
        try:
            transcript = recognizer.transcribe(audio)
        except AudioError as error:
            num_failed += 1
            print(f"zipasr: error: {error}", file=sys.stderr)
            if args.json:
                print(json.dumps({"audio": audio, "error": str(error)}, ensure_ascii=False), flush=True)
            continue
        if args.json:
            print(json.dumps({"audio": audio, **transcript.to_dict()}, ensure_ascii=False), flush=True)
        else:
            name = f"{audio}: " if len(args.audio) > 1 else ""
            print(name + transcript.text, flush=True)
    return 1 if num_failed else 0
