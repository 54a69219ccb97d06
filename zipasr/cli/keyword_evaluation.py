"""`zipasr evaluate --keywords`: its flags, and what it prints."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zipasr.cli.console import right_aligned
from zipasr.cli.flags import flag, given, refuse_without
from zipasr.cli.keyword_options import SPOTTER_FLAGS, add_keyword_file_option, add_spotter_options, make_spotter
from zipasr.cli.recordings import write_result
from zipasr.cli.references import read_utterances, report_unreadable
from zipasr.errors import ConfigError

if TYPE_CHECKING:
    from zipasr.evaluate import KeywordReport, KeywordResult, ReferenceUtterance
    from zipasr.prepare import References
    from zipasr.recognizer import Recognizer

_OTHERS = (
    "tune",
    "tune_rejection",
    "calibration",
    "save",
    "compare",
    "scoring",
    "lm",
    "lodr",
    "hotwords",
    "graph",
    "beam",
    "blank_penalty",
    "temperature",
    "ngram_scale",
    "ctc_scale",
    "attention_scale",
)
"""Flags of the evaluation of texts, which have no effect on keywords."""


def add_keyword_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of keyword spotting to `evaluate`."""
    add_keyword_file_option(parser, "measure keyword spotting instead of transcripts")
    parser.add_argument(
        "--negatives",
        action="append",
        metavar="SET",
        help="with --keywords: more recordings, to count false alarms in; may be repeated",
    )
    parser.add_argument(
        "--max-alarms",
        type=float,
        help="with --keywords: choose thresholds with at most this many false alarms per hour (default: 1)",
    )
    parser.add_argument(
        "--save-keywords", metavar="FILE", help="write the keywords with the chosen thresholds to this file; use a dev set"
    )
    add_spotter_options(parser)


def check_keyword_evaluation(args: argparse.Namespace) -> None:
    """Check that flags of keywords and of transcripts are not mixed.

    Raises:
        ConfigError: they are.
    """
    refuse_without(args, "keywords", *SPOTTER_FLAGS, "negatives", "max_alarms", "save_keywords")
    if args.keywords is None:
        return
    if args.save_keywords and args.boost == 0:
        raise ConfigError("a boost of 0 cannot be saved, since 0 means the default in a file; leave --save-keywords out")
    if args.search != "auto":
        raise ConfigError("--search has no effect with --keywords, which the transducer finds; leave one out")
    for name in given(args, _OTHERS):
        if getattr(args, name) is not False:
            raise ConfigError(f"{flag(name)} has no effect with --keywords; leave one out, or use two commands")


def evaluate_spotter(args: argparse.Namespace, recognizer: "Recognizer", references: "References") -> int:
    """Evaluate the keywords and print the results; return the exit code."""
    from zipasr.evaluate import evaluate_keywords
    from zipasr.progress import write_line

    max_alarms_per_h = 1.0 if args.max_alarms is None else args.max_alarms
    spotter = make_spotter(args, recognizer)
    report = evaluate_keywords(spotter, _recordings(args, references), max_alarms_per_h=max_alarms_per_h)
    report_unreadable(report.unreadable)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if args.json else _table(report, max_alarms_per_h))
    if args.out:
        write_result(Path(args.out), "".join(f"{line}\n" for line in _rows(report)))
        write_line(f"zipasr: what was found in each recording: {args.out}")
    if args.save_keywords:
        write_result(Path(args.save_keywords), _with_thresholds(args, report))
        write_line(f"zipasr: keywords with the chosen thresholds: {args.save_keywords}")
    if args.plot:
        write_line(f"zipasr: detection error tradeoff: {_plot(report, args.plot)}")
    return 1 if report.unreadable else 0


def _recordings(args: argparse.Namespace, references: "References") -> "Iterator[ReferenceUtterance]":
    """The recordings of the set, then those of the negatives."""
    from zipasr.prepare import open_references

    yield from read_utterances(references, "spot")
    for source in args.negatives or ():
        with open_references(source, has_progress=True) as more:
            yield from read_utterances(more, "spot negatives")


def _table(report: "KeywordReport", max_alarms_per_h: float) -> str:
    """Two tables: with the thresholds that were given, and with the chosen ones."""
    lines = [
        "keywords at their thresholds:",
        *_rows_of(report.results),
        f"at the thresholds with the fewest misses and at most {max_alarms_per_h:g} false alarms per hour of each keyword:",
        *_rows_of(report.chosen),
        f"{len(report.utterances)} recordings, {report.audio_s:.1f} s of audio in {report.decode_s:.1f} s",
    ]
    if report.unreadable:
        lines.append(f"{len(report.unreadable)} skipped because they cannot be read")
    return "\n".join(lines)


def _rows_of(results: "tuple[KeywordResult, ...]") -> list[str]:
    from zipasr.evaluate import together

    shown = [*results, together(results)] if len(results) > 1 else list(results)
    rows = [("keyword", "threshold", "missed", "of", "%", "false alarms", "in hours", "per hour, 95 % sure: below")]
    for result in shown:
        rows.append(
            (
                result.name,
                f"{result.threshold:.2f}" if result in results else "",
                str(result.num_missed),
                str(result.num_said),
                f"{result.miss_rate:.1f}",
                str(result.num_alarms),
                f"{result.negative_h:.3f}",
                f"{result.alarms_bound_per_h:.2f}",
            )
        )
    return [f"  {line}" for line in right_aligned(rows)]


def _plot(report: "KeywordReport", path: str) -> Path:
    from zipasr.plots import plot_detection

    curves, marks = {}, {}
    for result in report.results:
        said, hours = max(1, result.num_said), result.negative_h or 1.0
        curves[result.name] = [(p.num_alarms / hours, 100.0 * p.num_missed / said) for p in report.curves[result.name]]
        marks[result.name] = (result.num_alarms / hours, result.miss_rate)
    return plot_detection(curves, path, marks=marks)


def _rows(report: "KeywordReport") -> Iterator[str]:
    """A JSON line for each recording."""
    for utterance in report.utterances:
        row = {
            "id": utterance.id,
            "duration_s": round(utterance.duration_s, 3),
            "said": sorted(utterance.said),
            "found": [event.to_dict() for event in utterance.candidates],
        }
        yield json.dumps(row, ensure_ascii=False)


def _with_thresholds(args: argparse.Namespace, report: "KeywordReport") -> str:
    """The file of keywords with the chosen thresholds, and with the boost at which they were chosen."""
    from zipasr.search.keywords import keyword_line, read_keywords

    lines = []
    for keyword, result in zip(read_keywords(args.keywords), report.chosen, strict=True):
        boost = args.boost if keyword.boost is None else keyword.boost
        lines.append(f"{keyword_line(keyword._replace(boost=boost, threshold=result.threshold))}\n")
    return "".join(lines)
