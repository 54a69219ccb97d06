"""Eden and Eden2: learning-rate schedules over batches and epochs or hours, with a warm-up. Numbers in, numbers out.

A schedule multiplies the initial learning rate of every parameter group (`initial_lr`) by a factor. Order in a training
step: loss.backward(), schedule.step_batch(b), optimizer.step(); b is 1 for the first batch of the run and is never
reset. Call step_epoch(e) at the start of every epoch, with e = 0 for the first; e may be fractional. An Eden by hours
takes step_hours(h) instead, before optimizer.step(): h is the hours of audio processed so far, this batch included.

Source: Yao et al. 2024, arXiv:2310.11230 (Eden; "epoch can be replaced by other variables, such as hours of data"); Eden2
and the hours with the current batch come from the published training code.
"""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from torch.optim import Optimizer

N = TypeVar("N", int, float)

WARMUP_BATCHES = 500.0  # arXiv:2310.11230
WARMUP_START = 0.5  # as above; the current LibriSpeech recipe uses 0.1


def eden_factor(
    batch: float,
    epoch: float,
    *,
    lr_batches: float,
    lr_epochs: float,
    warmup_batches: float = WARMUP_BATCHES,
    warmup_start: float = WARMUP_START,
) -> float:
    """((b^2 + B^2) / B^2)^(-1/4) * ((e^2 + E^2) / E^2)^(-1/4) * warm-up, the last rising linearly to 1.

    `epoch` and `lr_epochs` may have another unit, if it is the same: hours of audio, for example.
    """
    by_batch = ((batch / lr_batches) ** 2 + 1) ** -0.25
    by_epoch = ((epoch / lr_epochs) ** 2 + 1) ** -0.25
    return by_batch * by_epoch * warmup_factor(batch, warmup_batches, warmup_start)


def eden2_factor(
    batch: float, *, lr_batches: float, warmup_batches: float = WARMUP_BATCHES, warmup_start: float = WARMUP_START
) -> float:
    """((b^2 + B^2) / B^2)^(-1/2) * warm-up."""
    return ((batch / lr_batches) ** 2 + 1) ** -0.5 * warmup_factor(batch, warmup_batches, warmup_start)


def warmup_factor(batch: float, warmup_batches: float, warmup_start: float) -> float:
    """`warmup_start` at batch 0, rising linearly to 1 at `warmup_batches` and staying there."""
    if batch >= warmup_batches:
        return 1.0
    return warmup_start + (1 - warmup_start) * batch / warmup_batches


