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

# Tensors are small here, so threads would mostly wait for each other: on a busy machine, 8 times as long as one thread.
torch.set_num_threads(1)

# No example fails for being slow, since a machine may be busy. "fixed" tries the same examples in every run; "random" draws
# them from --hypothesis-seed, and keeps those that fail in .hypothesis (see tests/test_properties.py).
_ANY_SPEED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, **_ANY_SPEED)
hypothesis.settings.register_profile("random", derandomize=False, print_blob=True, **_ANY_SPEED)
hypothesis.settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed every test alike, fixtures included, so that results do not depend on earlier tests of the same process.

    Slow tests that would start after `SLOW_TESTS_UNTIL`, in seconds since 1970, are skipped; `.ci/run` sets it.
    """
    if item.get_closest_marker("slow") and time.time() > float(os.environ.get("SLOW_TESTS_UNTIL", "inf")):
        pytest.skip("NOT RUN: no time is left for slow tests")
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a verb that ran in this process may have set another number


_SLOW = ("trained_streaming", "odd_values")
_QUICK = ("readme", "streaming", "loop", "quantize", "memory", "distributed")
LONGEST = tuple(f"test_{name}.py" for name in (*_SLOW, *_QUICK))
"""Test files that take longest, started first, so that no process starts a long one while all others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
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
