"""Eden and Eden2: the learning rate as a function of batches, epochs and a short warm-up. Numbers in, numbers out.

A schedule multiplies the first learning rate of every parameter group (`initial_lr`) by a factor. Order in a training
step: loss.backward(), schedule.step_batch(b), optimizer.step(); b counts from 1 for the first batch of the run and is
never reset. Call step_epoch(e) at the start of every epoch, e = 0 in the first; e may be fractional (for example hours
of audio heard over a reference number of hours).

Source: Yao et al. 2024, arXiv:2310.11230 (Eden); Eden2 comes from the published training code.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch.optim import Optimizer

WARMUP_BATCHES = 500.0  # arXiv:2310.11230
WARMUP_START = 0.5  # as above; the present LibriSpeech recipe uses 0.1


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
    """Sets the rate of each parameter group to its `initial_lr` times `factor(batch, epoch)`.

    `initial_lr` is the group's `lr` when the first schedule is made for it; it is kept in the group, so a checkpoint of
    the optimizer carries it, and a schedule made after loading one goes on from the right rate.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.batch = 0
        self.epoch = 0.0
        self._set_rates()

    @abstractmethod
    def factor(self, batch: int, epoch: float) -> float:
        """What the initial rate is multiplied by."""

    def step_batch(self, batch: int) -> None:
        """Set the number of the present batch, counted over the whole run, and the rates."""
        self.batch = int(_not_negative("batch", batch))
        self._set_rates()

    def step_epoch(self, epoch: float) -> None:
        """Set the number of epochs finished, which may be fractional, and the rates."""
        self.epoch = _not_negative("epoch", epoch)
        self._set_rates()

    def get_last_lr(self) -> list[float]:
        """The present rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The batch and the epoch: all that changes."""
        return {"batch": self.batch, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`, and set the rates."""
        self.batch, self.epoch = state["batch"], state["epoch"]
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self.factor(self.batch, self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class Eden(BatchEpochSchedule):
    """Falls with the square root of both batches and epochs; the published schedule. See `eden_factor`.

    Args:
        optimizer: its groups' `lr` is the rate before all factors (0.045 published; 0.04 for the small model).
        lr_batches: batches B after which the rate begins to fall, 7500 published.
        lr_epochs: epochs E after which it begins to fall: 3.5 LibriSpeech, 1 GigaSpeech, 1.5 WenetSpeech, 18 AISHELL.
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
        self.lr_batches = _positive("lr_batches", lr_batches)
        self.lr_epochs = _positive("lr_epochs", lr_epochs)
        self.warmup_batches = _not_negative("warmup_batches", warmup_batches)
        self.warmup_start = _fraction("warmup_start", warmup_start)
        super().__init__(optimizer)

    def factor(self, batch: int, epoch: float) -> float:
        """`eden_factor` with this schedule's lengths."""
        return eden_factor(
            batch,
            epoch,
            lr_batches=self.lr_batches,
            lr_epochs=self.lr_epochs,
            warmup_batches=self.warmup_batches,
            warmup_start=self.warmup_start,
        )


class Eden2(BatchEpochSchedule):
    """Falls with the number of batches alone; the epoch has no influence. Arguments as for `Eden`."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float,
        *,
        warmup_batches: float = WARMUP_BATCHES,
        warmup_start: float = WARMUP_START,
    ) -> None:
        self.lr_batches = _positive("lr_batches", lr_batches)
        self.warmup_batches = _not_negative("warmup_batches", warmup_batches)
        self.warmup_start = _fraction("warmup_start", warmup_start)
        super().__init__(optimizer)

    def factor(self, batch: int, epoch: float) -> float:
        """`eden2_factor` with this schedule's lengths."""
        return eden2_factor(
            batch, lr_batches=self.lr_batches, warmup_batches=self.warmup_batches, warmup_start=self.warmup_start
        )


def _positive(name: str, value: float) -> float:
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
