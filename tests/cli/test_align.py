"""Contract: `zipasr align` on a tiny random model; a recording that fails is reported and skipped."""

import json
import os
import threading
from pathlib import Path

import pytest
import soundfile

import zipasr
from tests.audio.muxing import mux
from tests.tiny_model import noise, save_tiny
from tests.watchdog import WATCHDOG_S
from zipasr.cli import main
from zipasr.recognizer import align_file
from zipasr.transcript import FORMATS

TEXTS = {"a": "The quick brown fox", "b": "jumps over the lazy dog"}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_tiny(folder / "model")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good: a.wav, b.ogg. Bad: no_text.wav, odd.wav (letters), short.wav (too many words), broken.wav."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text)
    soundfile.write(folder / "a.wav", noise(3.0), 16_000)
    soundfile.write(folder / "b.ogg", noise(4.0, 1), 16_000)
    soundfile.write(folder / "no_text.wav", noise(1.0), 16_000)
    soundfile.write(folder / "odd.wav", noise(1.0), 16_000)
    (folder / "odd.txt").write_text("ten % off")
    soundfile.write(folder / "short.wav", noise(0.1), 16_000)
    (folder / "short.txt").write_text(TEXTS["b"])
    (folder / "broken.wav").write_text("this is not audio")
    (folder / "broken.txt").write_text(TEXTS["b"])
    return folder


def test_ctm_on_stdout(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    paths = [str(recordings / "a.wav"), str(recordings / "b.ogg")]
    assert main(["align", str(run_folder), *paths]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[4] for row in rows if row[0] == "a"] == TEXTS["a"].upper().split()
    assert [row[4] for row in rows if row[0] == "b"] == TEXTS["b"].upper().split()


@pytest.mark.parametrize("format", ["ctm", "textgrid", "json", "srt", "vtt", "tsv"])
def test_formats_and_texts(
    run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture, format: str
) -> None:
    audio, text = str(recordings / "a.wav"), tmp_path / "other.txt"
    text.write_text("pack my box")
    transcript = align_file(zipasr.load(run_folder, device="cpu"), audio, "pack my box")
    expected = FORMATS[format](transcript, audio if format == "json" else "a")
    base = ["align", str(run_folder), audio, "--format", format, "--device", "cpu"]
    assert main([*base, "--text", "Pack my box"]) == 0
    assert capsys.readouterr().out == expected
    assert main([*base, "--text-file", str(text), "--out", str(tmp_path / "new" / "times")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "new" / "times").read_text(encoding="utf-8") == expected


def test_one_output_file_per_recording(run_folder: Path, recordings: Path, tmp_path: Path) -> None:
    paths = [str(recordings / "a.wav"), str(recordings / "b.ogg")]
    assert main(["align", str(run_folder), *paths, "--format", "textgrid", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.TextGrid", "b.TextGrid"]
    assert '"QUICK"' in (tmp_path / "a.TextGrid").read_text()


def test_folders_are_taken_and_written_to(
    run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "a.txt", "b.ogg", "b.txt"):
        (tmp_path / "in" / name).write_bytes((recordings / name).read_bytes())
    assert main(["align", str(run_folder), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.ctm", "b.ctm"]
    (tmp_path / "one").mkdir()
    for flags in ((), ("--text", TEXTS["a"])):
        assert main(["align", str(run_folder), str(tmp_path / "in/a.wav"), "--out", str(tmp_path / "one"), *flags]) == 0
    assert (tmp_path / "one/a.ctm").read_text() == (tmp_path / "out/a.ctm").read_text()
    (tmp_path / "in/a.ctm").write_text("by hand")
    assert main(["align", str(run_folder), str(tmp_path / "in/a.wav"), "--out", str(tmp_path / "in")]) == 2
    assert "results must not replace files beside recordings" in capsys.readouterr().err


def test_recordings_of_one_name_are_told_apart(
    run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for folder, name in (("mon", "a.wav"), ("tue", "b.ogg")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.wav").write_bytes((recordings / name).read_bytes())
        (tmp_path / folder / "x.txt").write_text(TEXTS[name[0]])
    paths = [str(tmp_path / folder / "x.wav") for folder in ("mon", "tue")]
    assert main(["align", str(run_folder), *paths]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[4] for row in rows if row[0] == paths[1]] == TEXTS["b"].upper().split()


def test_bad_files_are_reported_and_skipped(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    bad = {"no_text.wav": "no_text.txt", "odd.wav": "but has %", "short.wav": "does not fit", "broken.wav": "broken.wav"}
    paths = [str(recordings / name) for name in ("a.wav", *bad, "b.ogg")]
    assert main(["align", str(run_folder), *paths, "--format", "json"]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["audio"] for row in rows] == paths
    assert [row.get("text") for row in rows] == [TEXTS["a"].upper(), *[None] * len(bad), TEXTS["b"].upper()]
    for line, reason in zip(captured.err.splitlines(), bad.values(), strict=True):
        assert line.startswith("zipasr: error: ")
        assert reason in line


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--text", "the dog"], "--text must go with one recording, but there are 2; put a NAME.txt next to each"),
        (["--text-file", "x"], "--text-file must go with one recording, but there are 2"),
        (["--format", "textgrid"], "a textgrid file holds one recording, but there are 2; give a folder with --out"),
    ],
)
def test_flags_for_one_recording(
    run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture, flags: list[str], complaint: str
) -> None:
    assert main(["align", str(run_folder), str(recordings / "a.wav"), str(recordings / "b.ogg"), *flags]) == 2
    assert complaint in capsys.readouterr().err


def test_misuse(run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    audio = str(recordings / "a.wav")
    assert main(["align", str(run_folder), audio, audio, "--out", str(tmp_path)]) == 2
    assert "must have different names with --out" in capsys.readouterr().err
    assert main(["align", str(run_folder), audio, "--text", "a", "--text-file", "b"]) == 2
    assert "not allowed with" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["align", str(run_folder), audio, "--out", str(tmp_path / "file" / "times")]) == 1
    assert "must be writable, but is not" in capsys.readouterr().err
    save_tiny(tmp_path / "model", has_ctc=False)
    assert main(["align", str(tmp_path / "model"), audio]) == 2
    assert "needs a CTC head" in capsys.readouterr().err


def test_tracks_damage_and_pipes(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(mux("matroska", "aac", 16_000, noise(3.0), noise(3.0, 1), damage=[1.5]))
    base = ["align", str(run_folder), str(path), "--text", TEXTS["a"], "--format", "json"]
    assert main([*base, "--audio-track", "1"]) == 1
    assert "--allow-damaged" in capsys.readouterr().err
    words = []
    for track in range(2):
        assert main([*base, "--audio-track", str(track), "--allow-damaged"]) == 0
        words.append(json.loads(capsys.readouterr().out)["words"])
    assert words[0] != words[1]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()), daemon=True)
    writing.start()
    assert main([*base[:2], str(pipe), *base[3:], "--audio-track", "1", "--allow-damaged"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == words[1]
    writing.join(WATCHDOG_S)
