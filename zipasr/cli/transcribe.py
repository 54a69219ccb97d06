"""`zipasr transcribe DIR AUDIO...`: the text of recordings on stdout, or files with subtitles, tables or word times."""

import argparse
import json
import sys
from pathlib import Path

from zipasr.cli.recordings import add_file_options, result_paths, write_result
from zipasr.cli.search_options import add_chunk_options, add_search_options, load_recognizer
from zipasr.errors import ConfigError
from zipasr.transcript import FILE_ENDINGS, FORMATS

_FILE_FORMATS = ("srt", "vtt", "tsv", "textgrid")
"""Formats whose files hold a single recording, so that several recordings cannot share stdout."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "transcribe",
        help="transcribe recordings",
        description="Print the text of each recording, after its name if there are several. "
        "A recording that cannot be read is reported and skipped; the exit code is then 1.",
    )
    parser.add_argument("model", metavar="DIR", help="the folder of a training run or of a model")
    parser.add_argument(
        "audio", metavar="AUDIO", nargs="*", default=[], help="recordings of any format and length; - is the standard input"
    )
    parser.add_argument("--list", metavar="FILE", help="file with more recordings, one path per line; - is stdin")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="text (default); json: text, times, confidence; srt, vtt, tsv: subtitles; ctm, textgrid: word times",
    )
    parser.add_argument("--json", action="store_true", help="the same as --format json: one object per line")
    parser.add_argument("--out", metavar="FOLDER", help="write one file per recording to this folder instead of printing")
    parser.add_argument("--num-best", type=int, metavar="N", help="n-best hypotheses in the JSON (default: 1)")
    channels = parser.add_mutually_exclusive_group()
    channels.add_argument("--channel", type=int, metavar="N", help="use one channel, from 0 (default: the mean of all)")
    channels.add_argument("--per-channel", action="store_true", help="transcribe every channel separately, as for a call")
    add_file_options(parser)
    parser.add_argument(
        "--vad",
        action=argparse.BooleanOptionalAction,
        help="split recordings longer than 30 s at pauses and skip silence (default: if silero-vad is installed)",
    )
    add_search_options(parser)
    add_chunk_options(parser, "process recordings in chunks of this length, like a stream")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribe the recordings and print or write each result as soon as it is ready; return the exit code."""
    from zipasr.progress import Progress
    from zipasr.recognizer import LongRecordingConfig

    if args.json and args.format not in (None, "json"):
        raise ConfigError(f"--json means --format json, but --format is {args.format}; leave one of them out")
    format = "json" if args.json else args.format or "text"
    if args.num_best is not None and format != "json":
        raise ConfigError(f"--num-best has no effect with --format {format}; use --json, or leave it out")
    if "-" in args.audio and args.list == "-":
        raise ConfigError("the standard input must be a recording or the --list, but is given as both")
    paths = [*args.audio, *_listed(args.list)]
    if not paths:
        raise ConfigError("the recordings to transcribe must be named, but none are; name some, or give a --list of paths")
    if format in _FILE_FORMATS and not args.out and (len(paths) > 1 or args.per_channel):
        raise ConfigError(f"a {format} file holds one recording; give a folder for several with --out")
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
    """The paths in a list file or on stdin, one per nonempty line."""
    if path is None:
        return []
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--list must be a file with one path per line, but {path} cannot be read: {error}") from error
    # File names may be any bytes; bytes that are not UTF-8 are preserved so that the file can be opened.
    lines = content.decode("utf-8-sig", "surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]
