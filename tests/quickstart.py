"""The run of the quick start, which several files of slow tests need: made once, as in the README."""

import os
import signal
import subprocess
import threading

import pytest

from tests.conftest import REPOSITORY, seconds_left, skip_unless_time_is_left

RUN, DATA = REPOSITORY / "exp" / "quickstart", REPOSITORY / "data" / "prompts"
MINUTES = 33.0
"""What half of the training and the rest took on a slow machine of two cores, beside the tests on two processes."""
_TIMEOUT_S = 120 * 60.0


def run_quickstart(config: pytest.Config) -> list[str]:
    """Run the quick start and return its output, which is also shown at once; skips the test where no time is left."""
    skip_unless_time_is_left(MINUTES, "the quick start")
    lines, limit_s = [], min(_TIMEOUT_S, seconds_left())
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        process = subprocess.Popen(
            [REPOSITORY / "scripts" / "quickstart"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        watchdog = threading.Timer(limit_s, lambda: os.killpg(process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip("\n"))
            code = process.wait()
        finally:
            watchdog.cancel()
    if code == -signal.SIGKILL and seconds_left() <= 0:
        pytest.skip(f"NOT RUN to its end: the quick start, which was stopped after {limit_s / 60:.0f} minutes")
    assert code == 0, f"exit code {code} ({-signal.SIGKILL} after {limit_s:.0f} s means that it took too long)"
    return lines


def ensure_quickstart(config: pytest.Config) -> None:
    """Run the quick start if it has not run."""
    if not (RUN / "test_results.jsonl").exists():
        run_quickstart(config)
