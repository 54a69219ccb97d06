"""The clock of a server that runs in this process: tests let time pass instead of waiting, and nothing else is late."""

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from zipasr.serve import Service, server

IDLE_S = 300.0
"""Idle timeout of servers whose clock a test moves: longer than a busy machine stops a test."""
_PAUSE_S = 0.1


class Clock:
    """`time.monotonic`, which event loops use, too, and which can go ahead. uvloop's uses it while a clock exists."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the clock until `patch` is undone, which must be after the end of every server."""
        self.ahead_s = 0.0
        monotonic = time.monotonic
        patch.setattr(time, "monotonic", lambda: monotonic() + self.ahead_s)
        if server._loop_factory() is not None:
            import uvloop

            kind = type("TimedLoop", (_TimesInPython, uvloop.Loop), {})
            patch.setattr(server, "_loop_factory", lambda: kind)

    @contextmanager
    def hurrying(self, service: Service) -> Iterator[None]:
        """A little more than the idle timeout passes again and again during the block; let it start when the server has
        received all that was sent."""
        is_over = threading.Event()

        def run() -> None:
            while not is_over.wait(_PAUSE_S):
                self.ahead_s += 1.01 * IDLE_S
                assert service._loop is not None
                service._loop.call_soon_threadsafe(lambda: None)  # wakes the event loop

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _TimesInPython:
    """Timers by `time.monotonic` for an event loop whose own are in C."""

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._look()

    def time(self) -> float:
        return time.monotonic()

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any, context: Any = None) -> object:
        return self.call_at(self.time() + delay_s, callback, *args, context=context)

    def call_at(self, when_s: float, callback: Callable[..., object], *args: Any, context: Any = None) -> object:
        timer = asyncio.TimerHandle(when_s, callback, args, self, context)  # type: ignore[arg-type]
        heapq.heappush(self._timers, (when_s, next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        self._timers = [one for one in self._timers if one[2] is not timer]
        heapq.heapify(self._timers)

    def _look(self) -> None:
        """Call what is due, and look again soon."""
        while self._timers and self._timers[0][0] <= self.time():
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled():
                self.call_soon(timer._run)  # type: ignore[attr-defined]
        super().call_later(0.005, self._look)  # type: ignore[misc]
