"""The configuration of a run from the arguments of `zipasr train`: a recipe or a folder, fields to set, a time budget."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from zipasr.config import set_fields
from zipasr.errors import ConfigError
from zipasr.recipes.find import find_recipe
from zipasr.recipes.own_data import MADE_FOR, NOISE_FILE, fit_to_data
from zipasr.train.config import TrainConfig
from zipasr.train.distributed import ranks_of_environment
from zipasr.train.folder import stored_config
from zipasr.train.length import BudgetedRun, fit_to_time, parse_duration_s
from zipasr.train.resolve import resolve

_LENGTHS = ("num_epochs", "max_batches")


class ConfiguredRun(NamedTuple):
    """Configuration of a run, and notes about it for the user."""

    config: TrainConfig
    notes: tuple[str, ...] = ()
    """Sentences to print before the first step."""


def configure_run(
    recipe: str,
    settings: Sequence[str],
    out: Path,
    *,
    checkpoint: str | None = None,
    budget: str | None = None,
    fit: Callable[..., BudgetedRun] | None = None,
) -> ConfiguredRun:
    """The configuration of a command line.

    A run that has started in `out` keeps the configuration that was fitted to its data or time budget at its start.

    Args:
        recipe: see `find_recipe`; for a folder, the run is fitted to its data.
        settings: `name=value` strings; they take precedence.
        out: the folder of the run.
        checkpoint: checkpoint to start from; see `resolve`.
        budget: maximum duration of the run on this machine, such as `20m`.
        fit: `fit_to_time` or what calls it, for example in several processes; None: `fit_to_time`.
    Raises:
        ConfigError: there is no such recipe or setting, the budget is too short or refused, or lengths are given twice.
        CheckpointError: the checkpoint, or the run in `out`, cannot be read.
        DataError: the data cannot be used.
    """
    budget_s = parse_duration_s(budget) if budget is not None else None
    given = [text for text in settings if text.partition("=")[0].strip() in _LENGTHS]
    if budget_s is not None and given:
        raise ConfigError(f"--budget chooses the length of the run, but --set {given[0]} does too; leave one of them out")
    is_folder = Path(recipe).is_dir()
    stored = stored_config(out) if is_folder or budget_s is not None else None
    notes: tuple[str, ...] = ()
    made_for = None
    if stored is not None:
        base, budget_s = _at(recipe, stored) if is_folder else stored, None
    elif is_folder:
        fitted = fit_to_data(recipe, batches_per_step=ranks_of_environment().size)
        base, notes = fitted.config if budget_s is None else fitted.recipe, fitted.reasons
        made_for = MADE_FOR
    else:
        base = find_recipe(recipe)
    if given and all(text.strip().startswith("num_epochs") for text in given):  # the limit in batches would cut them short
        base = dataclasses.replace(base, max_batches=None)
    config = resolve(base, settings, checkpoint, out)
    if budget_s is None:
        return ConfiguredRun(config, notes)
    run = (fit or fit_to_time)(config, budget_s, made_for=made_for)
    note = (
        f"budget: {budget_s / 60:g} minutes are {run.num_steps:,} batches of {run.pace.step_s:.2f} s on this machine, "
        f"with validations of {run.pace.validation_s:.1f} s"
    )
    rules = [reason for reason in notes if not reason.startswith("length: ")]
    return ConfiguredRun(set_fields(run.config, settings), (*rules, note))


def _at(folder: str, stored: TrainConfig) -> TrainConfig:
    """The configuration of a run on a folder, which may have moved since its start, with the noise that lies in it."""
    batch = stored.batch
    if batch.noise is not None and Path(batch.noise.cuts) == Path(stored.data) / NOISE_FILE:
        batch = dataclasses.replace(batch, noise=dataclasses.replace(batch.noise, cuts=str(Path(folder) / NOISE_FILE)))
    return dataclasses.replace(stored, data=folder, batch=batch)


def is_given(name: str, recipe: str, settings: Sequence[str]) -> bool:
    """Whether the user chose the value of a field: in a setting, or in a recipe file of their own."""
    return recipe.rpartition(":")[0].endswith(".py") or any(text.partition("=")[0].strip() == name for text in settings)
