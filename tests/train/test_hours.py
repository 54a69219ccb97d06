"""Eden by hours of audio in a run. Law: the rate at a batch is a function of the batch and the audio processed, however that
audio is batched; stopping, resuming and going back change nothing. For several ranks: test_distributed.py."""

import dataclasses
import json
import random
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.train.runs import assert_same, content, run, stop_after
from tests.train.tones import minute_config, write_tones
from zipasr.config import from_json, to_json
from zipasr.data.manifest_index import IndexedCuts
from zipasr.errors import ConfigError
from zipasr.optim import eden_factor
from zipasr.train.config import ConsistencyConfig, TrainConfig
from zipasr.train.data import read_split
from zipasr.train.metrics import read_metrics
from zipasr.train.state import TRAINING_FILE, Position, checkpoint_folders
from zipasr.train.step import Stepper

LR_HOURS = 0.004  # 14 s, of about 50 s in a run of two epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=24, num_dev=2)


def hours_config(
    data: Path, *, max_duration_s: float = 12.0, speeds: tuple[float, ...] = (1.0,), **changes: Any
) -> TrainConfig:
    """A run by hours that logs every step and goes back after two bad ones."""
    batch = dataclasses.replace(minute_config().batch, max_duration_s=max_duration_s, speed_factors=speeds)
    settings = {"lr_epochs": None, "lr_hours": LR_HOURS, "log_interval": 1, "save_interval": 2, "max_skipped_batches": 2}
    return minute_config(data, **({"batch": batch} | settings | changes))


def expected_rate(config: TrainConfig, line: dict[str, Any]) -> float:
    """The rate at a line of the log, by the formula."""
    factor = eden_factor(
        line["step"],
        line["audio_h"],
        lr_batches=config.lr_batches,
        lr_epochs=LR_HOURS,
        warmup_batches=config.lr_warmup_batches,
        warmup_start=config.lr_warmup_start,
    )
    return config.lr * factor


def train_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder) if line["kind"] == "train"]


def frames_of_epoch(cuts: IndexedCuts, speeds: tuple[float, ...]) -> int:
    """Frames at 100 Hz of all cuts at all speeds."""
    return sum(round(100 * duration_s / speed) for duration_s in cuts.durations_s for speed in speeds)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, three in each epoch, that is never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(hours_config(data), folder)
    return folder


def check_rates(config: TrainConfig, folder: Path) -> None:
    """Every rate is the formula's at the audio so far, and the audio is that of all utterances at all speeds."""
    lines = train_lines(folder)
    assert [line["lr"] for line in lines] == [expected_rate(config, line) for line in lines]
    cuts, speeds = read_split(config.data, "train"), config.batch.speed_factors
    num_frames = config.num_epochs * frames_of_epoch(cuts, speeds)
    assert lines[-1]["audio_h"] * 360_000 == pytest.approx(num_frames, abs=config.num_epochs * len(speeds) * len(cuts))
    assert lines[-1]["audio_h"] > LR_HOURS


def hours_at_end(folder: Path) -> float:
    """Hours of the schedule in the last checkpoint."""
    last = list(checkpoint_folders(folder).values())[-1]
    return json.loads((last / TRAINING_FILE).read_text())["scheduler"]["hours"]


def test_rate_is_a_function_of_batch_and_audio(data: Path, whole: Path) -> None:
    check_rates(hours_config(data), whole)


@pytest.mark.parametrize("changes", [{"max_duration_s": 5.0}, {"max_duration_s": 7.0, "accumulate_batches": 3}])
def test_size_of_batches_does_not_matter(data: Path, whole: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """After whole epochs the hours are the same to the last bit."""
    config = hours_config(data, **changes)
    run(config, tmp_path)
    check_rates(config, tmp_path)
    assert len(train_lines(tmp_path)) != len(train_lines(whole))
    assert hours_at_end(tmp_path) == hours_at_end(whole)


@pytest.mark.parametrize("changes", [{"speeds": (0.9, 1.1)}, {"consistency": ConsistencyConfig()}])
def test_audio_counts_at_its_speed_and_once(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = hours_config(data, num_epochs=1, **changes)
    run(config, tmp_path)
    check_rates(config, tmp_path)


def test_sums_are_the_same_wherever_the_frames_agree() -> None:
    """Months of audio in batches of one, some and many utterances; a plain sum of seconds would differ in the last bits."""
    generator = random.Random(0)
    frames = [generator.randint(100, 2000) for _ in range(20_000)]
    sums, plain = list[dict[int, float]](), list[dict[int, float]]()
    for size in (1, 7, 100):
        batches = [sum(frames[i : i + size]) for i in range(0, len(frames), size)]
        position, found = Position(audio_s=5e6), {}
        for total, batch in zip(accumulate(batches), batches, strict=True):
            position.audio_s = found[total] = position.audio_after(batch / 100)
        sums.append(found)
        plain.append(dict(zip(accumulate(batches), accumulate(batch / 100 for batch in batches), strict=True)))
    for other, rough in zip(sums[1:], plain[1:], strict=True):
        common = sums[0].keys() & other.keys()
        assert len(common) >= 200
        assert all(sums[0][total] == other[total] for total in common)
        assert any(plain[0][total] != rough[total] for total in common)


def test_resumed_run_is_bit_identical(data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops within an epoch."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(hours_config(data), tmp_path)
    run(hours_config(data), tmp_path)
    assert_same(content(checkpoint_folders(whole)[6]), content(checkpoint_folders(tmp_path)[6]))
    assert [line["lr"] for line in train_lines(whole)] == [line["lr"] for line in train_lines(tmp_path)]


def test_going_back_restores_the_audio(data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audio of the abandoned steps does not count; the rate is half of that of a run that never diverged."""
    losses, steps = Stepper.losses, list[int]()

    def spoil(self: Any, batch: Any, b: int) -> Any:
        steps.append(b)
        parts, total = losses(self, batch, b)
        return parts, total * float("nan") if len(steps) in (4, 5) else total

    monkeypatch.setattr(Stepper, "losses", spoil)
    run(hours_config(data), tmp_path)
    assert steps == [1, 2, 3, 4, 5, 3, 4, 5, 6]
    calm, back = train_lines(whole), train_lines(tmp_path)
    assert [(line["step"], line["audio_h"]) for line in back] == [(line["step"], line["audio_h"]) for line in calm]
    rates = [line["lr"] for line in calm]
    assert [line["lr"] for line in back] == pytest.approx([*rates[:2], *(0.5 * rate for rate in rates[2:])], rel=1e-12)


def test_run_keeps_its_unit(data: Path, whole: Path) -> None:
    by_epochs = dataclasses.replace(hours_config(data), lr_epochs=3.5, lr_hours=None)
    with pytest.raises(ConfigError, match=r"lr_epochs \(was None, now 3\.5\); lr_hours \(was 0\.004, now None\)"):
        run(by_epochs, whole)


def test_configuration_of_an_earlier_run_is_read() -> None:
    written = to_json(TrainConfig(lr_epochs=18.0))
    del written["lr_hours"]
    assert from_json(TrainConfig, written) == TrainConfig(lr_epochs=18.0, lr_hours=None)


def test_run_without_epochs_and_hours_does_not_start(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of lr_epochs and lr_hours must be a number, but both are None"):
        run(minute_config(data, lr_epochs=None), tmp_path / "run")
    assert not (tmp_path / "run").exists()
