"""Memory of the process: the C library keeps what is freed, and Python looks for garbage only where there may be some."""

import atexit
import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_KEPT_BYTES = 256 * 2**20
"""Freed memory at the end of the heap that is kept; more is returned to the system."""
_LARGEST_BLOCK_BYTES = 2**30
"""Blocks up to this size are taken from the heap, which can keep them."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's mallopt
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, unless the environment configures its allocator.

    By default it returns blocks above 32 MB to the system as soon as they are freed. Tensors of that size are allocated
    again and again, and every time their pages are fetched anew (benchmarks/LOG.md).
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _VARIABLES):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def skip_collection_at_exit() -> None:
    """Let Python end without looking for garbage, which takes 0.4 s with PyTorch loaded."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """Context manager: import packages without looking for garbage among the objects that they create.

    These live as long as the process, so later collections skip them too. Ctrl-C waits for the end of the block. Nothing
    happens once PyTorch is loaded.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        with _held_interrupt():
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _held_interrupt() -> Iterator[None]:
    """Context manager: raise KeyboardInterrupt at the end of the block, not within.

    While they are imported, the C parts of PyTorch and NumPy drop exceptions, and leave half a package or no interrupt.
    """
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt
