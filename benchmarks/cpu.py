"""What inference and training cost on a CPU, with and without each change, and beside an earlier version, in one run.

    python benchmarks/cpu.py --against 6d67ded --rounds 3 --json benchmarks/results/cpu.json
    python benchmarks/cpu.py --cases "encoder small 1x30s" --without blocks slices "kept memory" --medium

All variants of a case take turns, `--rounds` times, each in a process of its own (cpu_cases.py); a ratio is the median over
the rounds of (variant / this version) in the same round, so that a busy machine slows both alike. Times are processor time.
Earlier versions are checked out into a temporary folder. "Same bits" says whether the output equals that of this version.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from machine import origin, write

REPOSITORY = Path(__file__).parents[1]
THIS = "this version"
_TIME = "processor_ms"


class Variant(NamedTuple):
    """A version of the source, and what it does otherwise."""

    name: str
    tree: Path
    change: str | None = None


def run_case(variant: Variant, case: str, threads: int, repeats: int) -> dict[str, Any] | None:
    """The figures of one process; None if this version cannot do it."""
    script = REPOSITORY / "benchmarks" / "cpu_cases.py"
    command = [sys.executable, str(script), case, "--repeats", str(repeats)]
    command += ["--change", variant.change] if variant.change else []
    env = os.environ | {"PYTHONPATH": str(variant.tree), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{variant.name}: {case} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def summarize(found: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and ratios to this version."""
    ratios = [one[_TIME] / other[_TIME] for one, other in zip(found, base, strict=True)]
    medians = {key: round(statistics.median(one[key] for one in found), 1) for key in found[0] if key != "digest"}
    return {
        **medians,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "has_same_bits": found[0]["digest"] == base[0]["digest"],
    }


def measure(case: str, variants: list[Variant], args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per variant that can do this case; prints them."""
    rounds: dict[str, list[dict[str, Any] | None]] = {variant.name: [] for variant in variants}
    for _ in range(args.rounds):
        for variant in variants:
            rounds[variant.name].append(run_case(variant, case, args.threads, args.repeats))
    rows = []
    base = [one for one in rounds[THIS] if one is not None]
    for name, found in rounds.items():
        complete = [one for one in found if one is not None]
        if len(complete) == len(base) == args.rounds:
            rows.append({"case": case, "variant": name, **summarize(complete, base)})
            print(describe(rows[-1]), flush=True)
    return rows


def describe(row: dict[str, Any]) -> str:
    """A line to print."""
    figures = f"{row[_TIME]:9.1f} ms {row['peak_mib']:7.0f} MiB {row['page_faults']:9.0f} faults"
    ratio = f"{row['ratio']:6.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    return f"{row['case']:30} {row['variant']:28} {figures} {ratio}{', same bits' * row['has_same_bits']}"


def main() -> None:
    """Check out the other versions, measure all, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="default: all of cpu_cases.py")
    parser.add_argument("--against", nargs="*", default=[], metavar="REVISION", help="earlier versions")
    parser.add_argument("--without", nargs="*", default=[], choices=["blocks", "slices", "kept memory"])
    parser.add_argument("--medium", action="store_true", help='also with torch.set_float32_matmul_precision("medium")')
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="repetitions in each process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head = origin()
    git = ["git", "-C", str(REPOSITORY)]
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"without {name}" for name in args.without] + ["with medium"] * args.medium
        variants = [Variant(THIS, REPOSITORY), *(Variant(change, REPOSITORY, change) for change in changes)]
        for revision in args.against:
            tree = Path(folder) / revision.replace("/", "_")
            archive = subprocess.run([*git, "archive", revision, "zipasr"], check=True, stdout=subprocess.PIPE).stdout
            tree.mkdir()
            subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
            variants.append(Variant(revision, tree))
        rows = [row for case in args.cases or known_cases() for row in measure(case, variants, args)]
    if args.json:
        write(args.json, head, {"threads": args.threads, "rounds": args.rounds, "repeats": args.repeats, "rows": rows})


def known_cases() -> list[str]:
    """The names of all cases."""
    from cpu_cases import CASES

    return list(CASES)


if __name__ == "__main__":
    main()
