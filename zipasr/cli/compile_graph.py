"""`zipasr compile-graph DIR [GRAMMAR] --out OUT`: a grammar or an n-gram model as a graph that a model decodes under."""

import argparse
import json
import math

from zipasr.cli.model_argument import add_model_argument, fetch_model
from zipasr.errors import ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "compile-graph",
        takes="DIR [GRAMMAR] --out OUT",
        example="zipasr compile-graph exp/mine orders.jsgf --out graphs/orders",
        help="compile a grammar or an n-gram model into a graph to decode under",
        description="Write the folder of a graph, for --graph of transcribe, evaluate and serve: what may be said, spelled "
        "in the tokens of one model. A grammar is JSGF or a list of phrases, one a line.",
    )
    add_model_argument(parser)
    parser.add_argument("grammar", metavar="GRAMMAR", nargs="?", help="JSGF, or a list of phrases, one a line")
    parser.add_argument("--out", required=True, metavar="OUT", help="folder to write; an earlier graph in it is replaced")
    parser.add_argument(
        "--table", metavar="FILE", action="append", default=[], help="JSGF whose rules GRAMMAR may name; may be repeated"
    )
    parser.add_argument("--arpa", metavar="FILE", help="instead of GRAMMAR: an n-gram model of words or tokens")
    parser.add_argument("--scale", type=float, help="with --arpa: weight of its scores (default: 1)")
    parser.add_argument(
        "--lexicon", metavar="FILE", help="spellings: a word and its tokens in each line; other words are the tokenizer's"
    )
    parser.add_argument(
        "--fst", metavar="FILE", help="instead of GRAMMAR: H, HL or HLG of another program, input labels token id + 1"
    )
    parser.add_argument("--words", metavar="FILE", help="with --fst: its words.txt")
    parser.add_argument("--name", metavar="NAME", help="name of the graph for servers (default: that of the folder)")
    parser.add_argument(
        "--rejection",
        type=float,
        help="answer nothing where free decoding is better than the graph by more than this (default: never)",
    )
    parser.add_argument("--hlg", action="store_true", help="write HLG.fst too, with CTC's blanks, for sherpa-onnx")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compile the graph and print its size; return the exit code."""
    from zipasr.recognizer.graph_compilation import GraphSource, compile_graph

    if args.rejection is not None and not math.isfinite(args.rejection):
        raise ConfigError(f"--rejection must be a finite number, but is {args.rejection}; leave it out to reject nothing")
    source = GraphSource(
        grammar=args.grammar,
        tables=tuple(args.table),
        arpa=args.arpa,
        scale=args.scale,
        fst=args.fst,
        words=args.words,
        lexicon=args.lexicon,
    )
    fetch_model(args)
    report = compile_graph(args.model, source, args.out, name=args.name, rejection=args.rejection, has_hlg=args.hlg)
    print(json.dumps(report.to_dict()) if args.json else report)
    return 0
