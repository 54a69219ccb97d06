"""The outlook of a run in words: at its start what it trains and how long, after the first minute the time that is left."""

import math
from typing import NamedTuple

from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData
from zipasr.train.state import Position

MEASURED_S = 60.0
"""Seconds of training from which the time left is estimated: steps differ by the lengths of their utterances."""
_WARMUP_STEPS = 2
"""Number of first steps that are not timed, since they start the readers and allocate memory."""


class RunLength(NamedTuple):
    """Length of a run."""

    num_steps: int
    """Approximate number of steps, those that are done included."""
    num_epochs: float


def describe_data(data: TrainData, vocab_size: int) -> str:
    """What a run trains on: utterances, hours, and the size of the vocabulary."""
    hours = float(data.train.durations_s.sum()) / 3600
    mixed = f", {sum(len(part.cuts) for part in data.mixed):,} others to mix in" if data.mixed else ""
    return (
        f"{len(data.train):,} utterances, {hours:.2f} h{mixed}, {len(data.scored_dev):,} to validate on, "
        f"a vocabulary of {vocab_size:,} tokens"
    )


def describe_length(config: TrainConfig, length: RunLength, position: Position) -> str:
    """How long a run is, seen from where it starts or resumes, and what it writes when."""
    num_speeds, epochs = len(config.batch.speed_factors), f"{length.num_epochs:.3g}"
    speeds = f" at {num_speeds} speeds each" if num_speeds > 1 else ""
    total = f"about {length.num_steps:,}"
    place = f"batch {position.num_steps:,} of {total}" if position.num_steps else f"{total} batches"
    validations = f"every {config.valid_interval:,}" if config.valid_interval < length.num_steps else "at the end"
    return (
        f"{place}, {epochs} epoch{'' if epochs == '1' else 's'}{speeds}: a validation "
        f"{validations}, a checkpoint every {config.save_interval:,}"
    )


class TimeLeft:
    """Estimates once, after the first minute of training, how long the rest of a run takes on this machine."""

    def __init__(self, valid_interval: int) -> None:
        """Estimate nothing yet; `valid_interval` is the number of steps between validations."""
        self.valid_interval = valid_interval
        self._is_said = False
        self.start(Position(), 0)

    def start(self, position: Position, total_steps: int) -> None:
        """Start to measure where a run starts, resumes or goes back to, with its approximate total number of steps."""
        self._total_steps, self._timed_from = total_steps, position.num_steps + _WARMUP_STEPS
        self._start_s = math.inf

    def estimate(self, position: Position) -> str | None:
        """The estimate, at the first step after `MEASURED_S` seconds of training; None at all other steps."""
        if position.num_steps <= self._timed_from:
            self._start_s = position.train_s
        measured_s, num_left = position.train_s - self._start_s, self._total_steps - position.num_steps
        if self._is_said or measured_s < MEASURED_S or num_left <= 0:
            return None
        self._is_said = True
        step_s = measured_s / (position.num_steps - self._timed_from)
        every = self.valid_interval
        num_validations = max(1, math.ceil(self._total_steps / every) - position.num_steps // every)
        validations = "a validation" if num_validations == 1 else f"{num_validations} validations"
        return f"about {in_words(num_left * step_s)} left on this machine ({step_s:.2g} s per batch), plus {validations}"


def in_words(duration_s: float) -> str:
    """A duration as people say it, such as "40 minutes", with two digits at least."""
    minutes, hours = duration_s / 60, duration_s / 3600
    if minutes < 1.5:
        return f"{max(1, round(duration_s))} seconds"
    if hours < 1.5:
        return f"{round(minutes)} minutes"
    if hours < 10:
        return f"{hours:.1f} hours"
    return f"{round(hours)} hours" if hours < 48 else f"{hours / 24:.1f} days"
