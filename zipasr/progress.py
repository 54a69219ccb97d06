"""Progress of a command on stderr: a bar on a terminal; elsewhere, as in a log file, a plain line at intervals."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_INTERVAL_S = 30.0
"""Seconds between two lines if stderr is not a terminal. Shorter commands print none."""

_is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)


class Progress:
    """Context manager that counts finished items and shows them; nothing is shown after `close`."""

    def __init__(
        self,
        name: str,
        *,
        unit: str,
        total: float | None = None,
        done: float = 0,
        is_hidden: bool = False,
        is_kept: bool = False,
        delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start counting.

        Args:
            name: name of the task, such as `train`.
            unit: name of the counted items, in the plural; bytes are written as 1.2k, 3.4M.
            total: total number of items; None: unknown.
            done: number of items that are already done.
            is_hidden: whether to show nothing.
            is_kept: whether the bar stays on the terminal after `close`.
            delay_s: seconds before a bar appears.
            clock: returns seconds; tests pass their own.
        """
        self.name, self.unit, self.total, self.done = name, unit, total, done
        self._is_scaled, self._clock, self._note = unit == "bytes", clock, ""
        self._start, self._first_done = clock(), done
        self._last_line = self._start
        is_hidden = is_hidden or _is_quiet.get()
        self._has_lines = not is_hidden and not is_terminal()
        self._bar: Any = None
        if not is_hidden and not self._has_lines:
            self._bar = tqdm(
                desc=name,
                total=total,
                initial=done,
                unit=f" {unit}",
                unit_scale=self._is_scaled,
                file=sys.stderr,
                leave=is_kept,
                delay=delay_s,
                dynamic_ncols=True,
                mininterval=1.0,
            )

    def update(self, number: float = 1) -> None:
        """Count `number` more items as done."""
        self.done += number
        if self._bar is not None:
            self._bar.update(number)
        elif self._has_lines and self._clock() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = self._clock()
            write_line(self.line())

    def set_done(self, number: float) -> None:
        """Set the number of finished items."""
        self.update(number - self.done)

    def note(self, text: str) -> None:
        """Show `text` after the count from now on."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def line(self) -> str:
        """The current progress as one line of text."""
        elapsed_s, num_new = self._clock() - self._start, self.done - self._first_done
        parts = [f"{self.name}: {self._count(self.done)} {self.unit}"]
        if self.total:
            share = min(self.done / self.total, 1.0)
            parts = [f"{self.name}: {self._count(self.done)} of {self._count(self.total)} {self.unit} ({share:.0%})"]
        parts.append(f"{tqdm.format_interval(elapsed_s)} elapsed")
        if self.total and num_new > 0:
            left_s = max(self.total - self.done, 0) * elapsed_s / num_new
            parts.append(f"{tqdm.format_interval(left_s)} left")
        return ", ".join([*parts, *([self._note] if self._note else [])])

    def close(self) -> None:
        """Stop showing progress."""
        self._has_lines = False
        if self._bar is not None:
            self._bar.close()

    def _count(self, number: float) -> str:
        return str(tqdm.format_sizeof(number)) if self._is_scaled else f"{number:.0f}"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def track(
    items: Iterable[T], name: str, *, unit: str, total: int | None = None, is_hidden: bool = False, is_kept: bool = False
) -> Iterator[T]:
    """Yield `items` one by one and show the progress; `total` is their number if they have no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(name, unit=unit, total=total, is_hidden=is_hidden, is_kept=is_kept) as progress:
        for item in items:
            yield item
            progress.update()


def write_line(text: str, *, is_error: bool = False) -> None:
    """Write a line to stderr, above the bar if there is one; inside `quiet`, only if it is an error."""
    if sys.stderr is not None and (is_error or not _is_quiet.get()):  # None: it was closed before the program started
        tqdm.write(text, file=sys.stderr)


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager: show no progress, and no lines except errors, inside the block."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


def is_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
