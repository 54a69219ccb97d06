"""Averages of checkpoints. Reference: manual means over checkpoints and over any part of a run. Contract: the written model
loads; what cannot be averaged is refused and nothing is written."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train.tones import minute_config
from zipasr.config import to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.model import AsrModel
from zipasr.optim import Eden, ScaledAdam
from zipasr.tokenizer import Tokenizer
from zipasr.train.averaging import RunningAverage
from zipasr.train.checkpoint_average import (
    average_checkpoints,
    average_interval,
    newest_checkpoints,
    run_checkpoints,
    start_of_epochs,
)
from zipasr.train.state import Position, TrainState, checkpoint_path

PERIOD = 2
BATCHES_PER_EPOCH = 4
SAVED = (1, 3, 6, 8, 11, 12)
TOKENIZER = Tokenizer.train(["LO MID HI"], kind="char", vocab_size=None)


def random_walk(out: Path) -> dict[int, dict[str, Tensor]]:
    """Make a run folder whose model is random after each batch, and return the models."""
    torch.manual_seed(0)
    config = minute_config(average_period=PERIOD, save_interval=1)
    model = AsrModel(dataclasses.replace(config.model, vocab_size=TOKENIZER.vocab_size))
    optimizer = ScaledAdam(list(model.named_parameters()), lr=0.01)
    average = RunningAverage(model, PERIOD)
    models = {}
    out.mkdir()
    (out / "config.json").write_text(json.dumps(to_json(config)))
    for b in range(1, max(SAVED) + 1):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape))
        average.update(model, b)
        models[b] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if b in SAVED:
            position = Position(epoch=b // BATCHES_PER_EPOCH, index=b % BATCHES_PER_EPOCH, num_steps=b)
            state = TrainState(model, optimizer, Eden(optimizer, lr_batches=1, lr_epochs=1), average, position)
            state.save(checkpoint_path(out, b), TOKENIZER)
    return models


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, Tensor]]]:
    out = tmp_path_factory.mktemp("walk") / "run"
    return out, random_walk(out)


def check(folder: Path, models: Sequence[dict[str, Tensor]]) -> None:
    model, tokenizer = AsrModel.load(folder)
    assert tokenizer.pieces == TOKENIZER.pieces
    for name, tensor in model.state_dict().items():
        expected = torch.stack([m[name].double() for m in models]).mean(0)
        torch.testing.assert_close(tensor, expected.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_last_checkpoints(walk: tuple[Path, dict[int, dict[str, Tensor]]], tmp_path: Path, number: int) -> None:
    run, models = walk
    averaged = average_checkpoints(newest_checkpoints(run, number), tmp_path / "model")
    check(averaged.folder, [models[b] for b in SAVED[-number:]])
    assert [path.name for path in averaged.sources] == [f"batch-{b:08d}" for b in SAVED[-number:]]


@pytest.mark.parametrize(("start", "end"), [(0, 12), (1, 12), (3, 8), (6, 11), (8, None)])
def test_interval_is_the_mean_of_every_model_in_it(
    walk: tuple[Path, dict[int, dict[str, Tensor]]], tmp_path: Path, start: int, end: int | None
) -> None:
    run, models = walk
    averaged = average_interval(run, tmp_path / "model", start=start, end=end)
    inside = [b for b in models if b % PERIOD == 0 and start // PERIOD * PERIOD < b <= (end or 12)]
    check(averaged.folder, [models[b] for b in inside])
    assert averaged.description.startswith(f"the mean of {len(inside)} models")


def test_mean_of_means_weighs_models_alike(walk: tuple[Path, dict[int, dict[str, Tensor]]], tmp_path: Path) -> None:
    run, models = walk
    average_checkpoints([run / "checkpoints" / "batch-00000003"], tmp_path / "a")
    average_checkpoints([tmp_path / "a", run / "checkpoints" / "batch-00000008"], tmp_path / "b")
    check(tmp_path / "b", [models[3], models[8]])


@pytest.mark.parametrize(("num_epochs", "start"), [(1, 8), (2, 3), (3, 0)])
def test_start_of_epochs_is_the_nearest_checkpoint(
    walk: tuple[Path, dict[int, dict[str, Tensor]]], num_epochs: int, start: int
) -> None:
    assert start_of_epochs(walk[0], num_epochs) == start


def with_settings(run: Path, out: Path, *, without: Sequence[int] = (), **settings: int) -> Path:
    """A copy of a run with other settings and without some checkpoints."""
    shutil.copytree(run, out)
    config = json.loads((out / "config.json").read_text())
    assert settings.keys() <= config.keys()
    (out / "config.json").write_text(json.dumps({**config, **settings}))
    for number in without:
        shutil.rmtree(checkpoint_path(out, number))
    return out


def test_checkpoint_of_an_interruption_does_not_count(
    walk: tuple[Path, dict[int, dict[str, Tensor]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts only if it is the end of the run; this run has finished two of three epochs."""
    stopped = with_settings(walk[0], tmp_path / "stopped", without=[1, 8, 12], save_interval=3, num_epochs=3)
    assert [path.name for path in newest_checkpoints(stopped, 2)] == ["batch-00000003", "batch-00000006"]
    assert "left out batch-00000011: an interruption wrote it, and not after 3 batches more" in caplog.text
    with pytest.raises(CheckpointError, match=r"must hold 3 .*save_interval \(3\), but holds 2 beside batch-00000011"):
        newest_checkpoints(stopped, 3)
    caplog.clear()
    finished = with_settings(stopped, tmp_path / "finished", num_epochs=2)
    assert [path.name for path in newest_checkpoints(finished, 2)] == ["batch-00000006", "batch-00000011"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("num_epochs", "without", "settings", "start", "said"),
    [
        (2, [], {"save_interval": 3}, 3, None),
        (1, [8], {"save_interval": 3}, 6, None),
        (
            1,
            [3, 6, 8],
            {"save_interval": 1, "keep_checkpoints": 2},
            11,
            r"the checkpoint of batch 11, 0\.2 .* keep_checkpoints=5",
        ),
        (2, [3, 6, 8, 11], {"save_interval": 3, "keep_checkpoints": 2}, 1, None),
        (
            1,
            [3, 6, 8, 11],
            {"save_interval": 12},
            1,
            r"about batch 8, .* of batch 1, 2\.8 epochs .* a smaller save_interval",
        ),
    ],
)
def test_epochs_that_no_checkpoint_is_near_to(
    walk: tuple[Path, dict[int, dict[str, Tensor]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    num_epochs: int,
    without: list[int],
    settings: dict[str, int],
    start: int,
    said: str | None,
) -> None:
    run = with_settings(walk[0], tmp_path / "run", without=without, **settings)
    assert start_of_epochs(run, num_epochs) == start
    messages = [record.getMessage() for record in caplog.records]
    if said is None:
        assert not messages
    else:
        assert len(messages) == 1 and re.search(said, messages[0])


def test_a_model_is_replaced_and_nothing_else(walk: tuple[Path, dict[int, dict[str, Tensor]]], tmp_path: Path) -> None:
    run, models = walk
    average_checkpoints(newest_checkpoints(run, 2), tmp_path / "model")
    average_checkpoints(newest_checkpoints(run, 1), tmp_path / "model")
    check(tmp_path / "model", [models[12]])
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("work of years")
    for place in (full, run, run / "checkpoints" / "batch-00000003"):
        with pytest.raises(ConfigError, match="holds something else"):
            average_checkpoints(newest_checkpoints(run, 1), place)
    with pytest.raises(ConfigError, match="another folder than the checkpoints'"):
        average_checkpoints([tmp_path / "model"], tmp_path / "model")
    assert (full / "thesis.txt").is_file()
    assert len(run_checkpoints(run)) == len(SAVED)


def saved_model(folder: Path, tokenizer: Tokenizer, **changes: object) -> Path:
    config = dataclasses.replace(minute_config().model, vocab_size=tokenizer.vocab_size, **changes)
    return AsrModel(config).save(folder, tokenizer)


def test_checkpoints_of_another_configuration_or_vocabulary(tmp_path: Path) -> None:
    ours = saved_model(tmp_path / "ours", TOKENIZER)
    smaller = saved_model(tmp_path / "smaller", TOKENIZER, ctc=None)
    with pytest.raises(CheckpointError, match=r"smaller must have the configuration of .*ours, but differs in ctc"):
        average_checkpoints([smaller, ours], tmp_path / "out")
    letters = Tokenizer.train(["LO MIB HI"], kind="char", vocab_size=None)
    assert letters.vocab_size == TOKENIZER.vocab_size
    other = saved_model(tmp_path / "other", letters)
    with pytest.raises(CheckpointError, match=r"other must have the vocabulary of .*ours, but has another one"):
        average_checkpoints([other, ours], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("average", "error", "message"),
    [
        (
            lambda run, out: average_interval(run, out, start=3, end=7),
            CheckpointError,
            "batch 7, but holds those of 1, 3, 6",
        ),
        (lambda run, out: average_interval(run, out, start=2), CheckpointError, "the checkpoint of batch 2"),
        (lambda run, out: average_interval(run, out, start=0, end=1), ConfigError, "one enters every 2 batches only"),
        (lambda run, out: average_interval(run, out, start=8, end=6), ConfigError, "further apart"),
        (lambda run, out: newest_checkpoints(run, 7), CheckpointError, "must hold 7 checkpoints at .*, but holds 6"),
        (lambda run, out: newest_checkpoints(run, 0), ConfigError, "1 checkpoint or more"),
        (lambda run, out: start_of_epochs(run, 4), CheckpointError, "trained for 4 epochs, but has finished 3"),
        (lambda run, out: start_of_epochs(run, 0), ConfigError, "1 epoch or more"),
        (lambda run, out: average_checkpoints([], out), ConfigError, "none is named"),
        (lambda run, out: average_checkpoints([run / "checkpoints/batch-00000003"] * 2, out), ConfigError, "named once"),
        (lambda run, out: newest_checkpoints(run / "no", 1), CheckpointError, "no such folder"),
        (lambda run, out: newest_checkpoints(run / "checkpoints", 1), CheckpointError, "holds no checkpoint"),
    ],
)
def test_what_cannot_be_averaged(
    walk: tuple[Path, dict[int, dict[str, Tensor]]],
    tmp_path: Path,
    average: Callable[[Path, Path], object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        average(walk[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_checkpoint(walk: tuple[Path, dict[int, dict[str, Tensor]]], tmp_path: Path) -> None:
    run = shutil.copytree(walk[0], tmp_path / "run")
    for name in ("model.safetensors", "average.safetensors"):
        path = run / "checkpoints" / "batch-00000008" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged: .* does not match the checksum"):
        average_checkpoints(newest_checkpoints(run, 4), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"average.safetensors is damaged: .* does not match the checksum"):
        average_interval(run, tmp_path / "out", start=8)
    assert not (tmp_path / "out").exists()
