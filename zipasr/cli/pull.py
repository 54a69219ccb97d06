"""`zipasr pull REF`: fetch a model of the hub, or copy one of the package, and print the folder in which it is."""

import argparse

from zipasr.errors import ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "pull",
        takes="REF",
        example="zipasr pull hf:OWNER/NAME --out model",
        help="fetch a published model",
        description="Fetch a model from the hub into its cache, convert it if it is a checkpoint of another project, and "
        "print the folder of the model. All verbs do the same when they are given hf:OWNER/NAME instead of a folder. "
        "Offline, they use what is in the cache. The name of a model that comes with zipasr (commands) needs no download.",
    )
    parser.add_argument(
        "reference",
        metavar="REF",
        help="hf:OWNER/NAME[@REVISION][#SUBFOLDER]: a branch, tag or commit; the folder of the model, if there are several; "
        "or the name of a model that comes with zipasr",
    )
    parser.add_argument("--out", metavar="DIR", help="also copy the folder of the model to DIR, and print that")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        help="that of ONNX graphs (default: float32)",
    )
    parser.add_argument("--max-gb", type=float, help="fetch files of up to so many GB in all (default: 5)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch the model and print its folder; return the exit code."""
    from zipasr.hub import is_built_in
    from zipasr.hub.local import MAX_GB, check_target, copy_model, local_model
    from zipasr.hub.reference import is_reference, parse_reference

    if not is_built_in(args.reference):
        parse_reference(args.reference)
    elif args.precision is not None or args.max_gb is not None:
        flag = "--precision" if args.precision is not None else "--max-gb"
        raise ConfigError(f"{flag} is for models on the hub, but {args.reference} comes with zipasr; leave it out")
    if not (is_reference(args.reference) or is_built_in(args.reference)):
        raise ConfigError(f"REF must be a model on the hub, but {args.reference} is here; use it as it is, without a pull")
    if args.out is not None:
        check_target(args.out)
    max_gb = MAX_GB if args.max_gb is None else args.max_gb
    folder = local_model(args.reference, precision=args.precision or "float32", max_gb=max_gb)
    print(copy_model(folder, args.out) if args.out is not None else folder)
    return 0
