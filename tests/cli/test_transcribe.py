"""Contract: `zipasr transcribe` on a tiny random model; a bad file is reported and the next goes on."""

import json
from pathlib import Path

import pytest
import soundfile

import zipasr
from tests.tiny_model import noise, save_tiny
from zipasr.cli import main


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_tiny(folder / "model")
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good: a.wav, b.ogg, short.wav (10 ms). Bad: text.wav, cut.flac, nan.wav, empty.wav."""
    folder = tmp_path_factory.mktemp("sounds")
    soundfile.write(folder / "a.wav", noise(1.0), 16_000)
    soundfile.write(folder / "b.ogg", noise(1.5, 1), 16_000)
    soundfile.write(folder / "short.wav", noise(0.01), 16_000)
    (folder / "text.wav").write_text("this is no sound")
    soundfile.write(folder / "cut.flac", noise(2.0), 16_000)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:20_000])
    soundfile.write(folder / "nan.wav", noise(0.5) * float("nan"), 16_000, subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    return folder


def test_one_file_is_its_text(run_folder: Path, sounds: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["transcribe", str(run_folder), str(sounds / "a.wav")]) == 0
    text = zipasr.load(run_folder).transcribe(sounds / "a.wav").text
    assert text
    assert capsys.readouterr().out == f"{text}\n"


def test_several_files_are_named(run_folder: Path, sounds: Path, capsys: pytest.CaptureFixture) -> None:
    paths = [str(sounds / name) for name in ("a.wav", "b.ogg", "short.wav")]
    assert main(["transcribe", str(run_folder), *paths]) == 0
    recognizer = zipasr.load(run_folder)
    assert capsys.readouterr().out.splitlines() == [f"{path}: {recognizer.transcribe(path).text}" for path in paths]


def test_bad_files_are_reported_and_the_rest_goes_on(run_folder: Path, sounds: Path, capsys: pytest.CaptureFixture) -> None:
    bad = [str(sounds / name) for name in ("text.wav", "cut.flac", "nan.wav", "empty.wav", "missing.wav")]
    good = [str(sounds / "a.wav"), str(sounds / "b.ogg")]
    assert main(["transcribe", str(run_folder), good[0], *bad, good[1], "--search", "greedy"]) == 1
    captured = capsys.readouterr()
    assert [line.split(": ")[0] for line in captured.out.splitlines()] == good
    errors = captured.err.splitlines()
    assert len(errors) == len(bad)
    for path, error in zip(bad, errors, strict=True):
        assert error.startswith("zipasr: error: ")
        assert path in error


def test_json(run_folder: Path, sounds: Path, capsys: pytest.CaptureFixture) -> None:
    paths = [str(sounds / name) for name in ("a.wav", "text.wav", "short.wav")]
    assert main(["transcribe", str(run_folder), *paths, "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["audio"] for row in rows] == paths
    assert rows[0]["text"] == zipasr.load(run_folder).transcribe(paths[0]).text
    assert {"text", "words", "tokens", "duration_s"} <= rows[0].keys()
    assert rows[1].keys() == {"audio", "error"}
    assert rows[2]["text"] == ""


def test_no_model(sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["transcribe", str(tmp_path), str(sounds / "a.wav")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"zipasr: error: {tmp_path} must be a model folder")
