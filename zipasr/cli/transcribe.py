"""`zipasr transcribe DIR AUDIO...`: the text of recordings on stdout, or files of subtitles, tables and times."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zipasr.cli.output import result_paths, write_result
from zipasr.cli.recordings import add_file_options
from zipasr.cli.search_options import add_chunk_options, add_search_options, load_recognizer

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    SubParsers = Any

_FILE_FORMATS = ("srt", "vtt", "tsv", "textgrid")
"""Formats in which a file holds one recording, so that several cannot be printed one after the other."""
_FORMATS = ("text", "json", "srt", "vtt", "tsv", "ctm", "textgrid")


def add_parser(subparsers: SubParsers) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "transcribe",
        help="write down what is said in recordings",
        description="Print the text of each recording, with its name in front if there are several. "
        "One that cannot be read is reported and the next goes on; the exit code is 1 at the end.",
    )
    parser.add_argument("model", metavar="DIR", help="the folder of a training run or of a model")
    parser.add_argument(
        "audio", metavar="AUDIO", nargs="*", default=[], help="recordings of any format and length; - is the standard input"
    )
    parser.add_argument("--list", metavar="FILE", help="more recordings, a path a line; - reads them from stdin")
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        help="text (default); json: text, times, confidence; srt, vtt, tsv: subtitles; ctm, textgrid: times of the words",
    )
    parser.add_argument("--json", action="store_true", help="the same as --format json: an object a line")
    parser.add_argument("--out", metavar="FOLDER", help="write a file for each recording here instead of printing")
    parser.add_argument("--num-best", type=int, metavar="N", help="readings in the JSON, the best first (default: 1)")
    channels = parser.add_mutually_exclusive_group()
    channels.add_argument("--channel", type=int, metavar="N", help="listen to one channel, from 0 (default: all, mixed)")
    channels.add_argument("--per-channel", action="store_true", help="transcribe every channel by itself, as of a call")
    add_file_options(parser)
    parser.add_argument(
        "--vad",
        action=argparse.BooleanOptionalAction,
        help="cut recordings of over 30 s in pauses and leave silence out (default: if silero-vad is installed)",
    )
    add_search_options(parser)
    add_chunk_options(parser, "hear recordings in chunks of this length, as a stream would")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribe the recordings and print or write each as soon as it is done."""
    from zipasr.errors import ConfigError
    from zipasr.progress import Progress
    from zipasr.recognizer import LongRecordingConfig
    from zipasr.transcript import FILE_ENDINGS, FORMATS

    if args.json and args.format not in (None, "json"):
        raise ConfigError(f"--json is --format json, but --format is {args.format}; leave one of them out")
    format = "json" if args.json else args.format or "text"
    if args.num_best is not None and format != "json":
        raise ConfigError(f"--num-best has no effect with --format {format}; use --json, or leave it out")
    if "-" in args.audio and args.list == "-":
        raise ConfigError("the standard input must be a recording or the --list, but is asked for as both")
    paths = [*args.audio, *_listed(args.list)]
    if not paths:
        raise ConfigError("there must be recordings to transcribe, but none is named; name some, or a --list with paths")
    if format in _FILE_FORMATS and not args.out and (len(paths) > 1 or args.per_channel):
        raise ConfigError(f"a file of {format} holds one recording; give a folder for several with --out")
    targets = dict(zip(paths, result_paths(paths, args.out, FILE_ENDINGS[format]), strict=True)) if args.out else {}
    recognizer = load_recognizer(args, long_recordings=LongRecordingConfig(use_vad=args.vad), simulate_streaming=True)
    num_failed = 0
    with Progress("transcribe", unit="s", delay_s=5.0) as progress:
        for result in recognizer.transcribe_files(
            paths,
            channel=args.channel,
            is_per_channel=args.per_channel,
            audio_track=args.audio_track,
            allow_damaged=args.allow_damaged,
            on_progress=progress.set_done,
        ):
            if result.transcript is None:
                num_failed += 1
                print(f"zipasr: error: {result.error}", file=sys.stderr)
                if format == "json" and not args.out:
                    print(json.dumps({"audio": result.path, "error": str(result.error)}, ensure_ascii=False), flush=True)
                continue
            written = FORMATS[format](result.transcript, Path(result.path).stem if format == "ctm" else result.path)
            if args.out:
                target = targets[result.path]
                if args.per_channel:
                    target = target.with_stem(f"{target.stem}-{result.transcript.channel}")
                write_result(target, written)
                print(target, flush=True)
                continue
            if format == "text":
                name = f"{result.path}: " if len(paths) > 1 else ""
                written = (f"{name}[channel {result.transcript.channel}] " if args.per_channel else name) + written
            print(written, end="", flush=True)
    return 1 if num_failed else 0


def _listed(path: str | None) -> list[str]:
    """The lines of a file, or of stdin, that are not empty."""
    from zipasr.errors import ConfigError

    if path is None:
        return []
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--list must be a file with a path a line, but {path} cannot be read: {error}") from error
    # The name of a file may be any bytes; what is no UTF-8 in it is kept so that the file can be opened.
    lines = content.decode("utf-8-sig", "surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]
