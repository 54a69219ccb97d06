"""Contract: the recordings that arguments name."""

from pathlib import Path

import pytest

from zipasr.cli.recordings import ctm_names, expand_folders, result_paths
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


def test_the_standard_input_is_named_once() -> None:
    assert expand_folders(["-", "a.wav", "a.wav"]) == ["-", "a.wav", "a.wav"]
    with pytest.raises(ConfigError, match="the standard input can be read once, but - is named twice"):
        expand_folders(["-", "a.wav", "-"])


def test_a_recording_that_is_named_twice_is_told_so(tmp_path: Path) -> None:
    twice = [str(tmp_path / "a.wav"), str(tmp_path / "." / "a.wav")]
    with pytest.raises(ConfigError, match=r"different names with --out, but \S+a\.wav is named twice; name it once"):
        result_paths(twice, "out", "txt")
    with pytest.raises(ConfigError, match=r"a\.wav and \S+a\.mp3 are both for out/a\.txt; rename one of them"):
        result_paths([twice[0], str(tmp_path / "a.mp3")], "out", "txt")


def test_recordings_of_one_name_have_their_paths_in_ctm() -> None:
    names = ["mon/a.wav", "tue/a.wav", "tue/b.wav", "tue/b.wav"]
    assert ctm_names(names) == {"mon/a.wav": "mon/a.wav", "tue/a.wav": "tue/a.wav", "tue/b.wav": "b"}
