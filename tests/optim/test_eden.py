"""Eden and Eden2. Golden: the published code's values. Law: schedule and function agree; warm-up; resume."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from zipasr.optim import Eden, Eden2, eden2_factor, eden_factor

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
