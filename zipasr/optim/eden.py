"""Eden and Eden2: learning-rate schedules over batches and epochs, with a short warm-up. Numbers in, numbers out.

A schedule multiplies the initial learning rate of every parameter group (`initial_lr`) by a factor. Order in a training
step: loss.backward(), schedule.step_batch(b), optimizer.step(); b is 1 for the first batch of the run and is never
reset. Call step_epoch(e) at the start of every epoch, with e = 0 for the first; e may be fractional (for example the
hours of audio processed so far, divided by a reference number of hours).

Source: Yao et al. 2024, arXiv:2310.11230 (Eden); Eden2 comes from the published training code.
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
    """((b^2 + B^2) / B^2)^(-1/4) * ((e^2 + E^2) / E^2)^(-1/4) * warm-up, the last rising linearly to 1."""
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

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.batch = 0
        self.epoch = 0.0
        self._set_rates()

    @abstractmethod
    def factor(self, batch: int, epoch: float) -> float:
        """Factor on the initial rate at this batch and epoch."""

    def step_batch(self, batch: int) -> None:
        """Set the current batch, counted over the whole run, and update the rates."""
        self.batch = int(_not_negative("batch", batch))
        self._set_rates()

    def step_epoch(self, epoch: float) -> None:
        """Set the number of finished epochs, which may be fractional, and update the rates."""
        self.epoch = _not_negative("epoch", epoch)
        self._set_rates()

    def get_last_lr(self) -> list[float]:
        """The current learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The current batch and epoch, which are the whole state."""
        return {"batch": self.batch, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict()` and update the rates."""
        self.batch, self.epoch = state["batch"], state["epoch"]
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self.factor(self.batch, self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class Eden(BatchEpochSchedule):
    """Eden, the published schedule: decays with the square root of both batches and epochs. See `eden_factor`.

    Args:
        optimizer: its groups' `lr` is the rate before all factors (0.045 published; 0.04 for the small model).
        lr_batches: batches B after which the rate starts to decay; published: 7500.
        lr_epochs: epochs E after which it starts to decay: 3.5 LibriSpeech, 1 GigaSpeech, 1.5 WenetSpeech, 18 AISHELL.
        warmup_batches: length of the warm-up.      warmup_start: factor at batch 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float,
        lr_epochs: float,
        *,
        warmup_batches: float = WARMUP_BATCHES,
        warmup_start: float = WARMUP_START,
    ) -> None:
        self.lr_batches = positive("lr_batches", lr_batches)
        self.lr_epochs = positive("lr_epochs", lr_epochs)
        self.warmup_batches = _not_negative("warmup_batches", warmup_batches)
        self.warmup_start = _fraction("warmup_start", warmup_start)
        super().__init__(optimizer)

    def factor(self, batch: int, epoch: float) -> float:
        """`eden_factor` with the arguments of this schedule."""
        return eden_factor(
            batch,
            epoch,
            lr_batches=self.lr_batches,
            lr_epochs=self.lr_epochs,
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
