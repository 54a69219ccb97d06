"""`zipasr transcribe DIR AUDIO...`: the text of recordings on stdout, or files with subtitles, tables or word times."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zipasr.cli.console import log_lines
from zipasr.cli.cue_options import add_cue_options, cue_config
from zipasr.cli.flags import flag
from zipasr.cli.memory import uncollected_imports
from zipasr.cli.model_argument import add_model_argument, fetch_model
from zipasr.cli.recordings import (
    SINGLE_FORMATS,
    add_file_options,
    ctm_names,
    expand_folders,
    is_beside,
    refuse_overwriting,
    report_failure,
    result_paths,
    write_result,
)
from zipasr.cli.search_options import (
    add_chunk_options,
    add_search_options,
    add_vad_option,
    load_recognizer,
    search_config,
)
from zipasr.cli.threads import divide_threads
from zipasr.errors import AudioError, ConfigError
from zipasr.lfs import refuse_pointer
from zipasr.lines import decode_text, read_whole
from zipasr.transcript import FILE_ENDINGS, FORMATS, channel_label, writer

if TYPE_CHECKING:
    from zipasr.progress import Progress
    from zipasr.recognizer import FileResult, Recognizer

_UNSHARED = ("-", "/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Starts of paths that only this process can open."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "transcribe",
        takes="DIR [AUDIO...]",
        example="zipasr transcribe exp/mine talk.mp3 --format srt --out subtitles",
        help="transcribe recordings",
        description="Print the text of each recording, after its name if there are several. "
        "A recording that cannot be read is reported and skipped; the exit code is then 1.",
    )
    add_model_argument(parser)
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        nargs="*",
        default=[],
        help="recordings of any format and length, or folders of them; - is the standard input",
    )
    parser.add_argument("--list", metavar="FILE", help="file with more recordings, one path per line; - is stdin")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="text (default); json: text, times, confidence; srt, vtt, tsv: subtitles; ctm, textgrid: word times",
    )
    parser.add_argument("--json", action="store_true", help="the same as --format json: one object per line")
    _add_batch_options(parser)
    parser.add_argument("--num-best", type=int, help="number of n-best hypotheses in the JSON (default: 1)")
    channels = parser.add_mutually_exclusive_group()
    channels.add_argument("--channel", type=int, help="use one channel, from 0 (default: the mean of all)")
    channels.add_argument("--per-channel", action="store_true", help="one transcript for every channel")
    channels.add_argument(
        "--merge-channels",
        action="store_true",
        help="transcribe every channel separately and merge the results into one transcript, turn by turn, as for a call",
    )
    add_file_options(parser)
    add_cue_options(parser)
    add_vad_option(parser)
    add_search_options(parser)
    add_chunk_options(parser, "process recordings in chunks of this length, like a stream")
    parser.set_defaults(run=run)


def _add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that matter for many recordings."""
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="write one file per recording instead of printing, in subfolders like those of the recordings",
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder whose subfolders --out mirrors (default: the deepest one that contains all recordings)",
    )
    parser.add_argument("--skip-existing", action="store_true", help="skip recordings whose result is in --out already")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="transcribe N recordings at once, in N processes, each with a copy of the model and its share of --threads "
        "(default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Transcribe the recordings and print or write each result as soon as it is ready; return the exit code."""
    with uncollected_imports():
        from zipasr.progress import Progress
        from zipasr.recognizer import merge_results

    format = _format(args)
    paths = expand_folders([*args.audio, *_listed(args.list)])
    _check(args, format, paths)
    write = writer(format, cue_config(args, format))
    search_config(args)  # misuse is reported before work starts
    targets = _targets(args, format, paths)
    names = {} if args.out or format != "ctm" else ctm_names(paths)
    todo = [path for path in paths if not (args.skip_existing and _is_done(args, path, targets[path]))]
    if len(todo) < len(paths) and not args.quiet:
        print(f"zipasr: skipped {len(paths) - len(todo)} of {len(paths)} recordings, which have results", file=sys.stderr)
    if not todo:
        return 0
    num_failed = 0
    with Progress("transcribe", unit="s", delay_s=5.0) as progress:
        results: Iterable[FileResult] = _results(args, todo, progress)
        for result in merge_results(results) if args.merge_channels else results:
            if result.transcript is None:
                num_failed += 1
                report_failure(result.path, str(result.error), is_json=format == "json" and not args.out)
                continue
            name = Path(result.path).stem if format == "ctm" else result.path
            written = write(result.transcript, names.get(result.path, name))
            if args.out:
                target = targets[result.path]
                if args.per_channel:
                    target = _of_channel(target, result.transcript.channel)
                if args.skip_existing and target.is_file():  # of a call whose other channels have none
                    continue
                write_result(target, written)
                written = f"{target}\n"
            elif format == "text":
                name = f"{result.path}: " if len(paths) > 1 else ""
                name += channel_label(result.transcript.channel) if args.per_channel else ""
                written = "".join(f"{name}{line}\n" for line in written.splitlines())
            print(written, end="", flush=True)
    return 1 if num_failed else 0


