"""How far a command has come, on stderr: a bar on a terminal; elsewhere, as in a log file, a plain line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_INTERVAL_S = 30.0
"""Seconds between two lines where stderr is not a terminal. What takes less than this prints none."""

_is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)


class Progress:
    """Counts what is done and shows it; a context manager. Nothing is shown after `close`."""

    def __init__(
        self,
        name: str,
        *,
        unit: str,
        total: float | None = None,
        done: float = 0,
        is_hidden: bool = False,
        is_kept: bool = False,
        is_scaled: bool = False,
        delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start counting.

        Args:
            name: what is being done, such as `train`.
            unit: what is counted, in the plural.
            total: how many there are; None: not known.
            done: how many were done before.
            is_hidden: whether to show nothing.
            is_kept: whether the bar stays on the terminal when it is done.
            is_scaled: whether to write large numbers as 1.2k, 3.4M.
            delay_s: seconds before a bar appears.
            clock: gives seconds; another one in tests.
        """
        self.name, self.unit, self.total, self.done = name, unit, total, done
        self._is_scaled, self._clock, self._note = is_scaled, clock, ""
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
                unit_scale=is_scaled,
                file=sys.stderr,
                leave=is_kept,
                delay=delay_s,
                dynamic_ncols=True,
                mininterval=1.0,
            )

    def update(self, number: float = 1) -> None:
        """Count so many more."""
        self.done += number
        if self._bar is not None:
            self._bar.update(number)
        elif self._has_lines and self._clock() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = self._clock()
            write_line(self.line())

    def set_done(self, number: float) -> None:
        """Say that so many are done."""
        self.update(number - self.done)

    def note(self, text: str) -> None:
        """Show `text` behind the count from now on."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def line(self) -> str:
        """How far it is, as a line of text."""
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
        """Stop showing anything."""
        self._has_lines = False
        if self._bar is not None:
            self._bar.close()

    def _count(self, number: float) -> str:
        return str(tqdm.format_sizeof(number)) if self._is_scaled else f"{number:.0f}"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def track(
    items: Iterable[T], name: str, *, unit: str, total: int | None = None, is_hidden: bool = False, is_kept: bool = False
) -> Iterator[T]:
    """Pass `items` on one by one and show how far they are; `total` is their number where they have no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(name, unit=unit, total=total, is_hidden=is_hidden, is_kept=is_kept) as progress:
        for item in items:
            yield item
            progress.update()


def write_line(text: str, *, is_error: bool = False) -> None:
    """Write a line to stderr, above the bar if there is one; inside `quiet`, only if it is an error."""
    if is_error or not _is_quiet.get():
        tqdm.write(text, file=sys.stderr)


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress and no lines but errors inside a block."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


def is_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
