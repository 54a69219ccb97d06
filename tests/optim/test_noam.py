"""Noam. Law: peak at the end of the warm-up, linear before, inverse square root after. Contract: resume, errors."""

import pytest
import torch
from torch import nn

from zipasr.optim import Noam, noam_factor


def make_schedule(lr: float = 7.5, warmup_batches: float = 10_000) -> Noam:
    return Noam(torch.optim.Adam([nn.Parameter(torch.zeros(2))], lr=lr), warmup_batches)


def test_formula() -> None:
    schedule = make_schedule()
    assert schedule.get_last_lr() == [0.0]
    for batch in (1, 100, 10_000, 250_000):
        schedule.step_batch(batch)
        want = 7.5 * 512**-0.5 * min(batch**-0.5, batch * 10_000**-1.5)
        assert schedule.get_last_lr() == pytest.approx([want], rel=1e-12)


def test_shape() -> None:
    rise = [noam_factor(b, warmup_batches=400) for b in (100, 200, 400)]
    assert rise == pytest.approx([rise[2] / 4, rise[2] / 2, rise[2]])
    assert noam_factor(1600, warmup_batches=400) == pytest.approx(rise[2] / 2)
    assert noam_factor(9, warmup_batches=400, model_dim=128) == pytest.approx(2 * noam_factor(9, warmup_batches=400))


def test_epoch_has_no_influence_and_resume() -> None:
    schedule, again = make_schedule(), make_schedule()
    schedule.step_batch(50)
    rates = schedule.get_last_lr()
    schedule.step_epoch(3)
    assert schedule.get_last_lr() == rates
    again.load_state_dict(schedule.state_dict())
    assert again.get_last_lr() == rates


def test_refuses() -> None:
    with pytest.raises(ValueError, match="warmup_batches must be > 0"):
        make_schedule(warmup_batches=0)
    with pytest.raises(ValueError, match="model_dim must be > 0"):
        Noam(torch.optim.SGD([nn.Parameter(torch.zeros(2))]), model_dim=0)
