"""Signals that ask a run to stop: Ctrl-C (SIGINT) and SIGTERM become a wish that the loop sees after its step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from zipasr.train.distributed import is_under_torchrun


class StopWish:
    """Which signal asked to stop, if one did."""

    def __init__(self) -> None:
        self.signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Turn the first SIGINT or SIGTERM into a wish; a second SIGINT interrupts at once. Only does so in the main thread.

    Under torchrun a second one is ignored: the agent passes on what the terminal has sent already.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        first = not wish
        wish.signal = wish.signal or number
        if not first:
            return
        if is_under_torchrun():
            os.write(2, b"\nstopping: a checkpoint is saved after this batch\n")
            return
        signal.signal(signal.SIGINT, previous[signal.SIGINT])
        os.write(2, b"\nstopping: a checkpoint is saved after this batch; Ctrl-C again stops at once, without it\n")

    for number in previous:
        signal.signal(number, handle)
    try:
        yield wish
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
