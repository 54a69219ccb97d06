"""Contract: the size that a file states, also in several chunks; None or no more than is there for one that states none."""

import io
import struct

import pytest

from tests.audio.tones import ENCODED
from zipasr.audio import containers, load_audio
from zipasr.audio.containers import stated_bytes


def stated(data: bytes) -> int | None:
    return stated_bytes(io.BytesIO(data))


@pytest.mark.parametrize(("kind", "end_bytes"), [("w64", 0), ("caf", 0), ("avi", 0), ("voc", 1)])
def test_a_file_states_its_size_and_keeps_it_when_it_is_cut(kind: str, end_bytes: int) -> None:
    data = ENCODED[kind]()
    assert stated(data) == len(data) - end_bytes  # a VOC file ends with a byte of type 0
    assert stated(data[: len(data) // 2]) == len(data) - end_bytes
    assert stated(data + b"something else" * 1000) == len(data) - end_bytes


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "webm", "sph"])
def test_other_formats_state_it_elsewhere(kind: str) -> None:
    assert stated(ENCODED[kind]()) is None
    assert stated(b"") is stated(b"RIFF") is None


def unknown(kind: str, data: bytes) -> bytes:
    """A file as programs write it into a pipe."""
    if kind == "w64":
        return data[:16] + b"\xff" * 8 + data[24:]
    if kind == "avi":
        return data[:4] + bytes(4) + data[8:]
    at = data.index(b"data") + 4
    return data[:at] + b"\xff" * 8 + data[at + 8 :]


@pytest.mark.parametrize("kind", ["w64", "avi", "caf"])
def test_an_unknown_size_is_none(kind: str) -> None:
    data = ENCODED[kind]()
    piped = unknown(kind, data)
    size = stated(piped)
    assert size is None or size <= len(piped)
    assert len(load_audio(piped)) == pytest.approx(len(load_audio(data)), abs=16)


def test_an_avi_of_several_parts_states_that_of_all() -> None:
    part = b"RIFF" + struct.pack("<I", 5004) + b"AVIX" + bytes(5000)
    data = b"RIFF" + struct.pack("<I", 104) + b"AVI " + bytes(100) + part + part
    assert stated(data) == stated(data[:-3000]) == len(data)
    assert stated(data[:3000]) == len(data) - len(part)


def test_few_chunks_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x10A, 0x1129) + bytes([4, 0, 0, 0]) * 1000
    assert stated(data) == len(data)
    monkeypatch.setattr(containers, "_MAX_CHUNKS", 10)
    assert stated(data) == 26 + 40
