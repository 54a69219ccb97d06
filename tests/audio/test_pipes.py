"""Contract: pipes, FIFOs and standard input are read once, while the data arrives."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.audio.tones import ENCODED
from tests.watchdog import WATCHDOG_S
from zipasr.audio import audio_duration_s, load_audio, num_channels, read_blocks, rereadable
from zipasr.errors import AudioError

KINDS = ["wav", "flac", "m4a", "mp3", "webm"]
PROGRAM = "import sys; from zipasr.audio import load_audio; sys.stdout.buffer.write(load_audio(sys.argv[1]).tobytes())"


@contextmanager
def fifo(folder: Path, data: bytes) -> Iterator[Path]:
    """A FIFO that a program writes to."""
    path = folder / "pipe"
    os.mkfifo(path)
    writing = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    writing.start()
    yield path
    writing.join(WATCHDOG_S)
    path.unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fifo(kind: str, tmp_path: Path) -> None:
    data = ENCODED[kind]()
    whole = load_audio(data)
    with fifo(tmp_path, data) as path:
        np.testing.assert_array_equal(load_audio(path), whole)
    with fifo(tmp_path, data) as path:
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(str(path), block_s=0.2))), whole)
    with fifo(tmp_path, data) as path:
        assert audio_duration_s(path) == pytest.approx(len(whole) / 16000, abs=0.05)


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("is_file", [False, True])
def test_the_standard_input(name: str, is_file: bool, tmp_path: Path) -> None:
    """Standard input may be a pipe or a file."""
    data = ENCODED["m4a"]()
    path = tmp_path / "a.m4a"
    path.write_bytes(data)
    command = [sys.executable, "-c", PROGRAM, name]
    with path.open("rb") as file:
        given = {"stdin": file} if is_file else {"input": data}
        found = subprocess.run(command, capture_output=True, check=True, **given).stdout  # type: ignore[call-overload]
    np.testing.assert_array_equal(np.frombuffer(found, np.float32), load_audio(data))


def test_process_substitution(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(ENCODED["wav"]())
    command = f"'{sys.executable}' -c '{PROGRAM}' <(cat '{path}')"
    found = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    np.testing.assert_array_equal(np.frombuffer(found, np.float32), load_audio(path))


def test_a_pipe_that_is_read_several_times(tmp_path: Path) -> None:
    data = ENCODED["m4a"]()
    with fifo(tmp_path, data) as path, rereadable(path) as again:
        for _ in range(2):
            again.seek(0)
            assert num_channels(again) == 1
            np.testing.assert_array_equal(load_audio(again), load_audio(data))
    with rereadable(data) as again:
        assert again is data


def test_errors_of_the_caller_are_not_converted(tmp_path: Path) -> None:
    with fifo(tmp_path, ENCODED["wav"]()) as path, pytest.raises(RuntimeError, match="theirs"), rereadable(path):
        raise RuntimeError("theirs")


def test_pipes_that_hold_no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fifo(tmp_path, b"") as path, pytest.raises(AudioError, match=r"pipe must .*, but has zero bytes"):
        load_audio(path)
    with pytest.raises(AudioError, match="/dev/null must be a recording, but has zero bytes"):
        load_audio("/dev/null")
    with pytest.raises(AudioError, match="/dev/zero must be a recording, but is a device; record from it into a file"):
        load_audio("/dev/zero")
    with fifo(tmp_path, b"this is not audio") as path, pytest.raises(AudioError, match="unknown or damaged format"):
        load_audio(path)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AudioError, match="the standard input must be a recording, but is closed"):
        load_audio("-")


def test_counting_channels_would_use_a_pipe_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in ("-", tmp_path / "pipe"):
        with pytest.raises(ValueError, match="a source must be readable again"):
            num_channels(source)
