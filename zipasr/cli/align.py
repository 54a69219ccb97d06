"""`zipasr align DIR AUDIO...`: when each word of a known text is said, as CTM, TextGrid or JSON."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zipasr.cli.device_options import add_device_option, add_precision_option
from zipasr.cli.output import result_paths, write_result
from zipasr.cli.recordings import add_file_options
from zipasr.cli.threads import use_threads

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    SubParsers = Any


def add_parser(subparsers: SubParsers) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "align",
        help="find when the words of a known text are said",
        description="Print the times of the words of each recording, whose text is in the file beside it, NAME.txt, unless "
        "it is given. The model must have a CTC head. A recording that cannot be read or does not fit its text is reported "
        "and the next goes on; the exit code is 1 at the end.",
    )
    parser.add_argument("model", metavar="DIR", help="the folder of a training run or of a model")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings of any format; - is the standard input")
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--text", metavar="WORDS", help="what is said, for a single recording")
    texts.add_argument("--text-file", metavar="FILE", help="the file that holds it, for a single recording")
    parser.add_argument(
        "--format",
        choices=("ctm", "textgrid", "json"),
        default="ctm",
        help="ctm: recording, channel, start, duration, word, confidence in a line; textgrid: for Praat, words and tokens; "
        "json: an object in a line (default: ctm)",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="write to this file, or, for several recordings, a file for each into this folder"
    )
    add_file_options(parser)
    add_device_option(parser)
    add_precision_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Align the recordings one after the other and print or write each as soon as it is done."""
    from zipasr.errors import AudioError, DataError
    from zipasr.recognizer import Recognizer
    from zipasr.recognizer.file_alignment import align_file, read_text
    from zipasr.transcript import FORMATS

    targets = _targets(args)
    use_threads(args.model)
    recognizer = Recognizer.load(args.model, device=args.device, precision=args.precision)
    num_failed = 0
    for audio, target in zip(args.audio, targets, strict=True):
        try:
            text = read_text(args.text_file) if args.text_file else args.text
            transcript = align_file(recognizer, audio, text, audio_track=args.audio_track, allow_damaged=args.allow_damaged)
            written = FORMATS[args.format](transcript, audio if args.format == "json" else Path(audio).stem)
            if target is not None:
                write_result(target, written)
        except (AudioError, DataError) as error:
            num_failed += 1
            print(f"zipasr: error: {error}", file=sys.stderr)
            if args.format == "json" and target is None:
                print(json.dumps({"audio": audio, "error": str(error)}, ensure_ascii=False), flush=True)
            continue
        if target is None:
            print(written, end="", flush=True)
    return 1 if num_failed else 0


def _targets(args: argparse.Namespace) -> list[Path | None]:
    """The file that each recording's times go to; None: stdout.

    Raises:
        ConfigError: a flag makes no sense for several recordings.
    """
    from zipasr.errors import ConfigError
    from zipasr.transcript import FILE_ENDINGS

    if len(args.audio) == 1:
        return [Path(args.out) if args.out else None]
    if args.text is not None or args.text_file is not None:
        flag = "--text" if args.text is not None else "--text-file"
        raise ConfigError(f"{flag} is for one recording, got {len(args.audio)}; put a NAME.txt beside each")
    if args.out is None:
        if args.format == "textgrid":
            raise ConfigError(f"a TextGrid holds one recording, got {len(args.audio)}; give a folder with --out")
        return [None] * len(args.audio)
    return list(result_paths(args.audio, args.out, FILE_ENDINGS[args.format]))