def _targets(args: argparse.Namespace, format: str, paths: Sequence[str]) -> dict[str, Path]:
    """The output file of each recording, from whose name those of its channels follow; empty without --out.

    Raises:
        ConfigError: two recordings would share a file, or a file beside a recording would be replaced.
    """
    if not args.out:
        return {}
    targets = dict(zip(paths, result_paths(paths, args.out, FILE_ENDINGS[format], root=args.root), strict=True))
    if not args.skip_existing:
        pairs = [(path, output) for path, target in targets.items() for output in _outputs_beside(args, path, target)]
        recordings, outputs = [path for path, _ in pairs], [output for _, output in pairs]
        refuse_overwriting(recordings, outputs, cure="skip recordings that have one with --skip-existing, ")
    return targets


def _outputs_beside(args: argparse.Namespace, recording: str, target: Path) -> list[Path]:
    """The output files of a recording that are in its own folder, where they might replace others."""
    if not is_beside(target, recording):
        return []
    if not args.per_channel:
        return [target]
    if os.path.isfile(recording):
        return [_of_channel(target, channel) for channel in range(_num_channels(args, recording) or 0)]
    # A pipe, whose channels are not known yet
    of_channels = re.compile(rf"{re.escape(target.stem)}-\d+{re.escape(target.suffix)}")
    return [path for path in target.parent.iterdir() if of_channels.fullmatch(path.name)]


def _format(args: argparse.Namespace) -> str:
    if args.json and args.format not in (None, "json"):
        raise ConfigError(f"--json means --format json, but --format is {args.format}; leave one of them out")
    return "json" if args.json else args.format or "text"


def _check(args: argparse.Namespace, format: str, paths: Sequence[str]) -> None:
    """Raise ConfigError for flags that do not go together."""
    if args.num_best is not None and format != "json":
        raise ConfigError(f"--num-best has no effect with --format {format}; use --json, or leave it out")
    if args.num_best is not None and args.merge_channels:
        raise ConfigError("--num-best has no effect with --merge-channels; use --per-channel, or leave it out")
    if "-" in args.audio and args.list == "-":
        raise ConfigError("the standard input must be a recording or the --list, but is given as both")
    if not paths:
        raise ConfigError("the recordings to transcribe must be named, but none are; name some, or give a --list of paths")
    if format in SINGLE_FORMATS and not args.out and (len(paths) > 1 or args.per_channel):
        raise ConfigError(f"a {format} file holds one recording; give a folder for several with --out")
    for name in ("skip_existing", "root"):
        if getattr(args, name) and not args.out:
            raise ConfigError(f"{flag(name)} has no effect without --out; give that too, or leave it out")
    unshared = [path for path in paths if path.startswith(_UNSHARED)]
    if args.jobs != 1 and unshared:
        raise ConfigError(f"--jobs must be 1 for pipes of the shell, but is {args.jobs} with {unshared[0]}; name files")


