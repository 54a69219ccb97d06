"""Time a training step and an encoder pass of `small` (or another preset), and the peak memory of each.

    python benchmarks/train_step.py --threads 1 2 --repeats 5 --json benchmarks/results/train_step.json

A step is forward, both transducer losses and backward on 4 x 10 s of noise with 40 labels each, in training mode, without
the optimizer (benchmarks/scaled_adam.py times that). Each case runs in a process of its own, so that peak memory is its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from machine import origin, write

from zipasr import model as presets
from zipasr.device import fast_matmul
from zipasr.model import AsrModel
from zipasr.nn.schedule import set_step

CASES = ("step", "encoder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", choices=("tiny", "small", "medium", "large"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--case", nargs=3, metavar=("NAME", "THREADS", "MATMUL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.preset, args.case[0], int(args.case[1]), args.case[2], args.repeats)))
        return
    head, rows = origin(), []
    for threads in args.threads:
        for case in CASES:
            for matmul in ("fast", "default"):
                command = [sys.executable, __file__, "--preset", args.preset, "--repeats", str(args.repeats)]
                command += ["--case", case, str(threads), matmul]
                env = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
                rows.append(row)
                print(
                    f"{args.preset} {case:8} {threads} threads, {matmul:7} matmul: median {row['median_s']:.2f} s "
                    f"({row['min_s']:.2f} to {row['max_s']:.2f}), peak {row['peak_mib']:.0f} MiB above the start",
                    flush=True,
                )
    if args.json:
        write(args.json, head, {"rows": rows})


def measure(preset: str, case: str, threads: int, matmul: str, repeats: int) -> dict[str, object]:
    """Run one case `repeats` times after a warm-up; seconds, and peak resident memory above the loaded model in MiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = AsrModel(getattr(presets, preset)())
    set_step(model, 10_000.0)  # half-way: every constraint at work, warm-up over
    batch, seconds = (4, 10) if case == "step" else (1, 30)
    features, lens = torch.randn(batch, seconds * 100, 80), torch.full((batch,), seconds * 100)
    labels, label_lens = torch.randint(3, 500, (batch, 4 * seconds)), torch.full((batch,), 4 * seconds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    with fast_matmul(torch.device("cpu")) if matmul == "fast" else nullcontext():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            if case == "step":
                model.train()
                losses = model(features, lens, labels, label_lens)
                torch.stack(list(losses.values())).sum().backward()
                model.zero_grad(set_to_none=True)
            else:
                model.eval()
                with torch.no_grad():
                    model.encode(features, lens)
            times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "case": case,
        "threads": threads,
        "matmul": matmul,
        "median_s": statistics.median(times[1:]),
        "min_s": min(times[1:]),
        "max_s": max(times[1:]),
        "peak_mib": peak / 1024,
    }


if __name__ == "__main__":
    main()
