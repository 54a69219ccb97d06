"""`zipasr average RUN`: the mean of several checkpoints, or of all models in a part of a run, as a model folder."""

import argparse
import json
from pathlib import Path

from zipasr.errors import CheckpointError, ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "average",
        takes="[RUN] (--last N | --epochs N | --from BATCH | --checkpoints X...) --out DIR",
        example="zipasr average exp/mine --last 5 --out exp/mine/last5",
        help="average checkpoints of a run into a model",
        description="Average the weights of checkpoints and write a model folder for transcribe and evaluate. The model/ of "
        "a run is already an average; this command tries other ones. --last and --checkpoints average the checkpoints "
        "themselves; --epochs and --from average all models of the interval, whose running mean the checkpoints contain.",
    )
    parser.add_argument("run_folder", metavar="RUN", nargs="?", help="folder of a run, as given to train --out")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--last", type=int, help="the newest N checkpoints, without that of an interruption")
    what.add_argument("--epochs", type=int, help="about the last N epochs, from the nearest checkpoint on")
    what.add_argument(
        "--from", type=int, dest="start", metavar="BATCH", help="from the checkpoint of this batch on; 0: the start"
    )
    what.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="X",
        help="folders of checkpoints or models (or hf:OWNER/NAME), or batches of RUN's checkpoints",
    )
    parser.add_argument(
        "--to", type=int, metavar="BATCH", help="with --from: up to the checkpoint of this batch (default: the newest)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the model to write")
    parser.add_argument("--json", action="store_true", help="print what was averaged as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Average the checkpoints and print the folder of the model; return the exit code."""
    from zipasr.train.checkpoint_average import average_checkpoints, average_interval, newest_checkpoints, start_of_epochs

    if args.to is not None and args.start is None:
        raise ConfigError("--to has no effect without --from; give --from BATCH too")
    if args.checkpoints is None and args.run_folder is None:
        raise ConfigError("RUN must be the folder of a run, but is not given; name the run: zipasr average RUN ...")
    if args.checkpoints is not None:
        averaged = average_checkpoints(_named(args.checkpoints, args.run_folder), args.out)
    elif args.last is not None:
        averaged = average_checkpoints(newest_checkpoints(args.run_folder, args.last), args.out)
    else:
        start = args.start if args.start is not None else start_of_epochs(args.run_folder, args.epochs)
        averaged = average_interval(args.run_folder, args.out, start=start, end=args.to)
    if args.json:
        sources = [str(source) for source in averaged.sources]
        print(json.dumps({"model": str(averaged.folder), "description": averaged.description, "checkpoints": sources}))
    else:
        names = ", ".join(source.name for source in averaged.sources)
        print(f"{averaged.folder}: {averaged.description} ({names})")
    return 0


def _named(names: list[str], run_folder: str | None) -> list[str]:
    """The folders of checkpoints: folders unchanged, batch numbers replaced by the run's checkpoints."""
    from zipasr.train.checkpoint_average import run_checkpoints

    numbers = [name for name in names if name.isdecimal() and not Path(name).is_dir()]
    if run_folder is None:
        if numbers:
            raise ConfigError(
                f"RUN must be given with the batches {', '.join(numbers)}, but is not; name the run of these checkpoints"
            )
        return names
    if not numbers:
        raise ConfigError(f"RUN has no effect if all checkpoints are folders; leave out {run_folder}")
    there = run_checkpoints(run_folder)
    missing = [name for name in numbers if int(name) not in there]
    if missing:
        raise CheckpointError(
            f"{run_folder} must hold the checkpoints of batch {', '.join(missing)}, but holds those of "
            f"{', '.join(map(str, there))}"
        )
    return [str(there[int(name)]) if name in numbers else name for name in names]
