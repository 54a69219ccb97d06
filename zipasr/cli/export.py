"""`zipasr export DIR --out OUT`: a model as ONNX graphs, which sherpa-onnx and `zipasr transcribe OUT` run."""

import argparse
import json
from typing import TYPE_CHECKING

from zipasr.cli.flags import refuse_without
from zipasr.cli.keyword_options import add_keyword_file_option
from zipasr.cli.model_argument import add_model_argument, fetch_model
from zipasr.cli.threads import use_threads
from zipasr.errors import ConfigError

if TYPE_CHECKING:
    from zipasr.export import ExportReport, QuantizationReport
    from zipasr.onnx_runtime import Precision
    from zipasr.recognizer import Keyword, Recognizer


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "export",
        takes="DIR --out OUT",
        example="zipasr export exp/mine --out exported",
        help="write a model as ONNX graphs for sherpa-onnx",
        description="Write the encoder, decoder and joiner of a transducer, the graph of a CTC head, or both, with the "
        "vocabulary and a README with the commands that run them. Every graph is compared with PyTorch first.",
    )
    add_model_argument(parser)
    parser.add_argument("--out", required=True, metavar="OUT", help="folder to write, new or from an earlier export")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="store weights in half precision, which halves the size")
    precision.add_argument(
        "--int8",
        action="store_true",
        help="quantize to 8 bits except for the most sensitive modules, if the word error rate on --cuts allows it",
    )
    parser.add_argument("--cuts", metavar="CUTS", help="with --int8: Lhotse cuts to measure on, such as a dev set")
    parser.add_argument(
        "--max-wer-increase", type=float, help="with --int8: points by which the word error rate may rise (default: 0.5)"
    )
    parser.add_argument("--chunk-ms", type=int, help="export streaming graphs with chunks of this length; for causal models")
    parser.add_argument("--left-context-ms", type=int, help="with --chunk-ms: left context before a chunk (default: 2560)")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest allowed difference from PyTorch, relative to the largest value (default: 1e-4, with --fp16 0.01)",
    )
    add_keyword_file_option(parser, "with --chunk-ms: write keywords.txt for sherpa-onnx's keyword spotter")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export the model and print the report; return the exit code."""
    from zipasr.export import export_model

    if args.tolerance is not None and not args.tolerance > 0:
        raise ConfigError(f"--tolerance must be positive, but is {args.tolerance:g}; leave it out for the default")
    fetch_model(args)
    use_threads(args.model)
    if args.int8:
        print(_output(_export_int8(args), args))
        return 0
    refuse_without(args, "int8", "cuts", "max_wer_increase")
    precision: Precision = "float16" if args.fp16 else "float32"
    report = export_model(
        args.model,
        args.out,
        precision=precision,
        tolerance=args.tolerance,
        chunk_ms=args.chunk_ms,
        left_context_ms=args.left_context_ms,
        keywords=_keywords(args),
    )
    print(_output(report, args))
    return 0


def _keywords(args: argparse.Namespace) -> "list[Keyword]":
    """The keywords of the flag; none without it."""
    from zipasr.search.keywords import read_keywords

    return [] if args.keywords is None else read_keywords(args.keywords)


def _output(report: "ExportReport | QuantizationReport", args: argparse.Namespace) -> str:
    return json.dumps(report.to_dict()) if args.json else report.table()


def _export_int8(args: argparse.Namespace) -> "QuantizationReport":
    from zipasr.evaluate import evaluate, read_cuts
    from zipasr.export import Measured, export_int8

    if args.cuts is None:
        raise ConfigError(
            "--int8 must be measured on recordings with known text, but --cuts names none; otherwise its cost in accuracy "
            "is unknown. Give a dev set, such as DATA/dev_cuts.jsonl.gz, or export without --int8"
        )
    max_increase = 0.5 if args.max_wer_increase is None else args.max_wer_increase
    if not max_increase >= 0:
        raise ConfigError(f"--max-wer-increase must be 0 or more, but is {max_increase:g}")
    utterances = list(read_cuts(args.cuts))

    def measure(recognizer: "Recognizer") -> Measured:
        report = evaluate(recognizer, utterances)
        return Measured(report.wer, report.real_time_factor)

    return export_int8(
        args.model,
        args.out,
        recordings=[utterance.samples for utterance in utterances if utterance.samples is not None],
        measure=measure,
        max_increase=max_increase,
        tolerance=args.tolerance,
        chunk_ms=args.chunk_ms,
        left_context_ms=args.left_context_ms,
        keywords=_keywords(args),
    )
