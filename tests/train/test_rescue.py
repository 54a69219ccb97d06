"""Divergence. Run: a run that diverges goes back to a checkpoint and continues with a lower rate, the same after a kill; or
it stops and reports where the divergence started. Contract: which checkpoint it goes back to."""

import dataclasses
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.train.ranks import new_stepper, random_batch
from tests.train.states import TOKENIZER, new_state
from tests.train.states import train as train_state
from tests.train.tones import minute_config, validation_of, write_tones
from zipasr.checkpoint import CheckpointFolder
from zipasr.cli import main
from zipasr.train import rescue, validator
from zipasr.train.config import TrainConfig
from zipasr.train.loop import train
from zipasr.train.metrics import read_metrics
from zipasr.train.rescue import diagnosis, good_checkpoints, roll_back
from zipasr.train.state import (
    AVERAGE_FILE,
    TENSORS_FILE,
    TRAINING_FILE,
    DivergenceState,
    TrainState,
    best_folders,
    checkpoint_folders,
    checkpoint_path,
    load_newest,
)
from zipasr.train.step import Stepper
from zipasr.train.validation import Validation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=24, num_dev=2)


def config(data: Path, **changes: Any) -> TrainConfig:
    changes = {"num_epochs": 5, "save_interval": 3, "max_skipped_batches": 2, "log_interval": 1, **changes}
    return minute_config(data, **changes)


def diverge(monkeypatch: pytest.MonkeyPatch, first: int, *, above_lr: float = 0.0, stop: int = 0) -> None:
    """Make losses NaN from a step on while the rate without its schedule is above a value; press Ctrl-C before a step."""
    losses = Stepper.losses

    def spoil(self: Stepper, batch: Any, b: int) -> Any:
        if b == stop:
            signal.raise_signal(signal.SIGINT)
        parts, total = losses(self, batch, b)
        is_damaged = b >= first and self.state.optimizer.param_groups[0]["initial_lr"] > above_lr
        return parts, total * float("nan") if is_damaged else total

    monkeypatch.setattr(Stepper, "losses", spoil)


