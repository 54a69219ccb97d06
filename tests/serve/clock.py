"""The clock of a server that runs in this process: tests let time pass instead of waiting, and nothing else is late."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from zipasr.serve import Service

IDLE_S = 300.0
"""Idle timeout of servers whose clock a test moves: longer than a busy machine stops a test."""
_PAUSE_S = 0.1


class Clock:
    """`time.monotonic`, which event loops use, too, and which can go ahead."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the clock until `patch` is undone, which must be after the end of every server."""
        self.ahead_s = 0.0
        monotonic = time.monotonic
        patch.setattr(time, "monotonic", lambda: monotonic() + self.ahead_s)

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
