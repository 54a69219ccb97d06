"""Where a figure comes from: command, commit, date, machine and versions, as every record in benchmarks/results states them.

`python benchmarks/machine.py` prints the sentence that describes this machine.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_HIDDEN = ("--json", "--results", "--plot")
"""Flags that only say where figures go."""


def origin(command: str | None = None) -> dict[str, Any]:
    """The head of a record. Call it before the measurement: it includes the load of the machine by others.

    What else a reader must know, such as another program that runs, goes into the variable BENCHMARK_NOTE.

    Args:
        command: what is measured with; by default the script that runs, with its arguments.
    """
    note = os.environ.get("BENCHMARK_NOTE")
    return {
        "command": command or command_line(),
        "commit": commit(),
        "date": date.today().isoformat(),
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        **({"note": note} if note else {}),
    }


def command_line() -> str:
    """The command of this process, without the flags that only say where figures go."""
    words, arguments = ["python", f"benchmarks/{Path(sys.argv[0]).name}"], iter(sys.argv[1:])
    for argument in arguments:
        if argument in _HIDDEN:
            next(arguments, None)
        elif not argument.startswith(tuple(f"{flag}=" for flag in _HIDDEN)):
            words.append(argument)
    return shlex.join(words)


def commit() -> str | None:
    """The commit of this checkout, with a + if files differ from it; None outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "") if found.returncode == 0 else None


def machine() -> str:
    """This machine in words: cores, processor, whether it has AVX-512 and is virtual."""
    flags = _cpuinfo("flags").split()
    vector = ("with AVX-512" if "avx512f" in flags else "without AVX-512") if flags else platform.machine()
    virtual = ", virtual machine" if "hypervisor" in flags else ""
    return f"{_number(os.cpu_count() or 1)} of an {processor()} {vector}{virtual}"


def processor() -> str:
    """Name of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def write(path: Path, head: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write a record of one measurement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head | figures, indent=1) + "\n", encoding="utf-8")


def add_line(path: Path, line: dict[str, Any], same: Sequence[str] = ("command",)) -> None:
    """Add a line to a record of several measurements (JSONL), in the place of one with the same values of `same`."""
    lines = read_lines(path) if path.is_file() else []
    places = [number for number, other in enumerate(lines) if all(other.get(key) == line.get(key) for key in same)]
    if places:
        lines[places[0]] = line
    else:
        lines.append(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cpuinfo(name: str) -> str:
    """A field of the first processor in Linux's list; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def _number(cores: int) -> str:
    return {1: "one core", 2: "two cores", 4: "four cores"}.get(cores, f"{cores} cores")


if __name__ == "__main__":
    print(machine())
