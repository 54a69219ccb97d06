"""Run a `zipasr` command that prints JSON, and add what it printed to a record.

    python benchmarks/record.py benchmarks/results/confidence.jsonl zipasr evaluate exp/quickstart \\
        data/prompts/dev_cuts.jsonl.gz --search beam --calibration --json

The line has the command, the machine and so on (machine.py), and the output as `output`. It replaces a line of the same
command.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from machine import add_line, origin


def main() -> None:
    """Run, parse, and add the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="a JSONL file")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="zipasr VERB ... --json")
    args = parser.parse_args()
    if args.command[:1] != ["zipasr"] or "--json" not in args.command:
        parser.error(f"the command must be zipasr VERB ... --json, but is {shlex.join(args.command)}")
    head = origin(shlex.join(args.command))
    done = subprocess.run([sys.executable, "-m", *args.command], check=True, stdout=subprocess.PIPE, text=True)
    add_line(args.record, head | {"output": json.loads(done.stdout)})


if __name__ == "__main__":
    main()
