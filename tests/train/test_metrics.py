"""The log of a run. Contract: lines that plots and tests can read, even after a run was killed or damaged its log."""

import logging
from pathlib import Path

import pytest
import torch

from zipasr.errors import CheckpointError, DataError
from zipasr.train import metrics
from zipasr.train.metrics import RunLog, SilentLog, peak_memory_gib, read_metrics, sparing_warnings


def open_log(folder: Path, done_steps: int = 0) -> RunLog:
    return RunLog(folder, total_steps=10, done_steps=done_steps, is_quiet=True)


def test_means_over_seconds_of_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    log = open_log(tmp_path)
    log.step({"loss": 10.0, "ctc": 4.0}, audio_s=2.0)
    log.step({"loss": 20.0, "ctc": 2.0}, audio_s=3.0)
    now[0] += 4.0
    log.pause(3.0)
    log.train_line(2, lr=0.5)
    log.step({"loss": 3.0}, audio_s=1.0)
    now[0] += 0.5
    log.train_line(3, lr=0.25)
    log.line("dev", 3, {"wer": 50.0})
    log.close()
    assert read_metrics(tmp_path) == [
        {"kind": "train", "step": 2, "loss": 6.0, "ctc": 1.2, "hours_per_hour": 5.0, "lr": 0.5},
        {"kind": "train", "step": 3, "loss": 3.0, "hours_per_hour": 2.0, "lr": 0.25},
        {"kind": "dev", "step": 3, "wer": 50.0},
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_line_of_skipped_batches_only(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.step({}, audio_s=0.0)
    log.train_line(1, lr=0.5)
    log.close()
    (line,) = read_metrics(tmp_path)
    assert "loss" not in line


def test_resumed_run_replaces_lines_and_mends_a_torn_one(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for step in (1, 2):
        log.line("dev", step, {"wer": 90.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "dev", "bat')  # killed here
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    log = open_log(tmp_path, done_steps=1)
    log.line("dev", 2, {"wer": 80.0})
    log.line("dev", 3, {"wer": 70.0})
    log.close()
    assert [(line["step"], line["wer"]) for line in read_metrics(tmp_path)] == [(1, 90.0), (2, 80.0), (3, 70.0)]


def test_metrics_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "dev", "batch": 1, "wer": 50.0}\n')
    with pytest.raises(
        DataError, match="must have a step, but one has none: another version of zipasr wrote it; use another --out"
    ):
        read_metrics(tmp_path)


def test_silent_log_of_other_ranks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It has every method of the log, and none of them does anything."""
    public = {name for name in vars(RunLog) if not name.startswith("_")}
    assert public <= vars(SilentLog).keys()
    log = SilentLog()
    log.step({"loss": 1.0}, audio_s=1.0)
    log.train_line(1, lr=0.5)
    log.line("dev", 1, {"wer": 1.0})
    log.pause(1.0)
    log.message("hello")
    log.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_memory_of_a_process() -> None:
    assert 0.05 < peak_memory_gib(torch.device("cpu")) < 64.0


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl, but has none"):
        read_metrics(tmp_path)


def test_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    log = open_log(tmp_path)
    log._file.close()
    log._file = open("/dev/full", "wb")
    with pytest.raises(CheckpointError, match="Free some space"):
        log.line("dev", 1, {"wer": 1.0})
    log.close()


def test_messages_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = open_log(tmp_path)
    log.message("hello")
    log.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")
    assert read_metrics(tmp_path) == []


def test_warnings_are_limited_and_count_suppressed_ones(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger, clock = logging.getLogger("zipasr.test_sparing"), [100.0]
    monkeypatch.setattr("zipasr.train.metrics.time.monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, logger.name), sparing_warnings(logger.name):
        for clock[0] in (100.0, 101.0, 159.9, 160.0, 161.0):
            logger.warning("clipped at %.1f", clock[0])
            logger.info("told")
    logger.warning("clipped again")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["clipped at 100.0", "clipped at 160.0 (and 2 like it before)", "clipped again"]
    assert sum(record.getMessage() == "told" for record in caplog.records) == 5
