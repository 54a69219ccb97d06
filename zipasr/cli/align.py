"""`zipasr align DIR AUDIO...`: the times of the words of a known text, as CTM, TextGrid, JSON or subtitles."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zipasr.cli.cue_options import add_cue_options, cue_config
from zipasr.cli.device_options import add_device_option, add_precision_option
from zipasr.cli.memory import uncollected_imports
from zipasr.cli.model_argument import add_model_argument, fetch_model
from zipasr.cli.recordings import (
    SINGLE_FORMATS,
    add_file_options,
    ctm_names,
    expand_folders,
    refuse_overwriting,
    report_failure,
    result_paths,
    write_result,
)
from zipasr.cli.threads import use_threads
from zipasr.errors import AudioError, ConfigError, DataError
from zipasr.transcript import FILE_ENDINGS, FORMATS, writer


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "align",
        takes="DIR AUDIO...",
        example="zipasr align exp/mine a.wav --text 'HELLO WORLD'",
        help="align a known text with a recording",
        description="Print the times of the words in each recording. The text comes from the file NAME.txt next to the "
        "recording, or from --text or --text-file. The model must have a CTC head. A recording that cannot be read or does "
        "not match its text is reported and skipped; the exit code is then 1.",
    )
    add_model_argument(parser)
    parser.add_argument(
        "audio", metavar="AUDIO", nargs="+", help="recordings of any format, or folders; - is the standard input"
    )
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--text", metavar="WORDS", help="the text of a single recording")
    texts.add_argument("--text-file", metavar="FILE", help="a file with the text of a single recording")
    parser.add_argument(
        "--format",
        choices=[format for format in FORMATS if format != "text"],
        default="ctm",
        help="ctm: recording, channel, start, duration, word and confidence per line; textgrid: words and tokens for Praat; "
        "json: one object per line; srt, vtt, tsv: subtitles (default: ctm)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="write to this file, or, for several recordings or if it is a folder, one file each to this folder",
    )
    add_file_options(parser)
    add_cue_options(parser)
    add_device_option(parser)
    add_precision_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Align the recordings one by one and print or write each result as soon as it is ready; return the exit code."""
    with uncollected_imports():
        from zipasr.recognizer import Recognizer
        from zipasr.recognizer.file_alignment import align_file, read_text

    recordings = expand_folders(args.audio)
    targets = _targets(args, recordings)
    names = ctm_names(recordings) if args.out is None else {}
    write = writer(args.format, cue_config(args, args.format))
    fetch_model(args)
    use_threads(args.model)
    recognizer = Recognizer.load(args.model, device=args.device, precision=args.precision)
    num_failed = 0
    for audio, target in zip(recordings, targets, strict=True):
        try:
            text = read_text(args.text_file) if args.text_file else args.text
            transcript = align_file(recognizer, audio, text, audio_track=args.audio_track, allow_damaged=args.allow_damaged)
            written = write(transcript, audio if args.format == "json" else names.get(audio, Path(audio).stem))
            if target is not None:
                write_result(target, written)
        except (AudioError, DataError) as error:
            num_failed += 1
            report_failure(audio, str(error), is_json=args.format == "json" and target is None)
            continue
        if target is None:
            print(written, end="", flush=True)
    return 1 if num_failed else 0


def _targets(args: argparse.Namespace, recordings: Sequence[str]) -> list[Path | None]:
    """The output file of each recording; None: stdout.

    Raises:
        ConfigError: a flag cannot be used with several recordings, or files beside them would be overwritten.
    """
    if len(recordings) == 1 and (args.out is None or not Path(args.out).is_dir()):
        return [Path(args.out) if args.out else None]
    if len(recordings) > 1 and (args.text is not None or args.text_file is not None):
        flag = "--text" if args.text is not None else "--text-file"
        raise ConfigError(f"{flag} must go with one recording, but there are {len(recordings)}; put a NAME.txt next to each")
    if args.out is None:
        if args.format in SINGLE_FORMATS:
            raise ConfigError(
                f"a {args.format} file holds one recording, but there are {len(recordings)}; give a folder with --out"
            )
        return [None] * len(recordings)
    paths = result_paths(recordings, args.out, FILE_ENDINGS[args.format])
    refuse_overwriting(recordings, paths)
    return list(paths)
