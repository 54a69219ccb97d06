"""Contract: the arguments of `zipasr train` become a configuration in which each has an effect, or are refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.train.tones import minute_config, write_tones
from zipasr.config import to_json
from zipasr.errors import ConfigError
from zipasr.recipes import configure, prompts
from zipasr.recipes.configure import configure_run
from zipasr.recipes.own_data import MADE_FOR, NOISE_FILE, fit_to_data
from zipasr.train import length
from zipasr.train.config import TrainConfig
from zipasr.train.length import BudgetedRun, Length, Pace
from zipasr.train.loop import train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tones(tmp_path / "data", num_train=12, num_dev=2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_folder_is_fitted_with_reasons(data: Path, out: Path) -> None:
    run = configure_run(str(data), [], out)
    fitted = fit_to_data(str(data))
    assert run == (fitted.config, fitted.reasons)
    assert run.config.max_batches is not None


def test_folder_is_fitted_to_the_processes_of_torchrun(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    fitted = fit_to_data(str(data), batches_per_step=2)
    assert configure_run(str(data), [], out) == (fitted.config, fitted.reasons)


def test_recipe_is_taken_as_it_is(out: Path) -> None:
    assert configure_run("prompts:tiny", [], out) == (prompts.tiny(), ())


def test_epochs_that_are_set_count_alone(data: Path, out: Path) -> None:
    run = configure_run(str(data), ["num_epochs=40"], out)
    assert (run.config.num_epochs, run.config.max_batches) == (40, None)
    run = configure_run(str(data), ["num_epochs=40", "max_batches=7"], out)
    assert (run.config.num_epochs, run.config.max_batches) == (40, 7)
    run = configure_run(str(data), ["lr=0.01"], out)
    assert (run.config.lr, run.config.max_batches) == (0.01, fit_to_data(str(data)).config.max_batches)


def fake_fit(config: TrainConfig, budget_s: float, *, made_for: Length | None) -> BudgetedRun:
    return BudgetedRun(
        dataclasses.replace(config, max_batches=int(budget_s), lr_batches=77.0), Pace(1.0, 2.0), int(budget_s)
    )


def test_budget_fits_the_run_and_settings_hold(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[TrainConfig] = []

    def fit(config: TrainConfig, budget_s: float, *, made_for: Length | None) -> BudgetedRun:
        told.append(config)
        return fake_fit(config, budget_s, made_for=made_for)

    run = configure_run(str(data), ["lr=0.01"], out, budget="20m", fit=fit)
    assert [config.lr for config in told] == [0.01]
    monkeypatch.setattr(configure, "fit_to_time", fake_fit)
    assert (run.config.max_batches, run.config.lr, run.config.lr_batches) == (1200, 0.01, 77.0)
    assert "20 minutes are 1,200 batches of 1.00 s" in run.notes[-1]
    assert not any(note.startswith("length:") for note in run.notes)
    assert configure_run(str(data), ["lr_batches=5"], out, budget="20m").config.lr_batches == 5.0
    assert configure_run("prompts:tiny", [], out, budget="1h").config.max_batches == 3600


@pytest.mark.parametrize("setting", ["num_epochs=3", "max_batches = 5"])
def test_two_lengths_are_refused(data: Path, out: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="--budget chooses the length of the run, but --set"):
        configure_run(str(data), [setting], out, budget="20m")


def test_begun_run_keeps_its_configuration(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = minute_config(str(data), max_batches=2)
    train(config, out, is_quiet=True)

    def fail(*_: object, **__: object) -> BudgetedRun:
        raise AssertionError("a run that has begun is not timed again")

    monkeypatch.setattr(configure, "fit_to_time", fail)
    again = configure_run(str(data), [], out, budget="20m")
    assert again.config.max_batches == 2 and again.notes == ()
    assert again.config.model.encoder == config.model.encoder
    assert configure_run(str(data), ["num_epochs=3"], out).config.max_batches is None
    assert configure_run(str(data), ["max_batches=4"], out).config.max_batches == 4


def test_a_run_whose_folder_moved_takes_the_noise_along(data: Path, out: Path) -> None:
    (data / NOISE_FILE).touch()
    run = configure_run(str(data), [], out).config
    assert run.batch.noise is not None
    out.mkdir()
    (out / "config.json").write_text(json.dumps(to_json(run)))
    moved = data.rename(data.with_name("moved"))
    again = configure_run(str(moved), [], out).config
    noise = dataclasses.replace(run.batch.noise, cuts=str(moved / NOISE_FILE))
    assert again == dataclasses.replace(run, data=str(moved), batch=dataclasses.replace(run.batch, noise=noise))
    others = configure_run(str(data.parent), ["batch.noise.cuts=other.jsonl.gz"], out).config
    (out / "config.json").write_text(json.dumps(to_json(others)))
    kept = configure_run(str(moved), [], out).config.batch.noise
    assert kept is not None and kept.cuts == "other.jsonl.gz"


def test_budget_of_a_folder_is_scaled_from_what_the_recipe_was_made_for(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is the recipe, not the run fitted to the data, whose schedules would then be scaled twice."""
    monkeypatch.setattr(length, "_measure", lambda *_: Pace(step_s=0.5, validation_s=0.0))
    config, tiny = configure_run(str(data), [], out, budget="20m").config, prompts.tiny()
    assert config.max_batches is not None and 2200 < config.max_batches < 2400
    assert config.lr_batches == pytest.approx(tiny.lr_batches * config.max_batches / MADE_FOR.num_steps, rel=0.01)
    assert config.model.transducer is not None and config.model.transducer.lattice == "modified"
