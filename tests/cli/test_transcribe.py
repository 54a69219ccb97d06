"""Contract: `zipasr transcribe` on a tiny random model; a bad file is reported and skipped."""

import io
import json
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import zipasr
from tests.audio.muxing import mux
from tests.tiny_model import noise, save_tiny
from tests.watchdog import WATCHDOG_S
from zipasr.cli import main
from zipasr.recognizer import Hotword
from zipasr.transcript import FILE_ENDINGS, FORMATS


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_tiny(folder / "model")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good: a.wav, b.ogg, short.wav (10 ms). Bad: text.wav, cut.flac, nan.wav, empty.wav."""
    folder = tmp_path_factory.mktemp("recordings")
    soundfile.write(folder / "a.wav", noise(1.0), 16_000)
    soundfile.write(folder / "b.ogg", noise(1.5, 1), 16_000)
    soundfile.write(folder / "short.wav", noise(0.01), 16_000)
    (folder / "text.wav").write_text("this is not audio")
    soundfile.write(folder / "cut.flac", noise(2.0), 16_000)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:20_000])
    soundfile.write(folder / "nan.wav", noise(0.5) * float("nan"), 16_000, subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    return folder


def test_one_file_is_its_text(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["transcribe", str(run_folder), str(recordings / "a.wav")]) == 0
    text = zipasr.load(run_folder).transcribe(recordings / "a.wav").text
    assert text
    assert capsys.readouterr().out == f"{text}\n"


def test_flags_and_files_in_any_order(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = str(recordings / "a.wav"), str(recordings / "b.ogg")
    printed = []
    for argv in (
        ["--search", "greedy", str(run_folder), first, second],
        [str(run_folder), "--search", "greedy", first, second],
        [str(run_folder), first, "--search", "greedy", second],
    ):
        assert main(["transcribe", *argv]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0].count("\n") == 2
    assert printed[0] == printed[1] == printed[2]
    assert main(["transcribe", str(run_folder), "--serach", "greedy", first]) == 2
    assert "unrecognized arguments: --serach" in capsys.readouterr().err


def test_several_files_are_named(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    paths = [str(recordings / name) for name in ("a.wav", "b.ogg", "short.wav")]
    assert main(["transcribe", str(run_folder), *paths]) == 0
    recognizer = zipasr.load(run_folder)
    assert capsys.readouterr().out.splitlines() == [f"{path}: {recognizer.transcribe(path).text}" for path in paths]


def test_bad_files_are_reported_and_skipped(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    bad = [str(recordings / name) for name in ("text.wav", "cut.flac", "nan.wav", "empty.wav", "missing.wav")]
    good = [str(recordings / "a.wav"), str(recordings / "b.ogg")]
    assert main(["transcribe", str(run_folder), good[0], *bad, good[1], "--search", "greedy"]) == 1
    captured = capsys.readouterr()
    assert [line.split(": ")[0] for line in captured.out.splitlines()] == good
    errors = captured.err.splitlines()
    assert len(errors) == len(bad)
    for path, error in zip(bad, errors, strict=True):
        assert error.startswith("zipasr: error: ")
        assert path in error


def test_json(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    paths = [str(recordings / name) for name in ("a.wav", "text.wav", "short.wav")]
    assert main(["transcribe", str(run_folder), *paths, "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["audio"] for row in rows] == paths
    assert rows[0]["text"] == zipasr.load(run_folder).transcribe(paths[0]).text
    assert {"text", "words", "tokens", "duration_s"} <= rows[0].keys()
    assert rows[1].keys() == {"audio", "error"}
    assert rows[2]["text"] == ""


def test_no_model(recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["transcribe", str(tmp_path), str(recordings / "a.wav")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"zipasr: error: {tmp_path} must be a model folder")


@pytest.mark.parametrize("format", ["json", "srt", "vtt", "tsv", "ctm", "textgrid"])
def test_formats(format: str, run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = str(recordings / "a.wav")
    assert main(["transcribe", str(run_folder), path, "--format", format]) == 0
    printed = capsys.readouterr().out
    transcript = zipasr.load(run_folder).transcribe(path)
    assert printed == FORMATS[format](transcript, "a" if format == "ctm" else path)
    paths = [path, str(recordings / "b.ogg")]
    assert main(["transcribe", str(run_folder), *paths, "--format", format, "--out", str(tmp_path / "out")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [file.name for file in written] == [f"{name}.{FILE_ENDINGS[format]}" for name in ("a", "b")]
    assert all(file.read_text().strip() for file in written)


def test_alternatives_in_json(run_folder: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["transcribe", str(run_folder), str(recordings / "a.wav"), "--json", "--num-best", "3"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert len(row["alternatives"]) == 2
    assert row["score"] is not None


def test_channels(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    call = tmp_path / "call.wav"
    soundfile.write(call, np.stack([noise(1.0, 1), noise(1.0, 2)], axis=1), 16_000)
    recognizer = zipasr.load(run_folder)
    assert main(["transcribe", str(run_folder), str(call), "--per-channel"]) == 0
    texts = [recognizer.transcribe(call, channel=channel).text for channel in (0, 1)]
    assert capsys.readouterr().out.splitlines() == [f"[channel {i}] {text}" for i, text in enumerate(texts)]
    assert main(["transcribe", str(run_folder), str(call), "--channel", "1", "--format", "ctm"]) == 0
    assert all(line.startswith("call 2 ") for line in capsys.readouterr().out.splitlines())
    assert main(["transcribe", str(run_folder), str(call), "--channel", "2"]) == 1
    assert "channel" in capsys.readouterr().err
    out = ["--per-channel", "--format", "srt", "--out", str(tmp_path / "out")]
    assert main(["transcribe", str(run_folder), str(call), *out]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["call-0.srt", "call-1.srt"]


def test_list_of_files(run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = tmp_path / "files.txt"
    files.write_text(f"{recordings / 'a.wav'}\n\n{recordings / 'short.wav'}\n")
    assert main(["transcribe", str(run_folder), "--list", str(files)]) == 0
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == files.read_text().split()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_list_of_odd_names_in_either_encoding(
    encoding: str, run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Lines end at line breaks alone: names may hold what Unicode calls a line separator."""
    odd = tmp_path / "a\u2028b\x85ü.wav"
    odd.write_bytes((recordings / "a.wav").read_bytes())
    files = tmp_path / "files.txt"
    files.write_bytes(f"{odd}\r\n\r\n{recordings / 'short.wav'}\r\n".encode(encoding))
    assert main(["transcribe", str(run_folder), "--list", str(files), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [row["audio"] for row in rows] == [str(odd), str(recordings / "short.wav")]
    files.write_bytes(b"\xff\xfea")
    assert main(["transcribe", str(run_folder), "--list", str(files)]) == 2
    assert f"--list must be text in UTF-8 or UTF-16, but {files} is not" in capsys.readouterr().err


def test_hotwords_from_a_file(run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, hotwords = str(recordings / "a.wav"), tmp_path / "hotwords.txt"
    hotwords.write_text("quick fox :3\njumps\n")
    assert main(["transcribe", str(run_folder), path, "--json", "--hotwords", str(hotwords)]) == 0
    expected = zipasr.load(run_folder, hotwords=[Hotword("quick fox", 3.0), "jumps"]).transcribe(path)
    assert json.loads(capsys.readouterr().out)["text"] == expected.text


def misuse_cases(folder: Path) -> dict[str, tuple[list[str], str]]:
    (folder / "bad.txt").write_text("JUMPS :loud\n")
    (folder / "unwritable.txt").write_text("JUMPS\nŁÓDŹ\n")
    (folder / "empty.txt").write_text("\n\n")
    arpa = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1 <s>\n-1 </s>\n-1 {}\n\n\\end\\\n"
    (folder / "other.txt").write_text(arpa.format("straße"))
    (folder / "tokens.txt").write_text(arpa.format("▁THE"))
    return {
        "a bad boost": (["a.wav", "--hotwords", "bad.txt"], "line 1 of"),
        "an unwritable phrase": (["a.wav", "--hotwords", "unwritable.txt"], "'ŁÓDŹ' must be writable"),
        "a boost without hotwords": (["a.wav", "--hotword-boost", "2"], "--hotword-boost has no effect without --hotwords"),
        "a scale without a model": (["a.wav", "--lm-scale", "0.2"], "--lm-scale has no effect without --lm"),
        "an ARPA file of other words": (["a.wav", "--lm", "other.txt"], "that it cannot, such as straße"),
        "an n-gram without its model": (["a.wav", "--lodr", "tokens.txt"], "subtracted from a language model"),
        "a model that the search cannot use": (["a.wav", "--lm", "tokens.txt", "--search", "greedy"], "cannot use"),
        "hotwords that the search cannot use": (
            ["a.wav", "--hotwords", "unwritable.txt", "--search", "ctc_greedy"],
            "hotword",
        ),
        "no files": ([], "recordings to transcribe must be named"),
        "an empty list": (["--list", "empty.txt"], "recordings to transcribe must be named"),
        "a missing list": (["--list", "missing.txt"], "--list must be a file"),
        "alternatives without JSON": (["a.wav", "--num-best", "2"], "--num-best has no effect"),
        "more alternatives than the beam": (["a.wav", "--json", "--num-best", "9"], "num_best must be from 1"),
        "tokens a frame of a CTC search": (
            ["a.wav", "--max-symbols-per-frame", "2", "--search", "ctc_greedy"],
            "max_symbols_per_frame has no effect on the search ctc_greedy",
        ),
        "subtitles of two files in one": (["a.wav", "b.ogg", "--format", "srt"], "--out"),
        "two formats": (["a.wav", "--json", "--format", "srt"], "--json means --format json"),
        "one name twice": (["a.wav", "a.wav", "--out", "out"], "different names"),
    }


@pytest.mark.parametrize("case", misuse_cases(Path(tempfile.mkdtemp())))
def test_misuse_is_explained_before_any_work(
    case: str, run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments, message = misuse_cases(tmp_path)[case]
    places = {".wav": recordings, ".ogg": recordings, ".txt": tmp_path}
    arguments = [str(places[Path(a).suffix] / a) if Path(a).suffix in places else a for a in arguments]
    assert main(["transcribe", str(run_folder), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


# Pipes, damage, tracks


def test_the_standard_input_and_pipes(
    run_folder: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = zipasr.load(run_folder).transcribe(recordings / "a.wav").text
    with (recordings / "a.wav").open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read())))
    assert main(["transcribe", str(run_folder), "-", "--search", "beam"]) == 0
    assert capsys.readouterr().out == f"{text}\n"
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([noise(1.0), noise(1.0, 1)], axis=1), 16_000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    printed = []
    for path in (stereo, pipe):
        writing = threading.Thread(target=lambda: pipe.write_bytes(stereo.read_bytes()), daemon=True)
        if path == pipe:
            writing.start()
        assert main(["transcribe", str(run_folder), str(path), "--per-channel", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        printed.append([(row["channel"], row["text"]) for row in rows])
    writing.join(WATCHDOG_S)
    assert printed[0] == printed[1]
    assert [channel for channel, _ in printed[0]] == [0, 1]
    assert main(["transcribe", str(run_folder), "-", "--list", "-"]) == 2
    assert "the standard input must be a recording or the --list" in capsys.readouterr().err
    assert main(["transcribe", str(run_folder), "-", "-", "--merge-channels"]) == 2
    assert "- is named twice" in capsys.readouterr().err


def test_a_closed_standard_input_is_told(
    run_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["transcribe", str(run_folder), "-"]) == 1
    assert "the standard input must be a recording, but is closed; name a file" in capsys.readouterr().err
    assert main(["transcribe", str(run_folder), "--list", "-"]) == 2
    assert (
        "--list must be a file with one path per line, but - cannot be read: the standard input is closed"
        in capsys.readouterr().err
    )


def test_damaged_recordings_are_accepted_on_request(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(mux("matroska", "aac", 16_000, noise(3.0), damage=[1.5]))
    assert main(["transcribe", str(run_folder), str(path)]) == 1
    error = capsys.readouterr().err
    assert f"{path} must be a whole recording, but has damaged data at 1.4" in error
    assert "--allow-damaged" in error
    assert main(["transcribe", str(run_folder), str(path), "--allow-damaged", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["duration_s"] == pytest.approx(3.0, abs=0.1)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("zipasr.audio")]
    assert message.startswith(f"{path} is damaged; silence replaces what cannot be decoded: 1.4")
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, noise(2.0), 16_000)
    cut.write_bytes(cut.read_bytes()[:32_000])
    assert main(["transcribe", str(run_folder), str(cut), "--per-channel"]) == 1
    assert main(["transcribe", str(run_folder), str(cut), "--per-channel", "--allow-damaged"]) == 0


def test_audio_tracks(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "a.mkv"
    tracks = [np.rint(noise(1.0, seed) * 32767) / 32767 for seed in range(2)]
    path.write_bytes(mux("matroska", "pcm_s16le", 16_000, *tracks))
    texts = [zipasr.load(run_folder).transcribe(track).text for track in tracks]
    assert texts[0] != texts[1]
    for arguments, text in (([], texts[0]), (["--audio-track", "0"], texts[0]), (["--audio-track", "1"], texts[1])):
        assert main(["transcribe", str(run_folder), str(path), *arguments]) == 0
        assert capsys.readouterr().out == f"{text}\n"
    assert main(["transcribe", str(run_folder), str(path), "--audio-track", "2"]) == 1
    assert "must have an audio track 2" in capsys.readouterr().err
    for value in ("-1", "x", "1.5"):
        assert main(["transcribe", str(run_folder), str(path), "--audio-track", value]) == 2
        assert "it must be a whole number from 0 up" in capsys.readouterr().err
