"""`zipasr plot`: draw the curves of a training run."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "plot",
        takes="DIR",
        example="zipasr plot exp/mine",
        help="draw the loss and error-rate curves of a run",
        description="Draw the losses, error rates and other curves of a training run, finished or not, to a PNG file.",
    )
    parser.add_argument("run_folder", metavar="DIR", help="folder of a run, as given to train --out")
    parser.add_argument("--out", metavar="PNG", help="file of the figure (default: DIR/curves.png)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw the figure and print its path; return the exit code."""
    from zipasr.plots import plot_curves
    from zipasr.train.metrics import read_metrics

    folder = Path(args.run_folder)
    print(plot_curves(read_metrics(folder), args.out or folder / "curves.png"))
    return 0
