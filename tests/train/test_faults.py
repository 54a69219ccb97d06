"""Faults during training. Run: each is reported and loses nothing: a full disk, a truncated checkpoint, losses that are not
finite, unusable utterances, recordings and manifests."""

import dataclasses
import errno
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.runs import assert_same, content, run
from tests.train.tones import cut_of, minute_config, write_cuts, write_tones
from zipasr import checkpoint
from zipasr.checkpoint import CheckpointFolder
from zipasr.errors import CheckpointError, DataError
from zipasr.model import AsrModel
from zipasr.train.metrics import read_metrics
from zipasr.train.state import AVERAGE_FILE, checkpoint_folders, checkpoint_path
from zipasr.train.step import Stepper


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("small"), num_train=24, num_dev=3)


def test_full_disk_loses_nothing(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = minute_config(small_data, num_epochs=3, save_interval=2)
    write = checkpoint._write_file

    def fill(path: Path, written: bytes) -> str:
        if path.parent.name.startswith(".batch-00000006") and path.name == AVERAGE_FILE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, written)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_file", fill)
        with pytest.raises(CheckpointError, match="the disk is full"):
            run(config, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["batch-00000002", "batch-00000004"]
    run(config, tmp_path / "run")
    run(config, tmp_path / "whole")
    last = checkpoint_path(Path(), 9)
    assert_same(content(tmp_path / "run" / last), content(tmp_path / "whole" / last))


def test_torn_last_checkpoint_is_written_again(small_data: Path, tmp_path: Path) -> None:
    config = minute_config(small_data, num_epochs=2, save_interval=5)
    run(config, tmp_path)
    last = checkpoint_path(tmp_path, 6)
    before = content(last)
    (last / "model.safetensors").write_bytes((last / "model.safetensors").read_bytes()[:1000])
    run(config, tmp_path)
    assert_same(content(last), before)


def nan_losses(monkeypatch: pytest.MonkeyPatch, batches: range) -> None:
    losses = Stepper.losses

    def spoil(self: Any, batch: Any, b: int) -> Any:
        parts, total = losses(self, batch, b)
        return parts, total * float("nan") if b in batches else total

    monkeypatch.setattr(Stepper, "losses", spoil)


def test_loss_that_is_not_finite_is_skipped_and_reported(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    nan_losses(monkeypatch, range(2, 11))  # nine in a row
    run(minute_config(small_data, num_epochs=5, log_interval=1, save_interval=1), tmp_path)
    assert capsys.readouterr().err.count("skipped a batch whose loss is nan: train0") == 9
    folders = checkpoint_folders(tmp_path)
    before, after = (CheckpointFolder(folders[n]).tensors("model.safetensors") for n in (1, 10))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    lines = {line["step"]: line for line in read_metrics(tmp_path) if line["kind"] == "train"}
    assert "loss" not in lines[5]
    assert "loss" in lines[11]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def with_cuts(source: Path, out: Path, *more: Any, split: str = "train") -> Path:
    """A data folder with more cuts in a split, or none at all if none are given."""
    from lhotse import CutSet

    shutil.copytree(source, out)
    path = out / f"{split}_cuts.jsonl.gz"
    write_cuts(path, [*CutSet.from_file(source / path.name), *more] if more else [])
    return out


def test_more_tokens_than_frames_are_left_out(small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    talkative = cut_of(small_data / "train000.flac", " ".join(["DOWN"] * 30))
    data = with_cuts(small_data, tmp_path / "data", talkative)
    with caplog.at_level(logging.WARNING):
        run(minute_config(data, num_epochs=1), tmp_path / "run")
    assert "skipped 1 of 25 training utterances: more tokens than encoder frames" in caplog.text


def test_cuts_without_a_text_are_left_out(small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = with_cuts(small_data, tmp_path / "data", cut_of(small_data / "train000.flac", "  "))
    with caplog.at_level(logging.WARNING):
        run(minute_config(data, num_epochs=1), tmp_path / "run")
    assert "skipped 1 of 25 cuts" in caplog.text


def test_vocabulary_is_reduced_with_a_warning(small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = minute_config(small_data, num_epochs=1)
    config = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, kind="unigram", vocab_size=5000))
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path)
    assert "vocab_size is 5000, but the text allows only" in caplog.text
    model, tokenizer = AsrModel.load(tmp_path / "model")
    assert model.config.vocab_size == tokenizer.vocab_size < 100
    run(dataclasses.replace(config, num_epochs=2), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_duration_s": 5.0}, "would be: 24 too short"),
        ({"max_duration_s": 0.2}, "would be: 24 too long"),
        ({"data": "no/such/folder"}, "zipasr prepare SOURCE --out no/such/folder"),
    ],
)
def test_nothing_to_train_on(small_data: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(minute_config(**{"data": small_data, **changes}), tmp_path)


def test_nothing_to_validate_on(small_data: Path, tmp_path: Path) -> None:
    data = with_cuts(small_data, tmp_path / "data", split="dev")
    with pytest.raises(DataError, match="utterances to validate on"):
        run(minute_config(data), tmp_path / "run")


def test_audio_at_another_rate(small_data: Path, tmp_path: Path) -> None:
    data = with_cuts(small_data, tmp_path / "data", cut_of(small_data / "train000.flac", "LO").resample(8000))
    with pytest.raises(DataError, match=r"16000 Hz, but train000 .* at 8000 Hz"):
        run(minute_config(data), tmp_path / "run")


def with_missing_audio(source: Path, folder: Path, split: str) -> Path:
    """A data folder with one more cut, whose recording no longer exists."""
    path = shutil.copy(source / "train000.flac", folder / "gone.flac")
    data = with_cuts(source, folder / "data", cut_of(Path(path), "LO"), split=split)
    (folder / "gone.flac").unlink()
    return data


def test_dev_audio_that_is_missing(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the audio of gone"):
        run(minute_config(with_missing_audio(small_data, tmp_path, "dev")), tmp_path / "run")


def test_training_audio_that_is_missing_is_skipped(
    small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process reports it once; an interrupted run continues like the whole run."""
    data = with_missing_audio(small_data, tmp_path, "train")
    run(minute_config(data, num_epochs=2), tmp_path / "whole")
    assert caplog.text.count("skipped 1 of 25 utterances: the audio of gone (") == 1
    for num_epochs in (1, 2):
        report = run(minute_config(data, num_epochs=num_epochs), tmp_path / "parts")
    last = checkpoint_path(Path(), report.num_steps)
    assert_same(content(tmp_path / "parts" / last), content(tmp_path / "whole" / last))


def test_not_a_manifest(small_data: Path, tmp_path: Path) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    (tmp_path / "data" / "train_cuts.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="manifest of cuts, but cannot be read"):
        run(minute_config(tmp_path / "data"), tmp_path / "run")
