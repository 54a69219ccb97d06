"""The part of a run over which the evaluated model is averaged: about its last share, from a checkpoint or the start on.

Two running averages determine the mean of the models between them (`averaging`), so the part can start only at a kept
checkpoint. If none is near, a warning is logged: once for what the configuration implies, and once when it happens.
"""

import dataclasses
import logging
import math
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from zipasr import checkpoint
from zipasr.checkpoint import checkpoint_folders
from zipasr.errors import CheckpointError
from zipasr.nn.lora import merged_state_dict
from zipasr.train.averaging import interval_average
from zipasr.train.config import TrainConfig
from zipasr.train.state import AVERAGE_FILE, TrainState

logger = logging.getLogger(__name__)


class AverageSpan:
    """The averaged part of one run so far. Its only state is which warnings were logged."""

    def __init__(self, config: TrainConfig, out: Path) -> None:
        """Read no files yet; `out` is the folder of the run."""
        self.config, self.out = config, out
        self._has_foreseen = self._has_warned = False

    def foresee(self, total_steps: int) -> None:
        """Warn once if the configuration prevents the average of the finished run from starting where it should.

        `total_steps` is about the length of the whole run.
        """
        config, share = self.config, self.config.average_share
        every, keep = config.save_interval, config.keep_checkpoints
        if self._has_foreseen or total_steps // config.average_period < 2:  # of so few models there is no part to choose
            return
        target = total_steps * (1.0 - share)
        start = _expected_start(config, total_steps)
        if not is_far(start, target, total_steps, every):
            return
        self._has_foreseen = True
        if share * total_steps >= every:
            needed = checkpoints_needed(share * total_steps, every)
            cure = f"set keep_checkpoints={needed}, or in a new run a larger save_interval"
        else:
            cure = f"in a new run, set save_interval={max(1, int(share * total_steps / 2))} or less"
        why = f"a checkpoint is written every {every} batches and {keep} are kept; {cure}"
        self._warn(f"a run of about {total_steps} batches", target, f"will begin at {_place(start)}", why)

    def averaged_weights(self, state: TrainState) -> dict[str, Tensor]:
        """The mean, in float32, of the models over about the last `average_share` of the run up to `state`.

        Checkpoints of an interruption do not count, so that interruptions change nothing.
        """
        b, now, period = state.position.num_steps, state.average.tensors, self.config.average_period
        if b < period:  # no model has entered yet
            return {name: tensor for name, tensor in merged_state_dict(state.model).items() if name in now}
        target = b * (1.0 - self.config.average_share)
        folders = {n: path for n, path in checkpoint_folders(self.out).items() if n % self.config.save_interval == 0}
        for start in _nearest(folders, b, target, period):
            try:
                before = checkpoint.CheckpointFolder(folders[start]).tensors(AVERAGE_FILE) if start else now
            except CheckpointError as error:
                logger.warning("averaging over another part of the run: %s", error)
                continue
            self._warn_if_far(start, target, b)
            return interval_average(before, start, now, b, period)
        raise AssertionError("the run's start is always among the places to begin at")

    def _warn_if_far(self, start: int, target: float, b: int) -> None:
        every = self.config.save_interval
        if self._has_warned or abs(start - target) <= every:
            return
        self._has_warned = True
        needed = max(checkpoints_needed(b - target, every), self.config.keep_checkpoints)
        why = (
            f"no checkpoint nearer to it is there; keep more from now on, with keep_checkpoints={needed} (now "
            f"{self.config.keep_checkpoints}) or more for a longer run, or lower average_share"
        )
        self._warn(f"batch {b}", target, f"begins at {_place(start)}", why)

    def _warn(self, what: str, target: float, found: str, why: str) -> None:
        should = f"should begin at batch {target:.0f} (average_share {self.config.average_share:g})"
        logger.warning("the averaged model of %s %s, but %s, since %s", what, should, found, why)


def with_fitting_save_interval(config: TrainConfig, total_steps: int) -> TrainConfig:
    """The configuration with a save interval at which the average of the finished run starts where it should.

    The interval stays if it is good enough. Otherwise it changes as little as possible, to a multiple of `average_period` if
    one is good enough. Weights do not depend on it. `total_steps` is about the length of the whole run, which is new.
    """
    every, span, period = config.save_interval, config.average_share * total_steps, config.average_period
    if total_steps // period < 2:
        return config
    nearest = min(max(every, span / max(config.keep_checkpoints - 1, 1)), span / 2)
    whole = nearest // period * period
    for candidate in (every, whole, whole + period, math.floor(nearest), math.ceil(nearest)):
        if candidate < 1:
            continue
        fitted = dataclasses.replace(config, save_interval=int(candidate))
        start = _expected_start(fitted, total_steps)
        if not is_far(start, total_steps * (1.0 - config.average_share), total_steps, fitted.save_interval):
            return fitted
    return config


def _expected_start(config: TrainConfig, total_steps: int) -> int:
    """The batch at which the average of the finished run will start."""
    saved = range(config.save_interval, total_steps + 1, config.save_interval)[-config.keep_checkpoints :]
    return _nearest(saved, total_steps, total_steps * (1.0 - config.average_share), config.average_period)[0]


def is_far(start: int, target: float, end: int, save_interval: int) -> bool:
    """Whether an average up to batch `end` starts far from `target`, so that other checkpoints would be nearer.

    That is, farther than the distance of two checkpoints, or so far that it has half as many models or half as many more.
    Less than a batch is never far.
    """
    distance = abs(start - target)
    return distance >= 1.0 and (distance > save_interval or distance > (end - target) / 2.0)


def checkpoints_needed(span_steps: float, save_interval: int) -> int:
    """Number of newest checkpoints that reach back `span_steps` from any end of a run."""
    return math.ceil(span_steps / save_interval) + 1


def _nearest(saved: Iterable[int], end: int, target: float, period: int) -> list[int]:
    """Batches at which an average up to `end` can start, those nearest to `target` first; 0 is the start of the run."""
    starts = [0, *(n for n in saved if period <= n < end // period * period)]
    starts.sort(key=lambda n: abs(n - target))
    return starts[: starts.index(0) + 1]


def _place(start: int) -> str:
    return f"batch {start}" if start else "the start of the run"