class BatchEpochSchedule(ABC):
    """Base class of schedules: sets the rate of each parameter group to its `initial_lr` times `factor(batch, epoch)`.

    `initial_lr` is the group's `lr` when its first schedule is created. It is stored in the group and thus in a checkpoint
    of the optimizer, so a schedule created after loading one continues at the correct rate.
    """

    is_by_hours = False
    """Whether the schedule takes hours of audio, by `step_hours`, in place of epochs, by `step_epoch`."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.batch = 0
        self.epoch = self.hours = 0.0
        self._set_rates()

    @abstractmethod
    def factor(self, batch: int, epoch: float) -> float:
        """Factor on the initial rate at this batch and epoch, or at these hours if the schedule is by hours."""

    def step_batch(self, batch: int) -> None:
        """Set the current batch, counted over the whole run, and update the rates."""
        self.batch = int(_not_negative("batch", batch))
        self._set_rates()

    def step_epoch(self, epoch: float) -> None:
        """Set the number of finished epochs, which may be fractional, and update the rates.

        Raises:
            ValueError: the number is negative, or the schedule is by hours.
        """
        if self.is_by_hours:
            raise ValueError(f"this {type(self).__name__} must be told hours, but was told epochs; call step_hours")
        self.epoch = _not_negative("epoch", epoch)
        self._set_rates()

    def step_hours(self, hours: float) -> None:
        """Set the hours of audio processed in the whole run, by all processes, and update the rates.

        Raises:
            ValueError: the number is negative, or the schedule is not by hours.
        """
        if not self.is_by_hours:
            raise ValueError(
                f"this {type(self).__name__} must be told epochs, but was told hours; call step_epoch, or take an Eden with "
                "lr_hours"
            )
        self.hours = _not_negative("hours", hours)
        self._set_rates()

    def get_last_lr(self) -> list[float]:
        """The current learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The current batch and epoch, or batch and hours, which are the whole state."""
        return {"batch": self.batch, **({"hours": self.hours} if self.is_by_hours else {"epoch": self.epoch})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict()` and update the rates.

        Raises:
            ValueError: the state is of a schedule by epochs and this one is by hours, or the other way round.
        """
        unit = "hours" if self.is_by_hours else "epoch"
        if unit not in state:
            raise ValueError(
                f"the state of the schedule must have the key {unit!r}, but has {', '.join(map(repr, state))}; create the "
                "schedule with the one of lr_epochs and lr_hours that it was saved with"
            )
        self.batch = state["batch"]
        setattr(self, unit, state[unit])
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self.factor(self.batch, self.hours if self.is_by_hours else self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class Eden(BatchEpochSchedule):
    """Eden, the published schedule: decays with the square root of both batches and epochs, or hours. See `eden_factor`.

    Exactly one of `lr_epochs` and `lr_hours` is given. With `lr_hours` the rate at a given batch depends on the audio alone
    that was processed so far, not on how large the corpus is; call `step_hours` for every batch, and not `step_epoch`.

    Args:
        optimizer: its groups' `lr` is the rate before all factors (0.045 published; 0.04 for the small model).
        lr_batches: batches B after which the rate starts to decay; published: 7500.
        lr_epochs: epochs E after which it starts to decay: 3.5 LibriSpeech, 1 GigaSpeech, 1.5 WenetSpeech, 18 AISHELL.
        lr_hours: hours of audio after which it starts to decay, in place of epochs.
        warmup_batches: length of the warm-up.      warmup_start: factor at batch 0.
    Raises:
        ValueError: both or neither of `lr_epochs` and `lr_hours` are given, or an argument is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float,
        lr_epochs: float | None = None,
        *,
        lr_hours: float | None = None,
        warmup_batches: float = WARMUP_BATCHES,
        warmup_start: float = WARMUP_START,
    ) -> None:
        if (lr_epochs is None) == (lr_hours is None):
            raise ValueError(f"one of lr_epochs and lr_hours must be given, but they are {lr_epochs} and {lr_hours}")
        self.lr_batches = positive("lr_batches", lr_batches)
        self.lr_epochs = None if lr_epochs is None else positive("lr_epochs", lr_epochs)
        self.lr_hours = None if lr_hours is None else positive("lr_hours", lr_hours)
        self.is_by_hours = lr_hours is not None
        self.warmup_batches = _not_negative("warmup_batches", warmup_batches)
        self.warmup_start = _fraction("warmup_start", warmup_start)
        super().__init__(optimizer)

    def factor(self, batch: int, epoch: float) -> float:
        """`eden_factor` with the arguments of this schedule; `epoch` is hours if it is by hours."""
        lr_epochs = self.lr_epochs if self.lr_hours is None else self.lr_hours
        assert lr_epochs is not None
        return eden_factor(
            batch,
            epoch,
            lr_batches=self.lr_batches,
            lr_epochs=lr_epochs,
            warmup_batches=self.warmup_batches,
            warmup_start=self.warmup_start,
        )


class Eden2(BatchEpochSchedule):
    """Eden2: decays with the number of batches alone; the epoch has no effect. Arguments as for `Eden`."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float,
        *,
        warmup_batches: float = WARMUP_BATCHES,
        warmup_start: float = WARMUP_START,
    ) -> None:
        self.lr_batches = positive("lr_batches", lr_batches)
        self.warmup_batches = _not_negative("warmup_batches", warmup_batches)
        self.warmup_start = _fraction("warmup_start", warmup_start)
        super().__init__(optimizer)

    def factor(self, batch: int, epoch: float) -> float:
        """`eden2_factor` with the arguments of this schedule."""
        return eden2_factor(
            batch, lr_batches=self.lr_batches, warmup_batches=self.warmup_batches, warmup_start=self.warmup_start
        )


def positive(name: str, value: N) -> N:
    """`value`; ValueError if it is not greater than 0."""
    if not value > 0:
        raise ValueError(f"{name} must be > 0, but is {value}")
    return value


def _not_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0, but is {value}")
    return value


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], but is {value}")
    return value
