"""Length of a run: a recipe scaled to a number of batches, and the number of batches that fit a time budget.

Schedules in epochs or hours keep their share of the run when it gets shorter or longer; schedules in batches do so only
when it gets shorter, so that the rate decays and masks start at the same share of the run. In a longer run the rate
decays as early as before.
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

from zipasr.data.reading import read_batches
from zipasr.device import fast_matmul, select_device
from zipasr.errors import ConfigError
from zipasr.lm.ngram import NgramModel, TokenNgram
from zipasr.nn.schedule import set_step
from zipasr.train.config import TrainConfig
from zipasr.train.distributed import Ranks, ranks_of_environment
from zipasr.train.rounds import RoundStepper, new_stepper, read_rounds
from zipasr.train.setup import RunData, new_state, open_data
from zipasr.train.state import Position
from zipasr.train.step import Stepper
from zipasr.train.validation import text_ngram, validate, validation_batches

NUM_CHECKPOINTS = 20
"""Number of checkpoints of a scaled run, of which about the last fifth is averaged."""
NUM_VALIDATIONS = 10
"""Number of validations of a scaled run."""
MIN_BATCHES = 200
"""Minimum length of a run: with fewer batches nothing is learned from any data."""
_MEASURE_S = 8.0
"""Seconds of training to measure the duration of a step; steps differ by the lengths of their utterances."""
_WARMUP_TURNS = 2
"""Number of first steps, or rounds of them, that are not timed."""
_SPARE_SHARE = 0.05
"""Share of a time budget reserved for startup, checkpoints and varying speed of the machine."""
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 60.0}


class Length(NamedTuple):
    """Length of the run that a recipe was tuned for."""

    num_steps: float
    num_epochs: float


class Pace(NamedTuple):
    """Training speed of this machine."""

    step_s: float
    """Seconds per step, including reading."""
    validation_s: float
    """Seconds per validation."""
    startup_s: float = 0.0
    """Seconds before the first step to read the dev set and to estimate the n-gram of the texts."""


class BudgetedRun(NamedTuple):
    """A run that fits a time budget."""

    config: TrainConfig
    pace: Pace
    num_steps: int


def parse_duration_s(text: str) -> float:
    """Seconds of a duration such as `20m`, `1.5h` or `90s`; a number alone is minutes.

    Raises:
        ConfigError: the text has another form, or the duration is not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match.group(1)) * _UNITS_S[match.group(2)] if match else 0.0
    if not 0.0 < seconds < math.inf:
        raise ConfigError(f"a time must be a positive number with s, m or h, such as 20m, but is {text!r}")
    return seconds


def scaled_to(config: TrainConfig, num_steps: int, *, steps_per_epoch: float, made_for: Length) -> TrainConfig:
    """A recipe, tuned for the length `made_for`, scaled to `num_steps` optimizer steps; it may end within an epoch."""
    num_epochs = num_steps / steps_per_epoch
    by_steps, by_epochs = num_steps / made_for.num_steps, num_epochs / made_for.num_epochs
    every = config.average_period * max(1, round(num_steps / NUM_CHECKPOINTS / config.average_period))
    masks_from = round(config.batch.spec_augment_from_epoch * by_epochs)
    return dataclasses.replace(
        config,
        batch=dataclasses.replace(config.batch, spec_augment_from_epoch=masks_from),
        num_epochs=max(1, math.ceil(num_epochs)),
        max_batches=num_steps,
        lr_batches=_rounded(config.lr_batches * min(1.0, by_steps)),
        lr_epochs=None if config.lr_epochs is None else _rounded(config.lr_epochs * by_epochs),
        lr_hours=None if config.lr_hours is None else _rounded(config.lr_hours * by_steps),
        lr_warmup_batches=_rounded(config.lr_warmup_batches * min(1.0, by_steps)),
        loss_warmup_batches=_rounded(config.loss_warmup_batches * min(1.0, by_steps)),
        save_interval=every,
        valid_interval=every * round(NUM_CHECKPOINTS / NUM_VALIDATIONS),
        keep_checkpoints=max(config.keep_checkpoints, math.ceil(config.average_share * NUM_CHECKPOINTS) + 2),
    )


