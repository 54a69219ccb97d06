"""Law: a command keeps the memory that it frees, up to a limit, unless the environment configures the allocator. Python
neither collects garbage while packages are imported nor at the end, and does so in between."""

import os
import subprocess
import sys

import pytest

MB = 2**20
PROGRAM = """
import resource, sys
import numpy as np
from zipasr.cli.memory import keep_freed_memory

keep_freed_memory()
size = int(sys.argv[1])
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(size, np.uint8)[::4096] = 1
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(after - before)
"""


def page_faults(num_bytes: int, **environment: str) -> int:
    """Page faults of using a block of this size that was used twice before, in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", PROGRAM, str(num_bytes)]
    done = subprocess.run(command, env={**inherited, **environment}, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is configured")
def test_large_blocks_are_used_again() -> None:
    num_huge_pages = 200 // 2  # at least so many faults, if the system uses huge pages; otherwise 51,200
    assert page_faults(200 * MB) < num_huge_pages // 4
    assert page_faults(600 * MB) >= num_huge_pages  # beyond the limit
    assert page_faults(200 * MB, MALLOC_TRIM_THRESHOLD_="131072") >= num_huge_pages


IMPORTS = """
import gc
from zipasr.cli.memory import skip_collection_at_exit, uncollected_imports

collected = []
gc.callbacks.append(lambda phase, info: collected.append(phase))
with uncollected_imports():
    during = gc.isenabled()
    import numpy
    lists = [[] for _ in range(100_000)]
print(during, gc.isenabled(), len(collected), gc.get_freeze_count() > 100_000)

class Cycle:
    def __init__(self):
        self.own = self
    def __del__(self):
        print("collected")

Cycle()
gc.collect()
Cycle()
skip_collection_at_exit()
skip_collection_at_exit()
"""


def test_garbage_is_not_collected_while_packages_are_imported_and_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["False True 0 True", "collected"]


def test_nothing_is_kept_from_collection_in_a_process_that_has_imported_pytorch() -> None:
    program = (
        "import gc, torch\nfrom zipasr.cli.memory import uncollected_imports\n"
        "with uncollected_imports():\n    print(gc.isenabled())\nprint(gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "0"]


def test_ctrl_c_waits_for_the_end_of_imports() -> None:
    program = """
import signal
from zipasr.cli.memory import uncollected_imports

signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
try:
    with uncollected_imports():
        signal.raise_signal(signal.SIGINT)
        print("imported")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "imported\ninterrupted True\n"
