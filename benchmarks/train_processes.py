"""Training speed of a recipe by number of processes and threads, on an idle and on a busy machine.

    python benchmarks/train_processes.py --data data/prompts --json benchmarks/results/train_processes.json
    python benchmarks/train_processes.py --data data/prompts --cases 1x1 2x1 --loops 0 2 --rounds 3
    python benchmarks/train_processes.py --data data/prompts --recipe librispeech:small --cases 1x1 1x2 2x1 --steps 16 \
        --set batch.max_duration_s=60

A case "2x1" is two processes of one thread each, which compute the steps of a round at once (`zipasr.train.rounds`). Each
case trains `--steps` steps of a new run in a process of its own, all cases in turn, `--rounds` times. Its speed is that of
the second half of the steps, in x real time, reading included; processor time is that of the whole command.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from busy_machine import busy_loops
from machine import origin, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/prompts", help="a prepared folder")
    parser.add_argument("--recipe", default="prompts:tiny")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cases", nargs="+", default=["1x1", "2x1"], metavar="PROCESSESxTHREADS")
    parser.add_argument("--loops", type=int, nargs="+", default=[0], help="endless loops beside it")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.recipe, [f"data={args.data}", *args.settings], args.steps)))
        return
    head, rows = origin(), []
    for loops in args.loops:
        with busy_loops(loops):
            for _ in range(args.rounds):
                for case in args.cases:
                    rows.append({"loops": loops, "case": case, **run_case(case)})
                    print(json.dumps(rows[-1]), flush=True)
        print_ratios([row for row in rows if row["loops"] == loops], args.cases)
    if args.json:
        write(args.json, head, {"rows": rows})


def run_case(case: str) -> dict[str, float]:
    """Measure one case in a process of its own, with the arguments of this one."""
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, *sys.argv, "--case", case], check=True, stdout=subprocess.PIPE, text=True, env=env
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def print_ratios(rows: Sequence[dict], cases: Sequence[str]) -> None:
    """The median of each case, and of its ratios to the first case of the same round."""
    first = [row["hours_per_hour"] for row in rows if row["case"] == cases[0]]
    for case in cases:
        speeds = [row["hours_per_hour"] for row in rows if row["case"] == case]
        ratios = [speed / base for speed, base in zip(speeds, first, strict=True)]
        print(
            f"{rows[0]['loops']} loops, {case}: {statistics.median(speeds):.1f} x real time, "
            f"{statistics.median(ratios):.2f} times {cases[0]}",
            flush=True,
        )


def measure(case: str, recipe: str, settings: Sequence[str], num_steps: int) -> dict[str, float]:
    """Train a run; speed of the second half of its steps, and processor seconds."""
    import torch

    from zipasr.cli.memory import keep_freed_memory
    from zipasr.recipes.configure import configure_run
    from zipasr.train.local_ranks import Team
    from zipasr.train.loop import train
    from zipasr.train.metrics import read_metrics

    keep_freed_memory()
    num_processes, num_threads = map(int, case.split("x"))
    assert num_processes == 1 or num_threads == 1, "several processes have one thread each"
    torch.set_num_threads(num_threads)
    fixed = [f"max_batches={num_steps}", f"log_interval={num_steps // 2}", "valid_interval=1000000", "num_workers=0"]
    with tempfile.TemporaryDirectory() as out, Team(keep_freed_memory) as team:
        config = configure_run(recipe, [*settings, *fixed, "device=cpu"], Path(out)).config
        team.start(num_processes)
        with contextlib.redirect_stdout(sys.stderr):
            team.call(train, config, Path(out), is_quiet=True)
        line = [line for line in read_metrics(Path(out)) if line["kind"] == "train"][1]
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in spent)
    return {"hours_per_hour": round(line["hours_per_hour"], 2), "loss": round(line["loss"], 3), "cpu_s": round(cpu_s, 1)}


if __name__ == "__main__":
    main()
