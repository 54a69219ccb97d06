"""Law: the files below a folder are each listed once, sorted, whatever links there are; hidden ones are none."""

from pathlib import Path

from zipasr.audio import files_below


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def test_hidden_files_and_folders_are_left_out_only_below_the_folder(tmp_path: Path) -> None:
    here = tmp_path / ".cache" / "recordings"
    put(here / "b" / "c.wav", here / "a.wav", here / "._a.wav", here / ".Trash" / "x.wav", here / "b" / ".d.wav")
    assert listed(here) == ["a.wav", "b/c.wav"]
    assert files_below(str(here)) == files_below(here)


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    put(here / "b.wav", elsewhere / "deep" / "c.wav", tmp_path / "third" / "d.wav")
    (here / "part").symlink_to(elsewhere)
    (here / "e.wav").symlink_to(here / "b.wav")
    (here / "gone.wav").symlink_to(tmp_path / "nothing")
    (elsewhere / "deep" / "further").symlink_to(tmp_path / "third")
    assert listed(here) == ["b.wav", "e.wav", "part/deep/c.wav", "part/deep/further/d.wav"]


def test_a_folder_is_listed_once_and_cycles_end(tmp_path: Path) -> None:
    here = tmp_path / "here"
    put(here / "z" / "a.wav", tmp_path / "other" / "b.wav", tmp_path / "beside.wav")
    (here / "again").symlink_to(here / "z")
    (here / "z" / "up").symlink_to(here)
    (here / "z" / "out").symlink_to(tmp_path)
    (here / "one").symlink_to(tmp_path / "other")
    (here / "two").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "self").symlink_to(tmp_path / "other")
    assert listed(here) == ["one/b.wav", "z/a.wav"]
