"""`zipasr evaluate DIR SET`: error rates, tuned settings and calibrated confidence on recordings with known text."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zipasr.cli.console import right_aligned
from zipasr.cli.flags import given, refuse_without
from zipasr.cli.keyword_evaluation import add_keyword_evaluation_options, check_keyword_evaluation, evaluate_spotter
from zipasr.cli.model_argument import add_model_argument
from zipasr.cli.references import read_utterances, report_unreadable
from zipasr.cli.search_options import add_chunk_options, add_search_options, load_recognizer
from zipasr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zipasr.evaluate import CalibrationReport, EvaluationReport, ReferenceUtterance, TunedSetting
    from zipasr.prepare import References
    from zipasr.recognizer import Recognizer
    from zipasr.search.comparison import ComparedSearch
    from zipasr.search.strategy import SearchConfig

_NUM_WORST = 5
_NUM_SETTINGS = 10
_COMPARED_S = 1800.0
"""Up to this many seconds of audio, a second pass for the other searches is cheap."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        takes="DIR SET",
        example="zipasr evaluate exp/mine data/mine/test_cuts.jsonl.gz",
        help="measure error rates and speed, tune the search, calibrate confidence",
        description="Transcribe recordings whose text is known and count the errors. A recording that cannot be read is "
        "reported and skipped; the exit code is then 1.",
    )
    add_model_argument(parser)
    parser.add_argument(
        "cuts",
        metavar="SET",
        help="Lhotse cuts, such as DATA/test_cuts.jsonl.gz; or recordings with texts in any form that prepare takes: a "
        "folder, a manifest, a Kaldi directory",
    )
    add_search_options(parser)
    add_chunk_options(parser, "process recordings in chunks of this length, like a stream")
    parser.add_argument(
        "--scoring",
        metavar="RULES",
        help="as-is (default); words: ignore case and punctuation, hyphens separate words; or the rules of a published "
        "corpus: gigaspeech",
    )
    _add_tuning_options(parser)
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="compare all searches (default: without --search, --lm, --hotwords, --graph, for up to half an hour)",
    )
    add_keyword_evaluation_options(parser)
    parser.add_argument(
        "--plot",
        metavar="PNG",
        help="draw the reliability curve of --calibration, or misses over false alarms of --keywords, to this file",
    )
    parser.add_argument("--out", metavar="FILE", help="write a JSON line per utterance to this file")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, rates in percent")
    parser.set_defaults(run=run)


