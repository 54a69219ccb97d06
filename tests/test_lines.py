"""Contract: endless files are refused; files are written whole or not at all, where there are links and pipes."""

import json
import os
import threading
from pathlib import Path

import pytest

from tests.watchdog import WATCHDOG_S
from zipasr import lines
from zipasr.cli.recordings import write_result
from zipasr.errors import DataError
from zipasr.lines import parse_json, read_lines, read_whole, replacing, write_rows


def write_line(path: Path) -> None:
    write_result(path, "{}\n")


def write_row(path: Path) -> None:
    write_rows(path, [{}])


@pytest.mark.parametrize("write", [write_line, write_row])
def test_a_link_stays_a_link(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "here" / "a", tmp_path / "there" / "b"
    link.symlink_to(target)
    for before in (None, "old"):  # a link to nothing, then to a file
        if before is not None:
            target.write_text(before)
        write(link)
        assert link.is_symlink() and target.read_text() == "{}\n"
    assert [path.name for folder in ("here", "there") for path in (tmp_path / folder).iterdir()] == ["a", "b"]


@pytest.mark.parametrize("write", [write_line, write_row])
def test_a_pipe_gets_what_is_written(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pipe, received = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(WATCHDOG_S)
    assert received == ["{}\n"] and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_the_temporary_file_is_beside_the_target_of_a_link(tmp_path: Path) -> None:
    """Between two file systems a file cannot be renamed."""
    (tmp_path / "there").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "there" / "b")
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "there" / "c") as other:
        assert one.parent == other.parent == tmp_path / "there" and one != other
        one.write_text("1")
        other.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [1])
    with pytest.raises(TypeError):
        write_rows(path, [2, object()])
    assert json.loads(path.read_text()) == 1 and list(tmp_path.iterdir()) == [path]


def test_json_that_somebody_else_wrote() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
    for content in ("[" * 100_000, '{"a": ' * 100_000):
        with pytest.raises(ValueError, match="lists or objects are nested too deeply"):
            parse_json(content)
    with pytest.raises(ValueError, match="Expecting value"):
        parse_json("")


def test_a_device_without_end_is_no_text() -> None:
    assert read_whole("/dev/null") == b"" and list(read_lines(Path("/dev/null"))) == []
    with pytest.raises(OSError, match="it is a device, which has no end"):
        read_whole("/dev/zero")
    with pytest.raises(DataError, match=r"/dev/urandom cannot be read as text: .*it is a device, which has no end"):
        next(read_lines(Path("/dev/urandom")))


def test_what_is_read_into_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 4 << 20)
    (path := tmp_path / "a").write_bytes(b"ab\n" + b"x" * (4 << 20) + b"\n")
    assert read_whole(path, most_bytes=(4 << 20) + 4) == path.read_bytes()
    with pytest.raises(OSError, match="it has more than 4 MB"):
        read_whole(path, most_bytes=4 << 20)
    read = read_lines(path)
    assert next(read) == (1, "ab")
    with pytest.raises(DataError, match="it has a line of more than 4 MB"):
        next(read)
