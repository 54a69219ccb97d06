"""The folder of a run. Contract: one process at a time, and one sentence for the other."""

from pathlib import Path

import pytest

from zipasr.errors import CheckpointError, ConfigError
from zipasr.train.folder import locked


def test_second_process_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    with locked(out):
        assert out.is_dir()
        with pytest.raises(ConfigError, match="another process is training in"), locked(out):
            pass
    with locked(out):  # free again
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="must be a folder to write into"), locked(tmp_path / "file" / "run"):
        pass
