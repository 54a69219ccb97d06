"""The lock of a run folder. Contract: one process at a time; a second one gets an error message."""

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from tests.forked import Forked
from tests.watchdog import WATCHDOG_S
from zipasr import checkpoint
from zipasr.checkpoint import locked
from zipasr.errors import CheckpointError, ConfigError


def test_second_process_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    with locked(out):
        assert out.is_dir()
        with pytest.raises(ConfigError, match="another process is training in"), locked(out):
            pass
    with locked(out):  # free again
        pass


def lock_and_leave_a_child(out: str) -> None:
    with locked(Path(out)):
        if os.fork() == 0:
            while not Path(out, "awaited").exists():
                time.sleep(0.02)
            Path(out, "left").touch()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)


def test_waits_for_the_readers_of_a_run_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child holds the lock of its dead parent until someone waits for it."""
    out = tmp_path / "run"
    process = Forked(lock_and_leave_a_child, str(out), cwd=tmp_path, environment={})
    assert process.wait(WATCHDOG_S) == -signal.SIGKILL
    sleep = time.sleep

    def wait(seconds: float) -> None:
        (out / "awaited").touch()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setattr(checkpoint, "_ORPHANS_LIVE_S", WATCHDOG_S)
    with locked(out):
        assert (out / "left").is_file()


def test_what_a_kill_left_is_put_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("model", ".model.old-12", "checkpoints/.batch-00000004.old-12", "best/.batch-00000004.partial-12"):
        (tmp_path / name).mkdir(parents=True)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        pass
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("**/*") if path.is_dir()}
    assert found == {"model", "checkpoints", "best", "checkpoints/batch-00000004"}
    assert "batch-00000004 was being replaced" in caplog.text


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="must be a folder to write into"), locked(tmp_path / "file" / "run"):
        pass