def fit_to_time(
    config: TrainConfig, budget_s: float, *, made_for: Length | None = None, ranks: Ranks | None = None
) -> BudgetedRun:
    """Scale a run to about a given duration on this machine, by timing some of its steps.

    Nothing is written. Later changes in the load of the machine are not taken into account.

    Args:
        config: the run, its data prepared.
        budget_s: seconds from start to end.
        made_for: the length that `config` was tuned for; None: its own length on this data.
        ranks: the processes of this machine that will train, which must all call this; None: this one alone.
    Raises:
        ConfigError: the time is too short to learn anything, or torchrun has started several processes.
        DataError: the data cannot be used.
    """
    size = ranks_of_environment().size
    if size > 1:
        raise ConfigError(
            f"a budget must be for one process, since steps of several are not timed, but torchrun started {size}; leave "
            "--budget out and give the length with --set max_batches=N, or leave torchrun out"
        )
    started, ranks = time.monotonic(), ranks or Ranks()
    run = ranks.main_first(lambda: open_data(config))
    config = run.config
    with fast_matmul(select_device(config.device)) if config.use_onednn_matmul else nullcontext():
        pace = _measure(run, ranks)
    num_steps = ranks.from_main(lambda: _num_steps(pace, budget_s, time.monotonic() - started))
    per_epoch = run.data.plan(config).num_batches(0) / config.accumulate_batches
    if made_for is None:
        own_steps = min(config.max_batches or math.inf, per_epoch * config.num_epochs)
        made_for = Length(own_steps, own_steps / per_epoch)
    return BudgetedRun(scaled_to(config, num_steps, steps_per_epoch=per_epoch, made_for=made_for), pace, num_steps)


def _num_steps(pace: Pace, budget_s: float, spent_s: float) -> int:
    """Number of steps in a time budget, of which some seconds are spent."""
    fixed_s = pace.startup_s + NUM_VALIDATIONS * pace.validation_s
    left_s = (1.0 - _SPARE_SHARE) * (budget_s - spent_s) - fixed_s
    num_steps = int(left_s / pace.step_s)
    if num_steps < MIN_BATCHES:
        needed_s = (MIN_BATCHES * pace.step_s + fixed_s) / (1.0 - _SPARE_SHARE)
        raise ConfigError(
            f"the budget must be enough for {MIN_BATCHES} batches, which take {pace.step_s:.2f} s each here, but is "
            f"{budget_s / 60:.1f} minutes; give {needed_s / 60 + 1:.0f} minutes or more"
        )
    return num_steps


def _measure(run: RunData, ranks: Ranks) -> Pace:
    """Train for some seconds and, on rank 0, validate once, with a temporary model."""
    (config, tokenizer, data), device = run, select_device(run.config.device)
    state, _ = new_state(config, device, tokenizer)
    num_batches, clock = 0, time.monotonic()
    for i, number in enumerate(_turns(run, new_stepper(config, state, ranks, device), ranks), start=1):
        num_batches += number if i > _WARMUP_TURNS else 0
        if i == _WARMUP_TURNS:
            clock = time.monotonic()
        elif ranks.exchange(num_batches > 0 and time.monotonic() - clock > _MEASURE_S)[0]:
            break
    step_s = config.accumulate_batches * (time.monotonic() - clock) / max(1, num_batches)
    if not ranks.is_main:
        return Pace(step_s, 0.0)
    clock = time.monotonic()
    texts = {cut.id: cut.supervisions[0].text for cut in data.dev}
    batches = validation_batches(data.scored_dev, tokenizer, config)
    graph = text_ngram(config, data.epoch_texts(), tokenizer)
    ngram = TokenNgram(NgramModel(graph), tokenizer) if graph is not None else None
    startup_s, clock = time.monotonic() - clock, time.monotonic()
    validate(state.model.eval(), batches, texts, tokenizer, device, config.search, ngram)
    return Pace(step_s, time.monotonic() - clock, startup_s)


def _turns(run: RunData, stepper: Stepper, ranks: Ranks) -> Iterator[int]:
    """Take steps, those of a round at once; yield the number of batches that each turn took on all processes."""
    (config, tokenizer, data), state = run, stepper.state
    plan, reader = data.plan(config), data.reader(config, tokenizer)
    if isinstance(stepper, RoundStepper):
        plain = dataclasses.replace(config, num_workers=0)
        for turn, batches in read_rounds(plan, reader, plain, Position(), ranks):
            first = state.position.num_steps + 1
            numbers = range(first, first + len(turn.steps))
            state.model.train()
            set_step(state.model, config.schedule_progress(first))
            for number, _ in zip(numbers, stepper.round(batches, numbers), strict=True):
                state.position.num_steps = number
            yield sum(map(len, turn.steps))
        return
    for placed in read_batches(plan, reader, num_epochs=config.num_epochs, num_workers=0):
        state.position.num_steps += 1
        state.model.train()
        set_step(state.model, config.schedule_progress(state.position.num_steps))
        stepper.step([placed.batch], state.position.num_steps)
        yield 1


def _rounded(value: float) -> float:
    """`value` rounded to three significant digits, which is its accuracy."""
    return float(f"{value:.3g}")
