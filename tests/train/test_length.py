"""The length of a run. Law: a run that ends within an epoch resumes to the same bits. Contract: times, budgets, refusals."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.train.runs import assert_same, content, stop_after
from tests.train.tones import minute_config, write_tones
from zipasr.errors import ConfigError
from zipasr.train import length
from zipasr.train.length import MIN_BATCHES, NUM_VALIDATIONS, Length, Pace, fit_to_time, parse_duration_s, scaled_to
from zipasr.train.loop import train
from zipasr.train.metrics import read_metrics
from zipasr.train.state import checkpoint_folders
from zipasr.train.step import Stepper


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=24, num_dev=3)


@pytest.mark.parametrize(
    ("text", "seconds"), [("20m", 1200.0), ("1.5h", 5400.0), ("90s", 90.0), ("20", 1200.0), (" 2 h ", 7200.0)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "0m", "-5m", "20 minutes", "nan", "inf", "1e400h", "1h30m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 20m"):
        parse_duration_s(text)


def test_run_ends_within_an_epoch_and_is_then_finished(data: Path, tmp_path: Path) -> None:
    config = minute_config(data, num_epochs=3, max_batches=5)
    report = train(config, tmp_path, is_quiet=True)
    assert report.num_steps == 5 and report.is_finished
    assert list(checkpoint_folders(tmp_path)) == [5]
    before = content(checkpoint_folders(tmp_path)[5])
    again = train(config, tmp_path, is_quiet=True)
    assert again.num_steps == 5
    assert_same(content(checkpoint_folders(tmp_path)[5]), before)


def test_run_that_is_made_longer_resumes_bit_identically(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    train(minute_config(data, num_epochs=3, max_batches=8), tmp_path / "whole", is_quiet=True)
    train(minute_config(data, num_epochs=3, max_batches=5), tmp_path / "parts", is_quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(minute_config(data, num_epochs=3, max_batches=8), tmp_path / "parts", is_quiet=True)
    train(minute_config(data, num_epochs=3, max_batches=8), tmp_path / "parts", is_quiet=True)
    assert_same(content(checkpoint_folders(tmp_path / "parts")[8]), content(checkpoint_folders(tmp_path / "whole")[8]))


def test_scaling_keeps_shares_and_what_the_average_needs() -> None:
    config = minute_config("data", num_epochs=10, lr_batches=100.0, lr_epochs=4.0, average_period=10, average_share=0.2)
    half = scaled_to(config, 500, steps_per_epoch=100, made_for=Length(1000, 10))
    assert (half.lr_batches, half.lr_epochs, half.num_epochs, half.max_batches) == (50.0, 2.0, 5, 500)
    assert half.save_interval == 20 and half.valid_interval == 40
    assert half.keep_checkpoints * half.save_interval > half.average_share * 500
    longer = scaled_to(config, 4000, steps_per_epoch=100, made_for=Length(1000, 10))
    assert (longer.lr_batches, longer.lr_epochs, longer.num_epochs) == (100.0, 16.0, 40)
    by_hours = dataclasses.replace(config, lr_epochs=None, lr_hours=30.0)
    half = scaled_to(by_hours, 500, steps_per_epoch=100, made_for=Length(1000, 10))
    longer = scaled_to(by_hours, 4000, steps_per_epoch=100, made_for=Length(1000, 10))
    assert (half.lr_epochs, half.lr_hours, longer.lr_hours) == (None, 15.0, 120.0)
    assert longer.loss_warmup_batches == config.loss_warmup_batches  # a warm-up need not grow


def test_budget_becomes_batches_by_the_pace_of_the_machine(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length, "_measure", lambda *_: Pace(step_s=0.5, validation_s=3.0))
    run = fit_to_time(minute_config(data, num_epochs=1000), 600.0)
    spent_s = 0.5 * run.num_steps + 3.0 * NUM_VALIDATIONS
    assert 0.85 * 600 < spent_s < 0.96 * 600
    assert run.config.max_batches == run.num_steps
    assert run.config.model.vocab_size == 14


@pytest.mark.parametrize(("num_epochs", "max_batches"), [(4, 14_000), (1000, 12), (4, None)])
def test_budget_scales_from_the_length_that_the_run_has_on_its_data(
    num_epochs: int, max_batches: int | None, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends at the earlier of its two limits."""
    monkeypatch.setattr(length, "_measure", lambda *_: Pace(step_s=1.0, validation_s=0.0))
    config = minute_config(data, num_epochs=num_epochs, max_batches=max_batches, lr_batches=5.0, lr_epochs=2.0)
    run = fit_to_time(config, 600.0)
    per_epoch = length.open_data(config).data.plan(config).num_batches(0) / config.accumulate_batches
    own_steps = 12 if max_batches == 12 else 4 * per_epoch
    assert 1 < per_epoch < own_steps < run.num_steps
    assert run.config.lr_batches == 5.0
    assert run.config.lr_epochs == pytest.approx(2.0 * run.num_steps / own_steps, rel=0.01)


def test_budget_is_refused_for_the_processes_of_torchrun(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"for one process.* but torchrun started 8; leave --budget out .*max_batches=N"):
        fit_to_time(minute_config(data), 600.0)


def test_budget_too_short_says_how_much_is_needed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length, "_measure", lambda *_: Pace(step_s=0.5, validation_s=3.0))
    with pytest.raises(ConfigError, match=rf"enough for {MIN_BATCHES} batches.*0\.50 s each.*is 1\.0 minutes; give \d+ min"):
        fit_to_time(minute_config(data), 60.0)


def test_pace_is_that_of_real_steps(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take half a second, but the first two 9 s, which do not count; a validation takes 7 s, the n-gram once 30 s."""
    clock, step, validate, estimate = [0.0], Stepper.step, length.validate, length.text_ngram
    monkeypatch.setattr(length, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def timed_step(self: Stepper, batches: Any, number: int) -> Any:
        clock[0] += 9.0 if number <= 2 else 0.5
        return step(self, batches, number)

    def timed_validation(*args: Any) -> Any:
        clock[0] += 7.0
        return validate(*args)

    def timed_estimation(*args: Any) -> Any:
        clock[0] += 30.0
        return estimate(*args)

    monkeypatch.setattr(Stepper, "step", timed_step)
    monkeypatch.setattr(length, "text_ngram", timed_estimation)
    monkeypatch.setattr(length, "validate", timed_validation)
    monkeypatch.setattr(length, "_MEASURE_S", 2.0)
    run = fit_to_time(minute_config(data, num_epochs=1000), 3600.0)
    assert run.pace == Pace(step_s=0.5, validation_s=7.0, startup_s=30.0)
    assert run.num_steps == int((0.95 * (3600.0 - clock[0]) - 30.0 - 7.0 * NUM_VALIDATIONS) / 0.5)


def test_budgeted_run_trains_the_planned_batches(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length, "_measure", lambda *_: Pace(step_s=1.0, validation_s=0.0))
    monkeypatch.setattr(length, "MIN_BATCHES", 5)
    run = fit_to_time(minute_config(data, num_epochs=10), 20.0)
    report = train(run.config, tmp_path, is_quiet=True)
    assert report.num_steps == run.num_steps < 20
    assert sum(line["kind"] == "dev" for line in read_metrics(tmp_path)) >= 1
