"""Runs blocks one after the other: a deadline for each, errors caught and recorded, the results on disk after every case.

A block is a function of the `Block` that it fills case by case. A case ends as "ok", "failed" (an exception, recorded),
"skipped" (no time left) or "not run" (needs a package that is not installed). The record of a run is one JSON document.
"""

import gc
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gpu.absent import NeedsPackage

TRACEBACK_LINES = 6
HIDDEN = ("status", "seconds", "reason", "p10_ms", "p90_ms", "num_calls")
"""Figures that the table leaves to the JSON file."""


class OutOfTime(Exception):
    """The deadline has passed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every block must know."""

    device: torch.device
    is_toy: bool
    """Whether sizes are so small that a CPU runs everything within a minute."""
    reference_curve: Path
    """The loss of a training run on a CPU, see `learning.make_reference`."""
    ceilings: dict[str, float] = field(default_factory=dict)
    """`bytes_per_s` of a copy and `flops_per_s` of a bf16 product, once the first block has measured them."""


@dataclass(frozen=True)
class BlockSpec:
    """A block, and its share of the time."""

    name: str
    function: Callable[["Block"], None]
    deadline_s: float
    """Seconds in a run of the default length; a longer or shorter run scales them."""


class Block:
    """Where a block puts its results."""

    def __init__(self, setting: Setting, record: dict[str, Any], deadline: float, flush: Callable[[], None]) -> None:
        self.setting, self.record, self.deadline, self._flush = setting, record, deadline, flush
        self.cases: dict[str, Any] = record.setdefault("cases", {})

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.setting.device

    @property
    def is_toy(self) -> bool:
        """See `Setting.is_toy`."""
        return self.setting.is_toy

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def case(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Measure one case and keep what it returns; None if it failed or there was no time."""
        if self.left_s <= 0:
            self.cases[name] = {"status": "skipped", "reason": "the deadline of the block had passed"}
            return None
        start = time.monotonic()
        found: dict[str, Any] | None = None
        try:
            found = measure()
            self.cases[name] = {"status": "ok", **found}
        except OutOfTime:
            self.cases[name] = {"status": "skipped", "reason": "stopped at the deadline of the block"}
        except NeedsPackage as error:
            self.cases[name] = {"status": "not run", "reason": str(error)}
        except Exception as error:
            self.cases[name] = {"status": "failed", "error": describe(error)}
        self.cases[name]["seconds"] = round(time.monotonic() - start, 3)
        self._flush()
        free_memory(self.device)
        return found


def describe(error: BaseException) -> dict[str, Any]:
    """Type, message and the last lines of the traceback; paths are cut to the name of the file."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__)[-TRACEBACK_LINES:]:
        lines.append(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}: {frame.line or ''}")
    return {"type": type(error).__name__, "message": str(error)[:2000], "traceback": lines}


def free_memory(device: torch.device) -> None:
    """Give back what a case no longer uses on a GPU."""
    if device.type == "cuda":
        gc.collect()
        with suppress(RuntimeError):  # after an illegal access every call fails, and the rest must be recorded all the same
            torch.cuda.empty_cache()


@contextmanager
def interrupt_at(deadline: float) -> Iterator[None]:
    """Raise `OutOfTime` in the main thread when the deadline passes; a kernel that runs is finished first."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Replace a JSON file in one step, so that it is whole whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, path)


def run_blocks(
    specs: Sequence[BlockSpec], setting: Setting, document: dict[str, Any], path: Path, *, total_s: float, scale: float
) -> None:
    """Run the blocks in order and write `document` to `path` after every case.

    Args:
        specs: the blocks.
        setting: what they must know.
        document: filled under "blocks", one record a block: status, reason or error, seconds, cases.
        path: the JSON file.
        total_s: seconds for all blocks together.
        scale: factor on the deadline of each block.
    """
    blocks = document["blocks"] = {spec.name: {"status": "not run", "reason": "not reached"} for spec in specs}
    start = time.monotonic()
    write_json(path, document)
    for spec in specs:
        block_start = time.monotonic()
        deadline = min(block_start + spec.deadline_s * scale, start + total_s)
        blocks[spec.name] = run_block(spec, setting, deadline, lambda: write_json(path, document), blocks)
        blocks[spec.name]["seconds"] = round(time.monotonic() - block_start, 3)
        document["seconds"] = round(time.monotonic() - start, 3)
        write_json(path, document)


def run_block(
    spec: BlockSpec, setting: Setting, deadline: float, flush: Callable[[], None], blocks: dict[str, Any]
) -> dict[str, Any]:
    """Run one block; return its record, which is in `blocks` already while it runs."""
    if deadline <= time.monotonic():
        return {"status": "skipped", "reason": "no time left"}
    record = blocks[spec.name] = {"status": "running"}
    block = Block(setting, record, deadline, flush)
    flush()
    try:
        with interrupt_at(deadline):
            spec.function(block)
    except OutOfTime:
        record |= {"status": "incomplete", "reason": "stopped at its deadline"}
    except NeedsPackage as error:
        record |= {"status": "not run", "reason": str(error)}
    except Exception as error:
        record |= {"status": "failed", "error": describe(error)}
    else:
        record |= overall_status(block.cases)
    free_memory(setting.device)
    return record


def overall_status(cases: dict[str, Any]) -> dict[str, str]:
    """Status of a block from those of its cases; a reason names the first that is not "ok"."""
    for status, overall in (("failed", "failed"), ("skipped", "incomplete"), ("not run", "incomplete")):
        names = [name for name, case in cases.items() if case["status"] == status]
        if names:
            first = cases[names[0]]
            why = first.get("reason") or f"{first['error']['type']}: {first['error']['message'][:200]}"
            return {"status": overall, "reason": f"{', '.join(names)}: {why}"}
    return {"status": "ok"}


def table(document: dict[str, Any]) -> str:
    """The results as lines of text: a line for each block, and one for each case with its plain figures."""
    lines = []
    for name, block in document["blocks"].items():
        detail = block.get("reason") or (
            f"{block['error']['type']}: {block['error']['message']}" if "error" in block else ""
        )
        lines.append(f"{name}: {block['status']}, {block.get('seconds', 0):.1f} s{f' ({detail})' if detail else ''}")
        for case, found in block.get("cases", {}).items():
            figures = [f"{key} {_short(value)}" for key, value in found.items() if _is_plain(key, value)]
            status = "" if found["status"] == "ok" else f"{found['status']}  "
            lines.append(f"  {case:34} {status}{'  '.join(figures)}")
    return "\n".join(lines)


def _is_plain(key: str, value: Any) -> bool:
    return key not in HIDDEN and isinstance(value, int | float | str)


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
