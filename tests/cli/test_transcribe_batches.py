"""Contract: `zipasr transcribe` with many recordings: trees of outputs, resuming, processes, calls."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

import zipasr
from tests.tiny_model import noise, save_tiny
from zipasr.cli import main
from zipasr.recognizer import FileResult, merge_results
from zipasr.transcript import Transcript, Word, merge_channels, to_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    save_tiny(folder / "model")
    return str(folder)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Recordings of equal names in three folders, and a file that is none."""
    for seed, name in enumerate(("mon/a.wav", "tue/a.wav", "tue/deep/a.wav")):
        path = tmp_path / "calls" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(0.5, seed), 16_000)
    (tmp_path / "calls" / "notes.txt").write_text("not a recording")
    return tmp_path / "calls"


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def transcribe(model: str, *args: str | Path) -> int:
    return main(["transcribe", model, "--search", "greedy", *map(str, args)])


def test_outputs_of_a_folder_mirror_it(model: str, calls: Path, tmp_path: Path) -> None:
    assert transcribe(model, calls, "--out", tmp_path / "out") == 0
    assert files_in(tmp_path / "out") == ["mon/a.txt", "tue/a.txt", "tue/deep/a.txt"]
    recognizer = zipasr.load(model, search=zipasr.SearchConfig(method="greedy"))
    for name in files_in(tmp_path / "out"):
        recording = (calls / name).with_suffix(".wav")
        assert (tmp_path / "out" / name).read_text() == recognizer.transcribe(recording).text + "\n"


def test_files_with_equal_names_get_files_of_their_own(model: str, calls: Path, tmp_path: Path) -> None:
    named = [calls / "mon/a.wav", calls / "tue/a.wav"]
    assert transcribe(model, *named, "--out", tmp_path / "out") == 0
    assert files_in(tmp_path / "out") == ["mon/a.txt", "tue/a.txt"]
    assert transcribe(model, named[0], "--out", tmp_path / "one") == 0
    assert files_in(tmp_path / "one") == ["a.txt"]
    assert transcribe(model, named[0], "--out", tmp_path / "rooted", "--root", calls) == 0
    assert files_in(tmp_path / "rooted") == ["mon/a.txt"]


def test_what_would_share_a_file_is_refused(model: str, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    soundfile.write(calls / "mon/a.flac", noise(0.5), 16_000)
    assert transcribe(model, calls, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"{calls / 'mon/a.flac'} and {calls / 'mon/a.wav'} are both for" in error
    assert not (tmp_path / "out").exists()


def test_a_second_run_transcribes_what_is_missing(
    model: str, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert transcribe(model, calls, "--out", out, "--skip-existing") == 0
    (out / "tue/a.txt").unlink()
    (out / "mon/a.txt").write_text("corrected by hand")
    capsys.readouterr()
    assert transcribe(model, calls, "--out", out, "--skip-existing") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'tue/a.txt'}\n"
    assert captured.err == "zipasr: skipped 2 of 3 recordings, which have results\n"
    assert (out / "mon/a.txt").read_text() == "corrected by hand"
    assert transcribe(model, calls, "--out", out, "--skip-existing") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flags", "reference"), [((), "a.txt"), (("--format", "srt"), "a.srt"), (("--per-channel",), "a-0.txt")]
)
def test_references_beside_recordings_are_not_replaced(
    flags: tuple[str, ...], reference: str, model: str, calls: Path, capsys: pytest.CaptureFixture
) -> None:
    path = calls / "tue/deep" / reference
    path.write_text("by hand")
    before = files_in(calls)
    assert transcribe(model, calls, "--out", calls, *flags) == 2
    error = capsys.readouterr().err
    assert f"but {path} is there beside {calls / 'tue/deep/a.wav'}; choose another --out, skip recordings" in error
    assert transcribe(model, calls / "tue/deep/a.wav", "--out", calls / "tue/../tue/deep", *flags) == 2
    assert files_in(calls) == before
    assert transcribe(model, calls, "--out", calls, "--skip-existing", *flags) == 0
    assert path.read_text() == "by hand"
    assert len(files_in(calls)) == len(before) + 2


def test_references_of_channels_are_not_replaced(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    soundfile.write(tmp_path / "call.wav", np.stack([noise(0.5, 1), noise(0.5, 2)], axis=1), 16_000)
    (tmp_path / "call-1.txt").write_text("by hand")
    command = (tmp_path / "call.wav", "--per-channel", "--out", tmp_path)
    assert transcribe(model, *command) == 2
    assert f"but {tmp_path / 'call-1.txt'} is there beside {tmp_path / 'call.wav'}; choose" in capsys.readouterr().err
    assert not (tmp_path / "call-0.txt").exists()
    assert transcribe(model, *command, "--skip-existing") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'call-0.txt'}\n"
    assert (tmp_path / "call-1.txt").read_text() == "by hand"
    (tmp_path / "call-0.txt").unlink()
    (tmp_path / "call-1.txt").rename(tmp_path / "call-2.txt")  # the call has no such channel
    assert transcribe(model, *command) == 0
    assert files_in(tmp_path) == ["call-0.txt", "call-1.txt", "call-2.txt", "call.wav"]


def test_references_beside_a_pipe_of_channels_are_not_replaced(model: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "call.wav")
    (tmp_path / "call-11.txt").write_text("by hand")
    assert transcribe(model, tmp_path / "call.wav", "--per-channel", "--out", tmp_path) == 2
    assert (tmp_path / "call-11.txt").read_text() == "by hand"


def test_ctm_tells_recordings_of_one_name_apart(model: str, calls: Path, capsys: pytest.CaptureFixture) -> None:
    paths = [calls / "mon/a.wav", calls / "tue/a.wav"]
    assert transcribe(model, *paths, "--format", "ctm") == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(map(str, paths))
    assert transcribe(model, paths[0], "--format", "ctm") == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"a"}


