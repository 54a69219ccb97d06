"""`zipasr export DIR --out OUT`: a model as ONNX graphs that sherpa-onnx runs, and `zipasr transcribe OUT` too."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    SubParsers = Any


def add_parser(subparsers: SubParsers) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="write a model as ONNX graphs for sherpa-onnx",
        description="Write the encoder, decoder and joiner of a transducer, the graph of a CTC head, or both, with the "
        "vocabulary and a README that has the commands to run them. Every graph is compared with PyTorch first.",
    )
    parser.add_argument("model", metavar="DIR", help="the folder of a training run or of a model")
    parser.add_argument("--out", required=True, metavar="OUT", help="folder to write, new or of an earlier export")
    parser.add_argument("--fp16", action="store_true", help="store weights in half precision: half the size")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference from PyTorch, as a share of the largest value (default: 1e-4, with --fp16 0.01)",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from zipasr.errors import ConfigError
    from zipasr.export import export_model

    if args.tolerance is not None and not args.tolerance > 0:
        raise ConfigError(f"--tolerance must be positive, but is {args.tolerance:g}; leave it out for the default")
    report = export_model(args.model, args.out, precision="float16" if args.fp16 else "float32", tolerance=args.tolerance)
    print(json.dumps(report.to_dict()) if args.json else report.table())
    return 0
