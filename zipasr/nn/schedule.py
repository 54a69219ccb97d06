"""Values that change during training: `Schedule`, and `set_step`, the one function that sets training progress.

Progress is counted in *steps of 600 s of audio*, as in the published recipe: step = batches · (seconds per batch) / 600.
The trainer computes it; modules only read it. In eval mode, or before the first `set_step`, a module uses the default.
Source: ScheduledFloat of the Zipformer recipe; the published values are listed beside each module.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Piecewise-linear function of the step, constant beyond its first and last points."""

    points: tuple[tuple[float, float], ...]
    """(step, value) pairs with rising steps."""
    default: float = 0.0
    """Value in eval mode and before the first `set_step`."""

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if not steps or any(b <= a for a, b in pairwise(steps)):
            raise ValueError(f"the steps of a Schedule must rise, but are {steps}; list its points in order")

    def __call__(self, step: float) -> float:
        """Value at `step`, counted in steps of 600 s of audio."""
        right = bisect_right([s for s, _ in self.points], step)
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (s0, v0), (s1, v1) = self.points[right - 1], self.points[right]
        return v0 + (v1 - v0) * (step - s0) / (s1 - s0)


class ScheduledModule(nn.Module):
    """Base class of modules with schedules: `set_step` sets `step`, and `value` evaluates a schedule there."""

    def __init__(self) -> None:
        super().__init__()
        self.step: float | None = None

    def value(self, schedule: Schedule | float) -> float:
        """`schedule` at the current step; its default in eval mode or before the first `set_step`."""
        if not isinstance(schedule, Schedule):
            return schedule
        if self.step is None or not self.training:
            return schedule.default
        return schedule(self.step)


def set_step(model: nn.Module, step: float) -> None:
    """Set training progress, in steps of 600 s of audio, on every scheduled module inside `model`."""
    for module in model.modules():
        if isinstance(module, ScheduledModule):
            module.step = step