def test_progress_counts_all_that_is_done(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(5)]
    for i, (path, duration_s) in enumerate(zip(paths, (1.0, 31.0, 0.5, 32.0, 1.5), strict=True)):
        soundfile.write(path, noise(duration_s, i), 16_000)
    paths[2].write_text("not audio")
    seen = [0.0]
    monkeypatch.setattr(
        "zipasr.progress.Progress.set_done", lambda self, number: (seen.append(number), self.update(number - self.done))
    )
    assert transcribe(model, *paths, "--no-vad") == 1
    capsys.readouterr()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(65.5) and {1.0, 32.0, 64.0} <= {round(number, 3) for number in seen}


def test_a_call_is_done_when_all_its_channels_are(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    soundfile.write(tmp_path / "call.wav", np.stack([noise(0.5, 1), noise(0.5, 2)], axis=1), 16_000)
    command = (tmp_path / "call.wav", "--per-channel", "--out", tmp_path / "out", "--skip-existing")
    assert transcribe(model, *command) == 0
    (tmp_path / "out/call-1.txt").unlink()
    assert transcribe(model, *command) == 0
    assert files_in(tmp_path / "out") == ["call-0.txt", "call-1.txt"]
    capsys.readouterr()
    assert transcribe(model, *command) == 0
    assert capsys.readouterr().out == ""


def test_an_interrupted_write_leaves_no_half_file(
    model: str, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while the first result is written: neither it nor a temporary file stays, so it is not skipped later."""

    def write_half(path: Path, content: str, **_: object) -> int:
        with open(path, "w") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_half)
        assert transcribe(model, calls, "--out", tmp_path / "out") == 1
    assert files_in(tmp_path / "out") == []
    assert transcribe(model, calls, "--out", tmp_path / "out", "--skip-existing") == 0
    assert len(files_in(tmp_path / "out")) == 3


def test_processes_give_the_same_in_the_same_order(
    model: str, calls: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (calls / "tue/broken.wav").write_bytes(b"RIFF")
    assert transcribe(model, calls, "--json") == 1
    alone = capfd.readouterr()
    assert transcribe(model, calls, "--json", "--jobs", "2", "--threads", "2") == 1
    together = capfd.readouterr()
    rows, expected = ([json.loads(line) for line in text.splitlines()] for text in (together.out, alone.out))
    assert [(row["audio"], row.get("text"), row.get("error")) for row in rows] == [
        (row["audio"], row.get("text"), row.get("error")) for row in expected
    ]
    assert together.err == alone.err
    assert "broken.wav" in together.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "3", "--threads", "2"], "--jobs must be from 1 to the number of threads, 2, but is 3"),
        (["--jobs", "0"], "--jobs must be from 1 to"),
        (["--skip-existing"], "--skip-existing has no effect without --out"),
        (["--root", "/"], "--root has no effect without --out"),
        (["--max-lines", "1"], "--max-lines has no effect with --format text"),
        (["--format", "srt", "--out", "x", "--max-lines", "0"], "`max_lines` must be 1 or more, but is 0"),
        (["--merge-channels", "--json", "--num-best", "2"], "--num-best has no effect with --merge-channels"),
        (["/dev/fd/63", "--jobs", "2", "--threads", "2"], "--jobs must be 1 for pipes of the shell"),
    ],
)
def test_misuse(model: str, calls: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert transcribe(model, calls / "mon/a.wav", *flags) == 2
    assert message in capsys.readouterr().err


def test_roots_that_hold_not_all_and_empty_folders_are_refused(
    model: str, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert transcribe(model, calls, "--out", tmp_path / "out", "--root", calls / "tue") == 2
    assert "--root must be a folder that every recording is in" in capsys.readouterr().err
    os.mkdir(tmp_path / "empty")
    assert transcribe(model, tmp_path / "empty") == 2
    assert "a folder must hold recordings" in capsys.readouterr().err


def test_a_call_is_one_transcript(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    call = tmp_path / "call.wav"
    soundfile.write(call, np.stack([noise(1.0, 1), noise(1.0, 2)], axis=1), 16_000)
    recognizer = zipasr.load(model, search=zipasr.SearchConfig(method="greedy"))
    expected = merge_channels(recognizer.transcribe_channels(call))
    assert transcribe(model, call, "--merge-channels") == 0
    assert capsys.readouterr().out == to_text(expected, "")
    assert transcribe(model, call, "--merge-channels", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert {word["channel"] for word in row["words"]} == {word.channel for word in expected.words}
    assert transcribe(model, call, call, "--merge-channels") == 0
    named = "".join(f"{call}: {line}\n" for line in to_text(expected, "").splitlines())
    assert capsys.readouterr().out == named * 2
    out = ("--format", "srt", "--out", tmp_path / "out", "--max-line-chars", "30")
    assert transcribe(model, call, "--merge-channels", *out) == 0
    assert files_in(tmp_path / "out") == ["call.srt"]


def test_a_file_with_an_unreadable_channel_is_one_error() -> None:
    def result(path: str, channel: int | None) -> FileResult:
        if channel is None:
            return FileResult(path, None, zipasr.AudioError("cut short"))
        return FileResult(path, Transcript(path, words=(Word(path, 0.0, 1.0, 0.5),), channel=channel))

    results = [result("a", 0), result("a", 1), result("b", 0), result("b", None), result("c", None), result("d", 0)]
    merged = list(merge_results(results))
    assert [(one.path, one.transcript is not None) for one in merged] == [
        ("a", True),
        ("b", False),
        ("c", False),
        ("d", True),
    ]
    assert merged[0].transcript is not None
    assert merged[0].transcript.text == "a a"
