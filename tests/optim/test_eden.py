"""Eden and Eden2. Golden: the published code's values. Law: schedule and function agree; warm-up; resume."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from zipasr.optim import Eden, Eden2, Noam, eden2_factor, eden_factor

GOLDEN = Path(__file__).parents[1] / "golden" / "c_eden.safetensors"


def make_optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(2))], "lr": rate} for rate in rates])


@pytest.mark.parametrize(("key", "name"), [("eden", "out.eden"), ("eden_warm1000", "out.eden_warm1000_0.1")])
def test_golden_eden(key: str, name: str) -> None:
    with safe_open(GOLDEN, "pt") as file:
        options = json.loads(file.metadata()["meta"])[key]
        batches, epochs, want = (file.get_tensor(n) for n in ("in.batch", "in.epoch", name))
    optimizer = make_optimizer(options.pop("lr"))
    schedule = Eden(optimizer, **options)
    for i, batch in enumerate(batches.tolist()):
        for j, epoch in enumerate(epochs.tolist()):
            schedule.step_epoch(epoch)
            schedule.step_batch(batch)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(float(want[i, j]), rel=1e-9)


def test_golden_eden2() -> None:
    with safe_open(GOLDEN, "pt") as file:
        options = json.loads(file.metadata()["meta"])["eden2"]
        batches, want = file.get_tensor("in.batch"), file.get_tensor("out.eden2")
    optimizer = make_optimizer(options.pop("lr"))
    schedule = Eden2(optimizer, **options)
    for batch, rate in zip(batches.tolist(), want.tolist(), strict=True):
        schedule.step_batch(batch)
        schedule.step_epoch(7.5)
        assert schedule.get_last_lr() == pytest.approx([rate], rel=1e-9)


@pytest.mark.parametrize(
    ("batch", "epoch", "rate"),
    [
        (1, 0, 0.00458100),
        (250, 0, 0.02474313),
        (500, 0, 0.04495014),
        (7500, 1, 0.03710522),
        (50000, 10, 0.00996161),
        (300000, 49, 0.00189888),
    ],
)
def test_published_values(batch: int, epoch: int, rate: float) -> None:
    factor = eden_factor(batch, epoch, lr_batches=7500, lr_epochs=3.5, warmup_start=0.1)
    assert 0.045 * factor == pytest.approx(rate, abs=5e-9)


def test_warmup_is_linear() -> None:
    factors = [eden2_factor(b, lr_batches=1e12, warmup_batches=100, warmup_start=0.2) for b in (0, 50, 100, 200)]
    assert factors == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert eden2_factor(0, lr_batches=10, warmup_batches=0) == 1.0


def test_sets_every_group_from_the_start() -> None:
    optimizer = make_optimizer(0.04, 0.01)
    schedule = Eden(optimizer, 100, 5, warmup_start=0.1)
    assert schedule.get_last_lr() == pytest.approx([0.004, 0.001])
    schedule.step_batch(600)
    assert schedule.get_last_lr()[0] == pytest.approx(4 * schedule.get_last_lr()[1])


@pytest.mark.parametrize("is_schedule_first", [True, False])
def test_resume(is_schedule_first: bool) -> None:
    optimizer = make_optimizer(0.04)
    schedule = Eden(optimizer, 100, 5)
    schedule.step_epoch(2.5)
    schedule.step_batch(777)
    saved, saved_schedule = optimizer.state_dict(), schedule.state_dict()
    assert saved_schedule == {"batch": 777, "epoch": 2.5}

    resumed = make_optimizer(0.04)
    if is_schedule_first:
        again = Eden(resumed, 100, 5)
        resumed.load_state_dict(saved)
    else:
        resumed.load_state_dict(saved)
        again = Eden(resumed, 100, 5)
    again.load_state_dict(saved_schedule)
    assert again.get_last_lr() == schedule.get_last_lr()
    for each in (schedule, again):
        each.step_batch(778)
    assert again.get_last_lr() == schedule.get_last_lr()


@given(batch=st.integers(0, 10**6), hours=st.floats(0, 1e6))
def test_by_hours(batch: int, hours: float) -> None:
    """Law: hours and `lr_hours` act as epochs and `lr_epochs` do; the factor of the published formula."""
    rates = []
    for options in ({"lr_epochs": 3.5}, {"lr_hours": 3.5}):
        schedule = Eden(make_optimizer(0.045), 7500, **options, warmup_start=0.1)
        (schedule.step_epoch if "lr_epochs" in options else schedule.step_hours)(hours)
        schedule.step_batch(batch)
        rates.append(schedule.get_last_lr())
    assert rates[0] == rates[1]
    factor = ((batch / 7500) ** 2 + 1) ** -0.25 * ((hours / 3.5) ** 2 + 1) ** -0.25
    warm = min(1.0, 0.1 + 0.9 * batch / 500)
    assert rates[0] == pytest.approx([0.045 * factor * warm], rel=1e-12)


def test_resume_by_hours() -> None:
    optimizer = make_optimizer(0.04)
    schedule = Eden(optimizer, 100, lr_hours=50_000)
    schedule.step_batch(777)
    schedule.step_hours(1234.56)
    assert schedule.state_dict() == {"batch": 777, "hours": 1234.56}
    resumed = make_optimizer(0.04)
    again = Eden(resumed, 100, lr_hours=50_000)
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(schedule.state_dict())
    assert again.get_last_lr() == schedule.get_last_lr()
    assert again.state_dict() == schedule.state_dict()


def test_epochs_and_hours_are_not_mixed_up() -> None:
    by_epochs, by_hours = Eden(make_optimizer(0.04), 100, 5), Eden(make_optimizer(0.04), 100, lr_hours=5)
    with pytest.raises(ValueError, match="must be told hours, but was told epochs; call step_hours"):
        by_hours.step_epoch(1)
    for schedule in (by_epochs, Eden2(make_optimizer(0.04), 100), Noam(make_optimizer(7.5))):
        with pytest.raises(ValueError, match="must be told epochs, but was told hours; call step_epoch"):
            schedule.step_hours(1)
    with pytest.raises(ValueError, match="must have the key 'hours', but has 'batch', 'epoch'"):
        by_hours.load_state_dict(by_epochs.state_dict())
    with pytest.raises(ValueError, match="must have the key 'epoch', but has 'batch', 'hours'"):
        by_epochs.load_state_dict(by_hours.state_dict())
    assert (by_hours.batch, by_hours.hours) == (0, 0.0)
    for options in ({}, {"lr_epochs": 5, "lr_hours": 5}):
        with pytest.raises(ValueError, match="one of lr_epochs and lr_hours must be given"):
            Eden(make_optimizer(0.04), 100, **options)
    with pytest.raises(ValueError, match="lr_hours must be > 0"):
        Eden(make_optimizer(0.04), 100, lr_hours=0)
    with pytest.raises(ValueError, match="hours must be >= 0"):
        by_hours.step_hours(-1)


def test_refuses() -> None:
    optimizer = make_optimizer(0.04)
    with pytest.raises(ValueError, match="lr_batches must be > 0"):
        Eden(optimizer, 0, 3.5)
    with pytest.raises(ValueError, match="lr_epochs must be > 0"):
        Eden(optimizer, 10, -1)
    with pytest.raises(ValueError, match=r"warmup_start must be in \[0, 1\]"):
        Eden2(optimizer, 10, warmup_start=1.5)
    with pytest.raises(ValueError, match="batch must be >= 0"):
        Eden2(optimizer, 10).step_batch(-1)
    with pytest.raises(ValueError, match="epoch must be >= 0"):
        Eden2(optimizer, 10).step_epoch(-0.5)
