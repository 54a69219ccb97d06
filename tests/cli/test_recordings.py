"""Contract: the recordings that arguments name."""

from pathlib import Path

import pytest

from zipasr.cli.recordings import expand_folders
from zipasr.errors import ConfigError


def test_a_folder_gives_its_visible_recordings_and_those_of_linked_folders(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for path in (here / "b.wav", here / "._b.wav", here / ".Trash" / "x.wav", here / "b.txt", elsewhere / "a.MP3"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (here / "part").symlink_to(elsewhere)
    assert expand_folders(["-", str(here)]) == ["-", str(here / "b.wav"), str(here / "part" / "a.MP3")]


def test_a_folder_of_hidden_recordings_holds_none(tmp_path: Path) -> None:
    (tmp_path / "._a.wav").touch()
    with pytest.raises(ConfigError, match=r"a folder must hold recordings, but .* holds none"):
        expand_folders([str(tmp_path)])
