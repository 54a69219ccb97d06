"""Signals that stop a run: Ctrl-C (SIGINT) and SIGTERM become a request that the loop checks after each step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from zipasr.train.distributed import is_under_torchrun


class StopRequest:
    """Whether a stop was requested, and by which signal."""

    def __init__(self) -> None:
        self.signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_request(*, is_helper: bool = False) -> Iterator[StopRequest]:
    """Context manager that turns the first SIGINT or SIGTERM into a request; a second SIGINT interrupts at once.

    It has no effect outside the main thread. Under torchrun a second SIGINT is ignored, because the agent forwards a
    signal that the terminal has already sent. In a helper of another process, which reports what happens and takes care of
    Ctrl-C, only SIGTERM is a request, and nothing is written.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGTERM,) if is_helper else (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, frame: FrameType | None) -> None:
        first = not request
        request.signal = request.signal or number
        if not first or is_helper:
            return
        if is_under_torchrun():
            os.write(2, b"\nstopping: a checkpoint is saved after this batch\n")
            return
        signal.signal(signal.SIGINT, previous[signal.SIGINT])
        os.write(2, b"\nstopping: a checkpoint is saved after this batch; Ctrl-C again stops at once, without it\n")

    for number in previous:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
