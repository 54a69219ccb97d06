"""Replacing folders. Contract: a folder without a name of its own is refused before anything is written."""

import os
from pathlib import Path

import pytest

from zipasr.checkpoint import write_folder
from zipasr.errors import ConfigError
from zipasr.export.onnx import check_target as check_export
from zipasr.folder_swap import beside, replace_folder
from zipasr.hub.conversion import check_place
from zipasr.hub.local import check_target, copy_model


def test_beside() -> None:
    assert beside(Path("a/b"), "old") == Path(f"a/.b.old-{os.getpid()}")
    assert beside(Path("./b/."), "old") == Path(f".b.old-{os.getpid()}")


@pytest.mark.parametrize("name", [".", "", "..", "a/..", "/"])
def test_a_folder_without_a_name_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, new = tmp_path / "above" / "work", tmp_path / "new"
    (work / "a").mkdir(parents=True)
    new.mkdir()
    monkeypatch.chdir(work)
    before = sorted(tmp_path.rglob("*"))
    message = "a folder to write must have a name, but is .*; name a new folder, not this one"
    for write in (
        lambda: replace_folder(new, Path(name)),
        lambda: write_folder(name, documents={"a.json": 1}, tensors={}, blobs={}),
        lambda: copy_model(new, name),
        lambda: check_target(name),
        lambda: check_place(Path(name)),
        lambda: check_export(name),
    ):
        with pytest.raises(ConfigError, match=message):
            write()
    assert sorted(tmp_path.rglob("*")) == before