def _results(args: argparse.Namespace, paths: Sequence[str], progress: "Progress") -> "Iterator[FileResult]":
    """The results of the recordings in their order, from this process or from several."""
    from zipasr.recognizer import transcribe_in_processes

    if args.jobs == 1:
        done_s = 0.0

        def show(seconds: float) -> None:
            """Show how much is done, with `seconds` of the recording that is being transcribed."""
            progress.set_done(done_s + seconds)

        for result in _transcribe(args, _load(args), paths, show):
            done_s = progress.done if result.transcript is None else done_s + result.transcript.duration_s
            progress.set_done(done_s)
            yield result
        return
    fetch_model(args)
    args = argparse.Namespace(**{**vars(args), "threads": divide_threads(args.model, args.jobs, args.threads)})
    for result in transcribe_in_processes(
        paths, num_jobs=args.jobs, load=partial(_load, args), transcribe=partial(_transcribe_one, args)
    ):
        progress.update(result.transcript.duration_s if result.transcript is not None else 0.0)
        yield result


def _load(args: argparse.Namespace) -> "Recognizer":
    from zipasr.recognizer import LongRecordingConfig

    return load_recognizer(args, long_recordings=LongRecordingConfig(use_vad=args.vad), simulate_streaming=True)


def _transcribe(
    args: argparse.Namespace,
    recognizer: "Recognizer",
    paths: Sequence[str],
    on_progress: Callable[[float], None] | None = None,
) -> "Iterator[FileResult]":
    return recognizer.transcribe_files(
        paths,
        channel=args.channel,
        is_per_channel=args.per_channel or args.merge_channels,
        audio_track=args.audio_track,
        allow_damaged=args.allow_damaged,
        on_progress=on_progress,
    )


def _transcribe_one(args: argparse.Namespace, recognizer: "Recognizer", path: str) -> "Iterator[FileResult]":
    """The results of one recording in a process of its own, whose warnings go to stderr as those of the command."""
    with log_lines(is_quiet=args.quiet):
        yield from _transcribe(args, recognizer, [path])


def _of_channel(path: Path, channel: int | None) -> Path:
    return path.with_stem(f"{path.stem}-{channel}")


def _is_done(args: argparse.Namespace, recording: str, target: Path) -> bool:
    """Whether a recording has all its output files, which are never left half written."""
    if not args.per_channel:
        return target.is_file()
    if not _of_channel(target, 0).is_file() or not os.path.isfile(recording):
        return False
    number = _num_channels(args, recording)
    return number is not None and all(_of_channel(target, channel).is_file() for channel in range(number))


def _num_channels(args: argparse.Namespace, recording: str) -> int | None:
    """The number of channels of a file; None: it cannot be read, which is reported when its turn comes."""
    from zipasr.audio import num_channels

    try:
        return num_channels(recording, audio_track=args.audio_track, allow_damaged=args.allow_damaged)
    except AudioError:
        return None


def _standard_input() -> bytes:
    stdin = getattr(sys.stdin, "buffer", None)  # None: a program without a console
    if stdin is None:
        raise ValueError("the standard input is closed")
    return bytes(stdin.read())


def _listed(path: str | None) -> list[str]:
    """The paths in a list file or on stdin, one per nonempty line."""
    if path is None:
        return []
    try:
        content = _standard_input() if path == "-" else read_whole(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--list must be a file with one path per line, but {path} cannot be read: {error}") from error
    refuse_pointer(content, path, ConfigError)
    try:
        # File names may be any bytes; bytes that are not UTF-8 are preserved so that the file can be opened.
        lines = decode_text(content, "surrogateescape").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--list must be text in UTF-8 or UTF-16, but {path} is not: {error}; save it in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]
