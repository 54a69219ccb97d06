"""Reports of a run: progress on stderr, TensorBoard, and `metrics.jsonl` for plots and tests."""

import contextlib
import io
import json
import logging
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from zipasr.errors import CheckpointError, DataError
from zipasr.lines import parse_json
from zipasr.progress import Progress, write_line

_WENT_BACK = "went_back"
"""Kind of the line that marks a rollback."""
_WARNING_INTERVAL_S = 60.0


class Sparing(logging.Filter):
    """Logging filter that passes one warning per minute and counts the others, because clipping warnings come in bursts."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s, self._num_held = -math.inf, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes; only warnings are limited."""
        if record.levelno != logging.WARNING:
            return True
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._num_held += 1
            return False
        if self._num_held:
            record.msg, record.args = f"{record.getMessage()} (and {self._num_held} like it before)", None
        self._next_s, self._num_held = now_s + _WARNING_INTERVAL_S, 0
        return True


@contextlib.contextmanager
def sparing_warnings(name: str) -> Iterator[None]:
    """Context manager: limit the warnings of the logger `name` to one per minute."""
    logger, sparing = logging.getLogger(name), Sparing()
    logger.addFilter(sparing)
    try:
        yield
    finally:
        logger.removeFilter(sparing)


class RunLog:
    """Log of a run: a progress bar, a TensorBoard writer and a file of JSON lines."""

    def __init__(self, folder: Path, *, total_steps: int, done_steps: int, is_quiet: bool) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DataError('training needs tensorboard, but it is not installed; pip install "zipasr[train]"') from error
        self._folder = folder
        with _writing(folder):
            self._file = (folder / "metrics.jsonl").open("a+b")
            if self._file.tell() > 0:  # a killed run may have left an incomplete line
                self._file.seek(-1, io.SEEK_END)
                self._file.write(b"" if self._file.read(1) == b"\n" else b"\n")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=done_steps or None)
        self._progress = Progress(
            "train",
            unit="batches",
            total=total_steps,
            done=done_steps,
            is_hidden=is_quiet,
            is_kept=True,
        )
        self._totals: dict[str, float] = {}
        self._audio_s = 0.0
        self._window_start = time.monotonic()

    def step(self, losses: dict[str, float], *, audio_s: float) -> None:
        """Count one step: losses summed over its batches, in nats, and their seconds of audio."""
        for name, value in losses.items():
            self._totals[name] = self._totals.get(name, 0.0) + value
        self._audio_s += audio_s
        self._progress.update()

    def train_line(self, num_steps: int, **values: float) -> None:
        """Write the means since the last line: losses per second of audio, and the speed."""
        elapsed_s = time.monotonic() - self._window_start
        means = {name: total / max(self._audio_s, 1e-9) for name, total in self._totals.items()}
        line = {**means, "hours_per_hour": self._audio_s / max(elapsed_s, 1e-9), **values}
        shown = f"lr {values['lr']:.4f} {line['hours_per_hour']:.0f} h audio/h"
        self._progress.note(f"loss {means['loss']:.2f} {shown}" if means else shown)
        self.line("train", num_steps, line)
        self._totals, self._audio_s = {}, 0.0
        self._window_start = time.monotonic()

    def pause(self, duration_s: float) -> None:
        """Exclude time not spent on training from the speed of the next line."""
        self._window_start += duration_s

    def line(self, kind: str, num_steps: int, values: dict[str, Any]) -> None:
        """Write one line of numbers."""
        with _writing(self._folder):
            self._file.write(json.dumps({"kind": kind, "step": num_steps, **values}).encode() + b"\n")
            self._file.flush()
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, num_steps)

    def message(self, text: str) -> None:
        """Print a line above the progress bar."""
        write_line(text)

    def error(self, text: str) -> None:
        """Print the reason why a run ends."""
        write_line(text, is_error=True)

    def close(self) -> None:
        """Close the progress bar and the files."""
        self._progress.close()
        with contextlib.suppress(OSError):  # a full disk has already been reported
            self._board.close()
        with contextlib.suppress(OSError):
            self._file.close()


class SilentLog(RunLog):
    """Log of all ranks but the first: prints and writes nothing."""

    def __init__(self) -> None:
        pass

    def _do_nothing(self, *args: Any, **kwargs: Any) -> None:
        """Accept what any method of `RunLog` accepts."""

    step = train_line = pause = line = message = error = close = _do_nothing


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory in GiB: on a GPU of tensors since the last call, elsewhere of this process since its start."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 2**30
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the log of the run in {folder} cannot be written: {error}; earlier checkpoints are untouched. "
            "Free some space, then run the same command again"
        ) from error


def forget_after(folder: Path, num_steps: int) -> None:
    """Record a rollback in `metrics.jsonl`, if it exists; earlier lines about later steps then become invalid.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = folder / "metrics.jsonl"
    if path.is_file():
        with _writing(folder), path.open("ab") as file:
            file.write(json.dumps({"kind": _WENT_BACK, "step": num_steps}).encode() + b"\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; after a resume, the later of two lines for the same step counts.

    Lines of a branch that was rolled back are dropped. An incomplete line of a killed run is skipped.

    Raises:
        DataError: the folder has no such file, or it is of another version.
    """
    if not (folder / "metrics.jsonl").is_file():
        raise DataError(f"{folder} must be the folder of a run with a metrics.jsonl, but has none; give train's --out")
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            line = parse_json(text)
        except json.JSONDecodeError:
            continue
        if "step" not in line:
            raise DataError(
                f"each line of {folder / 'metrics.jsonl'} must have a step, but one has none: another version of zipasr "
                "wrote it; use another --out"
            )
        if line["kind"] == _WENT_BACK:
            lines = {key: known for key, known in lines.items() if key[1] <= line["step"]}
        else:
            lines[line["kind"], line["step"]] = line
    return list(lines.values())
