"""`zipasr evaluate DIR CUTS`: error rates of a model on recordings with known text."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from zipasr.cli.search_options import add_search_options, load_recognizer

if TYPE_CHECKING:
    from zipasr.evaluate import EvaluationReport

    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    SubParsers = Any

_NUM_WORST = 5


def add_parser(subparsers: SubParsers) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure error rates and speed",
        description="Transcribe recordings whose text is known and count the errors.",
    )
    parser.add_argument("model", metavar="DIR", help="the folder of a training run or of a model")
    parser.add_argument("cuts", metavar="CUTS", help="Lhotse cuts, such as DATA/test_cuts.jsonl.gz")
    add_search_options(parser)
    parser.add_argument(
        "--scoring", metavar="CORPUS", help="compare texts as a corpus does: gigaspeech (default: as they are)"
    )
    parser.add_argument("--out", metavar="FILE", help="write a JSON line for each utterance here")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, rates in percent")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    from zipasr.evaluate import evaluate, read_cuts

    recognizer = load_recognizer(args)
    report = evaluate(recognizer, _with_progress(read_cuts(args.cuts)), scoring=args.scoring)
    for id, problem in report.unreadable:
        print(f"zipasr: left out {id}: {problem}", file=sys.stderr)
    print(json.dumps(report.to_dict()) if args.json else _table(report))
    if args.out:
        report.write_results(args.out)
        print(f"zipasr: results of every utterance: {args.out}", file=sys.stderr)
    return 0


def _with_progress(utterances: Any) -> Any:
    from tqdm import tqdm

    return tqdm(utterances, desc="evaluate", unit=" utterances", file=sys.stderr, disable=None, leave=False)


def _table(report: "EvaluationReport") -> str:
    lines = []
    for name, kind, errors in (("WER", "words", report.words), ("CER", "characters", report.characters)):
        lines.append(
            f"{name} {errors.rate:6.2f} %  [{errors.total} / {errors.num_reference} {kind}: {errors.insertions} ins, "
            f"{errors.deletions} del, {errors.substitutions} sub]"
        )
    lines.append(
        f"{len(report.results)} utterances, {report.audio_s:.1f} s of sound in {report.decode_s:.1f} s: "
        f"real-time factor {report.real_time_factor:.4f}"
    )
    if report.unreadable:
        lines.append(f"{len(report.unreadable)} left out because they cannot be read")
    worst = report.worst(_NUM_WORST)
    if worst:
        lines.append("worst utterances:")
    for result in worst:
        lines.append(f"  {result.id}  [{result.words.total} of {result.words.num_reference} words]")
        lines += [f"    ref: {result.ref}", f"    hyp: {result.hyp}"]
    return "\n".join(lines)
