"""Contract: `zipasr spot` on a small random model: recordings, raw samples on the standard input, and misuse."""

import io
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.recognizer.causal_models import KEYWORDS, RECORDINGS, pausing_model, pausing_recognizer
from tests.tiny_model import save_tiny, tiny_tokenizer
from zipasr.cli import main
from zipasr.recognizer import KeywordEvent, SpotterConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, keywords, and two recordings."""
    folder = tmp_path_factory.mktemp("spot")
    pausing_model().save(folder / "model", tiny_tokenizer())
    (folder / "keywords.txt").write_text("".join(f"{keyword} #0.55\n" for keyword in KEYWORDS), encoding="utf-8")
    for name, samples in zip("ab", RECORDINGS, strict=False):
        soundfile.write(folder / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    return folder


def spot(folder: Path, *argv: str) -> int:
    return main(["spot", str(folder / "model"), "--keywords", str(folder / "keywords.txt"), *argv])


def expected(samples: np.ndarray, **config: float) -> list[KeywordEvent]:
    spotter = pausing_recognizer().spotter(KEYWORDS, threshold=0.55, config=SpotterConfig(**config))  # type: ignore[arg-type]
    return spotter.spot(samples)


def test_recordings(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert spot(folder, str(folder / "a.wav")) == 0
    events = expected(RECORDINGS[0])
    lines = [f"{event.start_s:.2f} {event.keyword} {event.score:.3f}" for event in events]
    assert len(lines) > 2 and capsys.readouterr().out.splitlines() == lines
    assert spot(folder, str(folder / "a.wav"), str(folder / "b.wav")) == 0
    named = [f"{folder / 'a.wav'}: {line}" for line in lines]
    assert capsys.readouterr().out.splitlines()[: len(named)] == named


def test_json_and_near_misses(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert spot(folder, str(folder / "b.wav"), "--json", "--near", "0.3", "--refractory-s", "0") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [event.to_dict() for event in expected(RECORDINGS[1], near=0.3, refractory_s=0.0)]
    assert {event["is_near"] for event in found} == {True, False}
    assert spot(folder, str(folder / "b.wav"), "--near", "0.3") == 0
    assert "(near miss, threshold 0.55)" in capsys.readouterr().out


class Pipe(io.BytesIO):
    """A pipe that gives an odd number of bytes at a time."""

    def read1(self, size: int | None = -1) -> bytes:
        return self.read(min(1_001, size if size and size > 0 else 1_001))


def test_raw_samples_of_the_standard_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    codes = np.round(RECORDINGS[0] * 32768).clip(-32768, 32767).astype("<i2")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Pipe(codes.tobytes())))
    assert spot(folder, "-") == 0
    words = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert words == [[f"{event.start_s:.2f}", event.keyword] for event in expected(RECORDINGS[0])]


def test_the_microphone(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """A package of the same interface as sounddevice, whose device is interrupted when its recording ends."""

    class Device:
        def __init__(self, **settings: object) -> None:
            assert settings == {"samplerate": 16_000, "channels": 1, "dtype": "float32"}
            self.position = 0

        def __enter__(self) -> "Device":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, num_frames: int) -> tuple[np.ndarray, bool]:
            if self.position >= len(RECORDINGS[0]):
                raise KeyboardInterrupt
            self.position += num_frames
            return RECORDINGS[0][self.position - num_frames : self.position, np.newaxis], False

    module = types.SimpleNamespace(InputStream=Device, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    assert spot(folder, "--microphone") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(expected(RECORDINGS[0]))
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert spot(folder, "--microphone") == 2
    assert 'pip install "zipasr[microphone]"' in capsys.readouterr().err


def interrupted(*_: object, **__: object) -> Iterator[np.ndarray]:
    """A recording whose reading is interrupted at its end."""
    yield RECORDINGS[0]
    raise KeyboardInterrupt


def test_an_interruption_ends_files_but_only_completes_live_audio(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("zipasr.audio.read_blocks", interrupted)
    assert spot(folder, str(folder / "a.wav"), str(folder / "b.wav")) == 130
    captured = capsys.readouterr()
    assert captured.err.endswith("zipasr: interrupted\n") and "b.wav" not in captured.out
    monkeypatch.setattr("zipasr.cli.spot._raw_samples", interrupted)
    assert spot(folder, "-") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(expected(RECORDINGS[0]))


def test_a_closed_standard_input_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert spot(folder, "-") == 1
    assert "error: the standard input must be a recording, but is closed; name a file" in capsys.readouterr().err


def test_errors_are_json_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "text.wav").write_text("this is not audio")
    assert spot(folder, str(tmp_path / "text.wav"), "--json") == 1
    captured = capsys.readouterr()
    (row,) = [json.loads(line) for line in captured.out.splitlines()]
    assert row["audio"] == str(tmp_path / "text.wav") and captured.err.endswith(f"zipasr: error: {row['error']}\n")


def test_what_cannot_be_read_is_skipped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "text.wav").write_text("this is not audio")
    assert spot(folder, str(tmp_path / "text.wav"), str(folder / "a.wav")) == 1
    captured = capsys.readouterr()
    assert "zipasr: error:" in captured.err and captured.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "there is neither"),
        (("a.wav", "--microphone"), "both are given"),
        (("a.wav", "--sample-rate", "8000"), "--sample-rate is for raw samples"),
        (("-", "--sample-rate", "0"), "--sample-rate must be from 1000 to 768000 Hz, but is 0"),
        (("-", "--sample-rate", "4"), "--sample-rate must be from 1000 to 768000 Hz, but is 4"),
        (("-", "--audio-track", "7", "--allow-damaged"), "--audio-track is for files"),
        (("--microphone", "--allow-damaged"), "--allow-damaged is for files"),
        (("-", "-"), "- is named twice"),
        (("a.wav", "--near", "2"), "near must be a share"),
        (("a.wav", "--paths", "0"), "beam must be from 1"),
        (("a.wav", "--max-symbols-per-frame", "0"), "max_symbols_per_frame must be from 1"),
        (("a.wav", "--threshold", "0", "--keywords", "plain.txt"), "threshold of keyword"),
        (("a.wav", "--boost", "-1", "--keywords", "plain.txt"), "boost of keyword"),
        (("a.wav", "--keywords", "missing.txt"), "missing.txt must be a file of keywords"),
        (("a.wav", "--keywords", "wrong.txt"), "line 2 of"),
    ],
)
def test_misuse(argv: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "wrong.txt").write_text("QUICK FOX\nLAZY DOG :very\n")
    (folder / "plain.txt").write_text("QUICK FOX\n")
    named = [str(folder / arg) if "." in arg else arg for arg in argv]
    assert spot(folder, *named) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_stream(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "keywords.txt").write_text("QUICK FOX\n")
    assert spot(tmp_path, str(folder / "a.wav")) == 2
    assert "a stream needs a causal Zipformer" in capsys.readouterr().err
