"""Everything that is to be known of zipasr on a GPU, in one command of at most eight minutes.

    python benchmarks/gpu.py                       # all blocks; writes benchmarks/results/gpu_<card>_<date>.json
    python benchmarks/gpu.py --toy                 # the same blocks at toy size, on any CPU within a minute
    python benchmarks/gpu.py --blocks correctness decoding --deadline-s 120
    python benchmarks/gpu.py --make-reference      # the loss curve of a CPU that the last block compares with

Each block has a deadline; an error is recorded and the next block runs; the results are on disk after every case. Inputs
come from seeds, nothing is fetched, and clocks and modes of the card stay as they are. PyTorch and numpy are enough: what
else the model and the searches import is replaced by placeholders (gpu/absent.py). docs/gpu.md says what the figures mean.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from gpu.ceilings import card_name, ceilings
from gpu.correctness import correctness
from gpu.decoding import decoding, figure_5
from gpu.learning import make_reference, stability, training_curve
from gpu.marked_tests import gpu_tests
from gpu.runner import BlockSpec, Setting, run_blocks, table
from gpu.training import training_step, transducer_loss
from machine import origin

from zipasr.device import select_device
from zipasr.errors import ConfigError

RESULTS = Path(__file__).parent / "results"
TOTAL_S = 480.0
BLOCKS = (
    BlockSpec("ceilings", ceilings, 20.0),
    BlockSpec("correctness", correctness, 70.0),
    BlockSpec("training-step", training_step, 110.0),
    BlockSpec("transducer-loss", transducer_loss, 30.0),
    BlockSpec("decoding", decoding, 90.0),
    BlockSpec("figure-5", figure_5, 50.0),
    BlockSpec("stability", stability, 50.0),
    BlockSpec("training-curve", training_curve, 60.0),
)
GPU_TESTS = BlockSpec("gpu-tests", gpu_tests, 60.0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, on a CPU unless --device says otherwise")
    parser.add_argument("--blocks", nargs="+", metavar="NAME", help=", ".join(spec.name for spec in BLOCKS))
    parser.add_argument("--deadline-s", type=float, default=TOTAL_S, help="seconds for all blocks; scales each deadline")
    parser.add_argument("--gpu-tests", action="store_true", help="then run the tests marked gpu, if pytest is there")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--reference", type=Path, default=RESULTS / "gpu_reference_curve.json", help="the curve of a CPU")
    parser.add_argument("--make-reference", action="store_true", help="compute that curve on this CPU, and nothing else")
    args = parser.parse_args(arguments)
    specs = [*BLOCKS, GPU_TESTS]
    unknown = sorted(set(args.blocks or ()) - {spec.name for spec in specs})
    if unknown:
        parser.error(f"--blocks must be among {', '.join(spec.name for spec in specs)}, but names {', '.join(unknown)}")
    chosen = args.blocks or [spec.name for spec in BLOCKS]
    chosen += [GPU_TESTS.name] if args.gpu_tests and GPU_TESTS.name not in chosen else []
    args.specs = [spec for spec in specs if spec.name in chosen]
    try:
        args.device = select_device("cpu" if args.toy and args.device == "auto" else args.device)
    except ConfigError as error:
        parser.error(str(error))
    return args


def result_path(device: torch.device, *, is_toy: bool) -> Path:
    """Where the results of this card go today."""
    card = re.sub(r"[^a-z0-9]+", "_", card_name(device).lower()).strip("_")
    return RESULTS / f"gpu_{'toy_' if is_toy else ''}{card}_{date.today().isoformat()}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the blocks, write the JSON file and print the table."""
    args = parse(arguments)
    if args.make_reference:
        make_reference(args.reference)
        return
    path = args.out or result_path(args.device, is_toy=args.toy)
    setting = Setting(device=args.device, is_toy=args.toy, reference_curve=args.reference)
    document = origin() | {
        "started": time.strftime("%H:%M:%S"),
        "card": card_name(args.device),
        "is_toy": args.toy,
        "deadline_s": args.deadline_s,
    }
    scale = args.deadline_s / TOTAL_S
    run_blocks(args.specs, setting, document, path, total_s=args.deadline_s, scale=scale)
    print(table(document))
    print(f"{document['seconds']:.0f} s; {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