def content(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    files = CheckpointFolder(folder)
    document = files.document(TRAINING_FILE)
    del document["position"]["train_s"]
    names = (TENSORS_FILE, AVERAGE_FILE, "model.safetensors")
    return document, {f"{name}/{key}": t for name in names for key, t in files.tensors(name).items()}


def test_goes_back_with_a_lower_rate_and_gets_through(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Steps 8 and 9 diverge at the full rate and at half of it, but not at a quarter, so the run goes back twice.

    The same run, stopped in the middle of each part, ends with the same bits.
    """
    with monkeypatch.context() as patch:
        diverge(patch, 8, above_lr=0.02)
        train(config(data), tmp_path / "whole", is_quiet=True)
    said = capsys.readouterr().err
    assert "the last 2 steps up to 9 were not finite: going back to step 6 with the learning rate times 0.5" in said
    assert "up to 9 were not finite: going back to step 3 with the learning rate times 0.25 (time 2 of at most 3)" in said
    folders = checkpoint_folders(tmp_path / "whole")
    assert list(folders) == [3, 6, 9, 12, 15]
    document, _ = content(folders[15])
    assert document["divergence"] == {"num_skipped": 0, "num_rollbacks": 2, "returned_to": [3]}
    lines = {line["step"]: line for line in read_metrics(tmp_path / "whole") if line["kind"] == "train"}
    assert all("loss" in lines[b] for b in range(1, 16))
    plain = metrics_of_a_run_without_divergence(data, tmp_path / "plain")
    assert lines[2]["lr"] == plain[2]["lr"]
    assert lines[4]["lr"] == pytest.approx(plain[4]["lr"] / 4)

    for stop in (5, 8, 9, 11):
        with monkeypatch.context() as patch:
            diverge(patch, 8, above_lr=0.02, stop=stop)
            with pytest.raises(KeyboardInterrupt):
                train(config(data), tmp_path / "parts", is_quiet=True)
    with monkeypatch.context() as patch:
        diverge(patch, 8, above_lr=0.02)
        train(config(data), tmp_path / "parts", is_quiet=True)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_best_models_and_metrics_of_the_abandoned_branch_go(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 9 and 10 diverge and the run goes back to 6: validations 8 and 10 no longer count, though they were the best."""
    rates = iter([90.0, 80.0, 70.0, 10.0, 5.0, 60.0, 95.0, 50.0])
    seen: list[tuple[list[int], list[int]]] = []

    def rate(*args: Any) -> Validation:
        noted = [line["step"] for line in read_metrics(tmp_path) if line["kind"] == "dev"] if seen else []
        seen.append((list(best_folders(tmp_path)), noted))
        return validation_of(wer=next(rates))

    monkeypatch.setattr(validator, "validate", rate)
    diverge(monkeypatch, 9, above_lr=0.03)
    changes = {"num_epochs": 4, "save_interval": 6, "valid_interval": 2, "keep_best": 4}
    train(config(data, **changes), tmp_path, is_quiet=True)
    assert seen[4] == ([2, 4, 6, 8], [2, 4, 6, 8])
    assert seen[5] == ([4, 6], [2, 4, 6])
    found = {line["step"]: line["wer"] for line in read_metrics(tmp_path) if line["kind"] == "dev"}
    assert found == {2: 90.0, 4: 80.0, 6: 70.0, 8: 60.0, 10: 95.0, 12: 50.0}
    assert list(best_folders(tmp_path)) == [4, 6, 8, 12]
    assert all("loss" in line for line in read_metrics(tmp_path) if line["kind"] == "train")


def assert_same_end(one: Path, other: Path) -> None:
    for number in (12, 15):
        a, b = (content(checkpoint_path(run, number)) for run in (one, other))
        assert a[0] == b[0]
        assert all(torch.equal(tensor, b[1][name]) for name, tensor in a[1].items())


def test_killed_while_going_back(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before the removal of any of its checkpoints leaves files that lead to the same end."""
    diverge(monkeypatch, 8, above_lr=0.02)
    train(config(data), tmp_path / "whole", is_quiet=True)

    def killed(path: Path) -> None:
        raise InterruptedError(f"killed before {path} was removed")

    with monkeypatch.context() as patch:
        patch.setattr(rescue, "shutil", SimpleNamespace(rmtree=killed))
        with pytest.raises(InterruptedError, match="batch-00000009"):
            train(config(data, save_interval=3, max_skipped_batches=2), tmp_path / "parts", is_quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(rescue, "shutil", SimpleNamespace(rmtree=killed))
        with pytest.raises(InterruptedError):
            train(config(data), tmp_path / "parts", is_quiet=True)
    train(config(data), tmp_path / "parts", is_quiet=True)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def metrics_of_a_run_without_divergence(data: Path, out: Path) -> dict[int, dict[str, Any]]:
    train(config(data, num_epochs=2), out, is_quiet=True)
    return {line["step"]: line for line in read_metrics(out) if line["kind"] == "train"}


def test_starts_again_where_no_checkpoint_is_good(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge(monkeypatch, 2, above_lr=0.03)
    train(config(data, num_epochs=1, save_interval=100), tmp_path, is_quiet=True)
    assert list(checkpoint_folders(tmp_path)) == [0, 3]
    lines = {line["step"]: line for line in read_metrics(tmp_path) if line["kind"] == "train"}
    assert all("loss" in lines[b] for b in (1, 2, 3))


def test_stops_with_a_diagnosis_in_the_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The user's command exits with code 1 and prints one screen, which names the last good checkpoint."""
    from tests.train import tones

    monkeypatch.setattr(tones, "minute_config", lambda *args, **changes: config(data, max_rollbacks=1))
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from tests.train import tones\nfrom zipasr.train.config import TrainConfig\n\n"
        "def run() -> TrainConfig:\n    return tones.minute_config()\n"
    )
    diverge(monkeypatch, 5)
    assert main(["train", f"{recipe}:run", "--out", str(tmp_path / "run"), "--no-progress"]) == 1
    error = capsys.readouterr().err
    text = error[error.index("diagnosis of step 6") :].splitlines()
    assert len(text) < 24
    assert "loss nan" in text[0]
    assert "utterances: train0" in text[1]
    assert "must be finite numbers, but were not in 2 steps in a row, and going back 1 times did not help" in text[-1]
    assert f"The last good checkpoint is {checkpoint_path(tmp_path / 'run', 3)}" in text[-1]
    assert "Traceback" not in error


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Checkpoints after 0 to 3 steps, the last one after a skipped step."""
    state = new_state()
    for number in range(4):
        state.divergence = DivergenceState(num_skipped=int(number == 3))
        state.save(checkpoint_path(tmp_path, number), TOKENIZER)
        train_state(state, 1)
    return tmp_path


def copy_of(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.parent / "copy", dirs_exist_ok=True))


def rates(state: TrainState) -> list[float]:
    return [group["initial_lr"] for group in state.optimizer.param_groups]


def test_goes_back_one_further_each_time(run_folder: Path) -> None:
    assert list(good_checkpoints(run_folder)) == [0, 1, 2]
    divergence = DivergenceState(num_skipped=10)
    every = minute_config(save_interval=1)
    assert roll_back(copy_of(run_folder), divergence, minute_config(save_interval=2), TOKENIZER, new_state) == 2
    assert roll_back(copy_of(run_folder), divergence, minute_config(save_interval=5), TOKENIZER, new_state) == 0
    for number, num_rollbacks, returned_to in ((2, 1, [2]), (1, 2, [1]), (0, 3, [0])):
        assert roll_back(run_folder, divergence, every, TOKENIZER, new_state) == number
        state = new_state(seed=9)
        before = rates(state)
        assert load_newest(state, run_folder)
        assert state.position.num_steps == number
        assert state.divergence == DivergenceState(0, num_rollbacks, returned_to)
        assert rates(state) == [rate * 0.5**num_rollbacks for rate in before]
        divergence = dataclasses.replace(state.divergence, num_skipped=10)
    assert list(checkpoint_folders(run_folder)) == [0]


def test_checkpoint_of_damaged_weights_is_not_good(run_folder: Path) -> None:
    state = new_state()
    load_newest(state, run_folder)
    state.divergence = DivergenceState()
    with torch.no_grad():
        next(state.model.parameters())[0] = float("inf")
    state.save(checkpoint_path(run_folder, 3), TOKENIZER)
    path = checkpoint_path(run_folder, 2) / AVERAGE_FILE
    shutil.copy(checkpoint_path(run_folder, 1) / TRAINING_FILE, checkpoint_path(run_folder, 2) / TRAINING_FILE)
    assert path.is_file()
    assert list(good_checkpoints(run_folder)) == [0, 1]  # 2 does not match its checksums


def test_diagnosis_names_module_parameters_and_utterance() -> None:
    stepper = new_stepper(minute_config())
    batch = random_batch(torch.Generator().manual_seed(0), 4)
    features = batch.features.clone()
    features[2, 40:] = float("inf")
    damaged = batch._replace(features=features)
    result = stepper.step([damaged], 7)
    assert result.is_diverging
    text = diagnosis(stepper, [damaged], 7)
    assert "first module whose output is not finite: encoder.frontend" in text
    assert "utterances whose loss is not finite alone: u2\n" in text
    assert "likely causes: features that are not finite" in text
    assert "lower lr (now 0.045)" in text
    assert all(p.grad is None for p in stepper.parameters)
    with torch.no_grad():
        dict(stepper.state.model.named_parameters())["ctc.output.weight"].fill_(float("nan"))
    text = diagnosis(stepper, [batch], 8)
    assert "first module whose output is not finite: ctc.output (Linear)" in text
    assert "parameters that are not finite: ctc.output.weight\n" in text
    assert "an earlier step that damaged the weights" in text
