"""Markdown of records: tables, and the sentence that says where their figures come from."""

import itertools
import json
import shlex
from collections.abc import Sequence
from datetime import date
from typing import Any

from machine import RESULTS, read_lines

Record = dict[str, Any]
Cells = Sequence[object]
_BUSY = 1.0
"""From this load of the machine before a measurement on, the sentence says so."""


def record(name: str) -> Record:
    """A record of one measurement, benchmarks/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def records(name: str) -> list[Record]:
    """A record of several measurements, benchmarks/results/NAME.jsonl."""
    return read_lines(RESULTS / f"{name}.jsonl")


def grid(header: Cells, rows: Sequence[Cells], text_columns: int = 1) -> str:
    """A table whose columns after the first few are numbers."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (header, rule, *rows))


def measured(*found: Record) -> str:
    """The sentence below a table: commands, date and machine of its records, which must share date and machine."""
    first = found[0]
    for other in found:
        for key in ("date", "machine", "note"):
            assert other.get(key) == first.get(key), f"{other['command']}: {key} differs from that of {first['command']}"
    commands = list(dict.fromkeys(other["command"] for other in found))
    names = [f"`{commands[0]}`", *(difference(commands[0], command) for command in commands[1:])]
    load = max(other.get("load_before", 0.0) for other in found)
    beside = f", beside other programs (load {load:.0f})" if load >= _BUSY else ""
    note = f"; {first['note']}" if first.get("note") else ""
    return f"Measured on {day(first['date'])} with {' and '.join(names)}; {first['machine']}{beside}{note}."


def difference(first: str, other: str) -> str:
    """How another command differs: its flags from the first that is not in `first`; all of it if they differ before."""
    ours, theirs = shlex.split(first), shlex.split(other)
    same = itertools.takewhile(lambda words: words[0] == words[1], zip(ours, theirs, strict=False))
    place = sum(1 for _ in same)
    while 0 < place < len(theirs) and not theirs[place].startswith("--"):
        place -= 1
    return f"with `{shlex.join(theirs[place:])}`" if 0 < place < len(theirs) else f"`{other}`"


def day(iso: str) -> str:
    """A date as it is written in a sentence."""
    found = date.fromisoformat(iso)
    return f"{found.day} {found:%B %Y}"


def spread(values: Sequence[float], digits: int) -> str:
    """A median, and the smallest and the largest value in brackets."""
    middle, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def or_dash(value: float | None, digits: int = 1) -> str:
    """A number; a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
