"""Setup that all tests share: fixed random seeds, and the English telephone prompts, downloaded once."""

import os
import random
import time
from pathlib import Path

# Tests that run in parallel have one core each, and so do the processes that they start. Set before torch reads it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import filelock
import hypothesis
import numpy as np
import pytest
import torch

from zipasr.errors import DataError

REPOSITORY = Path(__file__).parents[1]

# No test cuts the power, so nothing must wait for the disk: a checkpoint waits for it ten times.
os.fsync = lambda descriptor: None

# Tensors are small here, so threads would mostly wait for each other: on a busy machine, 8 times as long as one thread.
torch.set_num_threads(1)

# No example fails for being slow, since a machine may be busy. "fixed" tries the same examples in every run; "random" draws
# them from --hypothesis-seed, and keeps those that fail in .hypothesis (see tests/test_properties.py).
_ANY_SPEED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, **_ANY_SPEED)
hypothesis.settings.register_profile("random", derandomize=False, print_blob=True, **_ANY_SPEED)
hypothesis.settings.load_profile("fixed")


DEFAULT_MINUTES = 1.5
"""More than a slow test takes that names no minutes."""


def seconds_left() -> float:
    """Seconds until slow tests must have ended: `SLOW_TESTS_UNTIL` in seconds since 1970, which `.ci/run` sets."""
    return float(os.environ.get("SLOW_TESTS_UNTIL", "inf")) - time.time()


def skip_unless_time_is_left(minutes: float, work: str) -> None:
    """Skip the test if work of so many minutes would not end in time; the reason names the work."""
    if 60.0 * minutes > seconds_left():
        pytest.skip(f"NOT RUN: {work} may take {minutes:g} minutes, and fewer are left")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed every test alike, fixtures included, so that results do not depend on earlier tests of the same process.

    Slow tests that would not end by `SLOW_TESTS_UNTIL` are skipped. They name the minutes that they take on a slow machine
    of two cores beside other work, without those of fixtures that tests share: `@pytest.mark.slow(minutes=3)`.
    """
    if marker := item.get_closest_marker("slow"):
        skip_unless_time_is_left(marker.kwargs.get("minutes", DEFAULT_MINUTES), item.nodeid)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a verb that ran in this process may have set another number


_SLOW = ("odd_values", "kills", "prompts", "acceleration", "memory")
_TRAINING = ("loop", "finetune", "distributed", "encoders", "rescue", "published")
_OTHERS = ("readme", "profile", "page", "page_player", "streaming", "stream", "faults", "quantize")
LONGEST = tuple(f"test_{name}.py" for name in (*_SLOW, *_TRAINING, *_OTHERS))
"""Test files that take longest, started first, so that no process starts a long one while all others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; or, where `SLOW_TESTS_DAY` is set, a different file every day, as time may not be enough
    for all."""
    if "SLOW_TESTS_DAY" in os.environ:
        files = [*dict.fromkeys(item.path for item in items if item.get_closest_marker("slow"))]
        first = int(os.environ["SLOW_TESTS_DAY"]) % max(1, len(files))
        order = {path: (i - first) % len(files) for i, path in enumerate(files)}
        items.sort(key=lambda item: order.get(item.path, len(files)))
    else:
        items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def prompts_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `zipasr prepare prompts` writes, made from recordings that are downloaded only once.

    They are kept in `$ZIPASR_CACHE`, or in `.cache` of the repository. Skips the test where they cannot be fetched.
    """
    from zipasr.prepare import prepare

    out = tmp_path_factory.mktemp("prompts_en")
    cache = Path(os.environ.get("ZIPASR_CACHE") or REPOSITORY / ".cache")
    cache.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, filelock.FileLock(cache / "tests.lock"):  # apt-get allows one at a time
        patch.setenv("ZIPASR_CACHE", str(cache))
        try:
            prepare("prompts", out)
        except DataError as error:
            pytest.skip(f"no prompts: {error}")
    return out