def _add_tuning_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose settings on a dev set, and save them."""
    parser.add_argument(
        "--tune",
        nargs="*",
        metavar="NAME=X,X,...",
        help="try all combinations of settings instead, such as lm_scale=0.1,0.3 blank_penalty=0,1; without names, a "
        "default grid; use a dev set",
    )
    parser.add_argument(
        "--tune-rejection",
        metavar="SET",
        help="with --graph: other speech, in any form that prepare takes; find the threshold above which the answer is best "
        "nothing, given a dev set of what the graph allows as the other SET",
    )
    parser.add_argument(
        "--calibration",
        action="store_true",
        help="also measure how reliable word confidence is, raw and calibrated; use a dev set",
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="save the result in the model's folder: the calibration of --calibration, or, as the default search, the "
        "best setting of --tune or the best of the compared searches; or the threshold of --tune-rejection in the folder of "
        "the graph; use a dev set",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the results; return the exit code."""
    from zipasr.hub import refuse_built_in
    from zipasr.prepare import open_references
    from zipasr.recognizer.opening import search_folder

    _check(args)
    if args.tune_rejection is not None:
        return _tune_rejection(args)
    recognizer = load_recognizer(args, simulate_streaming=True)
    if args.save:
        refuse_built_in(search_folder(args.model))
    with open_references(args.cuts, has_progress=True) as references:
        if args.keywords is not None:
            return evaluate_spotter(args, recognizer, references)
        if args.tune is not None:
            return _tune(args, recognizer, references)
        return _evaluate(args, recognizer, references)


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError for flags that contradict each other, have no effect or no possible value."""
    from zipasr.evaluate import parse_grid
    from zipasr.evaluate.rates import rewriting
    from zipasr.plots import check_figure

    check_keyword_evaluation(args)
    rewriting(args.scoring)
    parse_grid(args.tune or ())
    if args.plot and not args.calibration and args.keywords is None:
        raise ConfigError("--plot has no effect without --calibration or --keywords; give one too, or leave --plot out")
    if args.plot:
        check_figure(args.plot)
    if args.tune is not None and (args.calibration or args.out or args.compare):
        raise ConfigError(
            "--tune tries many settings, but --calibration, --compare and --out evaluate one; use them in separate commands"
        )
    if args.tune_rejection is not None:
        _check_rejection(args)
        return
    if args.compare is False and args.save and args.tune is None and not args.calibration:
        raise ConfigError("--save saves the best of the compared searches, but --no-compare compares none; leave one out")
    if args.compare and given(args, ("lm", "hotwords", "graph")):
        raise ConfigError(
            "--compare compares searches without language models, hotwords and graphs; leave --lm, --hotwords and --graph "
            "out"
        )
    if args.save and args.graph is not None and not args.calibration:
        raise ConfigError("--save saves a default search, which has no graph; leave --save or --graph out")
    if args.save and args.tune is None and not args.calibration and given(args, ("lm", "hotwords")):
        raise ConfigError(
            "--save saves the best of the compared searches, which have no language model and no hotwords; leave --lm and "
            "--hotwords out, or save tuned settings with --tune"
        )


def _evaluate(args: argparse.Namespace, recognizer: "Recognizer", references: "References") -> int:
    from zipasr.evaluate import calibrate, evaluate, save_calibration
    from zipasr.progress import write_line

    if args.calibration:
        recognizer.engine.calibrations.clear()  # a saved calibration must not be applied before fitting a new one
    report = evaluate(recognizer, read_utterances(references), scoring=args.scoring)
    report_unreadable(report.unreadable)
    measured = calibrate(report.results) if args.calibration else None
    compared = _compared(args, recognizer, references, report)
    if args.json:
        extra: dict[str, Any] = {} if measured is None else {"confidence": measured.to_dict()}
        if compared:
            extra["searches"] = [result.to_dict() for result in compared]
        print(json.dumps(report.to_dict() | {"search": recognizer.search.changes()} | extra))
    else:
        print(_table(report))
        if compared:
            print(_comparison_table(args, recognizer, report, compared))
        if measured is not None:
            print(_confidence_table(measured))
    if args.out:
        report.write_results(args.out)
        write_line(f"zipasr: results per utterance: {args.out}")
    if measured is not None and args.save:
        path = save_calibration(args.model, recognizer.search.method, measured.calibration)
        write_line(f"zipasr: calibration of the search {recognizer.search.method}: {path}")
    elif args.save:
        from zipasr.search.comparison import best_search

        _save_default(args, best_search(compared).search, compared, len(report.results))
    if measured is not None and args.plot:
        from zipasr.plots import plot_reliability

        curves = {"raw": measured.raw.curve, "calibrated on other utterances": measured.calibrated.curve}
        write_line(f"zipasr: reliability curve: {plot_reliability(curves, args.plot)}")
    _hint_at_style(args, recognizer, report)
    return 1 if report.unreadable else 0


def _hint_at_style(args: argparse.Namespace, recognizer: "Recognizer", report: "EvaluationReport") -> None:
    """Say on stderr if the references are written in another style than the model writes."""
    from zipasr.evaluate import describe_style
    from zipasr.progress import write_line

    if args.scoring in (None, "as-is"):
        pairs = [(result.ref, result.hyp) for result in report.results]
        hint = describe_style(pairs, recognizer.engine.tokenizer)
        if hint is not None:
            write_line(f"zipasr: {hint}")


def _compared(
    args: argparse.Namespace, recognizer: "Recognizer", references: "References", report: "EvaluationReport"
) -> "list[ComparedSearch]":
    """The results of all searches on the same recordings, if requested, or if cheap and no search was chosen; else empty."""
    from zipasr.evaluate import compare_searches

    is_plain = args.search == "auto" and not (args.lm or args.hotwords or args.graph or args.calibration)
    is_cheap = report.audio_s <= _COMPARED_S
    is_wanted = args.compare if args.compare is not None else (is_plain and is_cheap) or (args.save and not args.calibration)
    return compare_searches(recognizer, read_utterances(references), scoring=args.scoring) if is_wanted else []


def _comparison_table(
    args: argparse.Namespace, recognizer: "Recognizer", report: "EvaluationReport", compared: "list[ComparedSearch]"
) -> str:
    from zipasr.evaluate import explain
    from zipasr.search.comparison import format_comparison

    what = f"{Path(args.cuts).name} ({len(report.results)} utterances)"
    notes = [f"note: {finding}" for finding in explain(recognizer, compared)]
    return "\n".join([format_comparison(compared, recognizer.search, what=what), *notes])


def _save_default(
    args: argparse.Namespace, search: "SearchConfig", compared: "list[ComparedSearch]", num_utterances: int
) -> None:
    from zipasr.evaluate import save_default_search
    from zipasr.progress import write_line

    chunks = "" if args.chunk_ms is None else f" in chunks of {args.chunk_ms} ms"
    chosen_on = f"{Path(args.cuts).name} ({num_utterances} utterances{chunks})"
    path = save_default_search(args.model, search, compared, chosen_on=chosen_on)
    write_line(f"zipasr: the default search is now {search}: {path}")


def _tune(args: argparse.Namespace, recognizer: "Recognizer", references: "References") -> int:
    from zipasr.evaluate import default_grid, keep_ngram, parse_grid, tune

    grid = parse_grid(args.tune) or default_grid(recognizer)
    unreadable: list[tuple[str, str]] = []
    try:
        tuned = tune(recognizer, _readable(read_utterances(references), unreadable), grid, scoring=args.scoring)
    finally:
        report_unreadable(unreadable)
    print(json.dumps([setting.to_dict() for setting in tuned]) if args.json else _tuned_table(tuned))
    if args.save:
        best = tuned[0].search
        if args.lm is not None and args.ngram_scale is None and "ngram_scale" not in grid:
            best = keep_ngram(args.model, best)
        _save_default(args, best, [], tuned[0].num_utterances)
    return 1 if unreadable else 0


def _check_rejection(args: argparse.Namespace) -> None:
    refuse_without(args, "graph", "tune_rejection")
    if args.tune is not None or args.calibration or args.compare or args.out:
        raise ConfigError(
            "--tune-rejection gives a threshold, but --tune, --calibration, --compare and --out give other results; use "
            "them in separate commands"
        )


def _tune_rejection(args: argparse.Namespace) -> int:
    from zipasr.evaluate import tune_rejection, without_long
    from zipasr.prepare import open_references
    from zipasr.progress import write_line
    from zipasr.search.graph.folder import write_settings
    from zipasr.search.graph.rejection import REJECTION

    recognizer = load_recognizer(args, simulate_streaming=True)
    unreadable: list[tuple[str, str]] = []
    with (
        open_references(args.cuts, has_progress=True) as allowed,
        open_references(args.tune_rejection, has_progress=True) as other,
    ):
        sets = (
            _readable(without_long(recognizer, read_utterances(references)), unreadable) for references in (allowed, other)
        )
        try:
            tuned = tune_rejection(recognizer, *sets, scoring=args.scoring)
        finally:
            report_unreadable(unreadable)
    print(json.dumps(tuned.to_dict()) if args.json else tuned)
    if args.save:
        write_settings(args.graph, {REJECTION: tuned.threshold})
        write_line(f"zipasr: the threshold is saved: {args.graph}")
    return 1 if unreadable else 0


def _readable(
    utterances: "Iterable[ReferenceUtterance]", unreadable: list[tuple[str, str]]
) -> "Iterator[ReferenceUtterance]":
    """The utterances that can be read; the others are added to `unreadable`."""
    for utterance in utterances:
        if utterance.samples is None:
            unreadable.append((utterance.id, utterance.problem))
        else:
            yield utterance


def _table(report: "EvaluationReport") -> str:
    lines = []
    for name, kind, errors in (("WER", "words", report.words), ("CER", "characters", report.characters)):
        lines.append(
            f"{name} {errors.rate:6.2f} %  [{errors.total} / {errors.num_reference} {kind}: {errors.insertions} ins, "
            f"{errors.deletions} del, {errors.substitutions} sub]"
        )
    lines.append(
        f"{len(report.results)} utterances, {report.audio_s:.1f} s of audio in {report.decode_s:.1f} s: "
        f"real-time factor {report.real_time_factor:.4f}"
    )
    if report.unreadable:
        lines.append(f"{len(report.unreadable)} skipped because they cannot be read")
    worst = report.worst(_NUM_WORST)
    if worst:
        lines.append("worst utterances:")
    for result in worst:
        lines.append(f"  {result.id}  [{result.words.total} of {result.words.num_reference} words]")
        lines += [f"    ref: {result.ref}", f"    hyp: {result.hyp}"]
    return "\n".join(lines)


def _tuned_table(tuned: "Sequence[TunedSetting]") -> str:
    names = list(tuned[0].values)
    rows = [("WER %", "CER %", *names)]
    for setting in tuned[:_NUM_SETTINGS]:
        errors = setting.errors
        numbers = (f"{setting.values[name]:g}" for name in names)
        rows.append((f"{errors.words.rate:.2f}", f"{errors.characters.rate:.2f}", *numbers))
    lines = right_aligned(rows)
    if len(tuned) > _NUM_SETTINGS:
        lines.append(f"... and {len(tuned) - _NUM_SETTINGS} more, none better")
    return "\n".join([*lines, f"best: {tuned[0].flags()}"])


def _confidence_table(measured: "CalibrationReport") -> str:
    lines = [
        f"confidence of {measured.num_words} words, {measured.num_right} of them correct:",
        f"  normalized cross-entropy {measured.raw.normalized_cross_entropy:6.3f} raw, "
        f"{measured.calibrated.normalized_cross_entropy:6.3f} calibrated (1: perfect, 0: useless, below 0: misleading)",
        f"  calibration error {measured.raw.calibration_error:6.3f} raw, "
        f"{measured.calibrated.calibration_error:6.3f} calibrated",
        f"  temperature {measured.calibration.temperature:.3f}, offset {measured.calibration.offset:+.3f}",
        "  words    raw  right | calibrated  right",
    ]
    for raw, calibrated in zip(measured.raw.curve, measured.calibrated.curve, strict=True):
        lines.append(
            f"  {raw.num_words:5d}  {raw.confidence:5.3f}  {raw.accuracy:5.3f} |      {calibrated.confidence:5.3f}  "
            f"{calibrated.accuracy:5.3f}"
        )
    return "\n".join(lines)
