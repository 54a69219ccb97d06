"""Many files by `zipasr transcribe`, in one process and in several: wall time, processor time, and whether texts agree.

    python benchmarks/transcribe_jobs.py commands data/prompts/audio/*.flac --json benchmarks/results/transcribe_jobs.json

The commands take turns, `--rounds` times: one process with one thread, one process with as many threads as there are
processes later, and those processes with one thread each. The start of Python and the model are included, as for a user.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from machine import origin, write


class Settings(NamedTuple):
    """How the files are shared."""

    jobs: int
    threads: int

    def __str__(self) -> str:
        return f"--jobs {self.jobs} --threads {self.threads}"


def transcribe(model: str, files: list[str], settings: Settings) -> tuple[list[str], float, float]:
    """The texts of the files, wall time and processor time in seconds."""
    command = [sys.executable, "-m", "zipasr", "transcribe", model, *files, "--json", "--quiet", *str(settings).split()]
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    texts = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    return texts, wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kind of command."""
    kinds = [Settings(1, 1), Settings(1, args.jobs), Settings(args.jobs, args.jobs)]
    walls_s: dict[Settings, list[float]] = {kind: [] for kind in kinds}
    processor_s: dict[Settings, list[float]] = {kind: [] for kind in kinds}
    texts: dict[Settings, list[str]] = {}
    for number in range(args.rounds):
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            texts[kind], wall_s, spent_s = transcribe(args.model, args.files, kind)
            walls_s[kind].append(wall_s)
            processor_s[kind].append(spent_s)
            print(f"round {number + 1}, {kind}: {wall_s:.1f} s, {spent_s:.1f} s of processor time", flush=True)
    return [
        {
            "settings": str(kind),
            "wall_s": [round(value, 2) for value in walls_s[kind]],
            "processor_s": [round(value, 2) for value in processor_s[kind]],
            "times_as_fast": round(
                statistics.median(one / own for one, own in zip(walls_s[kinds[0]], walls_s[kind], strict=True)), 3
            ),
            "has_same_texts": texts[kind] == texts[kinds[0]],
        }
        for kind in kinds
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    head = origin(f"python benchmarks/transcribe_jobs.py {args.model} FILES --rounds {args.rounds}")
    rows = measure(args)
    for row in rows:
        print(f"{row['settings']}: {row['times_as_fast']} times as fast, same texts: {row['has_same_texts']}")
    if args.json:
        write(args.json, head, {"model": args.model, "num_files": len(args.files), "rows": rows})


if __name__ == "__main__":
    main()
