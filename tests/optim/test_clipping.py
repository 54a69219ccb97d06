"""Clipping in ScaledAdam. Law: a group with gradients in few of the steps learns, a gradient that is not finite changes
nothing, and clipping may be enabled at any step. Reference: the thresholds by hand."""

import math

import pytest
import torch
from torch import nn

from zipasr.optim import ScaledAdam


def stepped(optimizer: ScaledAdam, parameter: nn.Parameter, norms: list[float | None]) -> list[float]:
    """The factor of each step with a gradient of this norm, weighted by the size of the parameter; None: no gradient."""
    factors = []
    for norm in norms:
        parameter.grad = None
        if norm is not None:
            rms = float(optimizer.state[parameter].get("param_rms", parameter.detach().square().mean().sqrt()))
            parameter.grad = torch.full_like(parameter, norm / rms / math.sqrt(parameter.numel()))
        optimizer.step()
        factors.append(optimizer.last_clip_factor)
    return factors


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(4, dtype=torch.float64))


def test_group_with_few_gradients_learns() -> None:
    """Every third step has a gradient, so most norms are 0; the threshold is the median of the others."""
    p = parameter()
    optimizer = ScaledAdam([p], clipping_scale=2.0)
    stepped(optimizer, p, [3.0, None, None] * 4)
    assert optimizer.model_norm_threshold == pytest.approx(2 * 2.0 * 3.0)
    start = p.detach().clone()
    factors = stepped(optimizer, p, [3.0, None, None] * 40)
    assert optimizer.model_norm_threshold == pytest.approx(2.0 * 3.0)
    assert factors == [1.0] * 120
    assert (p - start).abs().min() > 0.1
    assert stepped(optimizer, p, [24.0]) == [pytest.approx(0.25)]


def test_first_gradient_after_many_steps_without_is_kept() -> None:
    p = parameter()
    optimizer = ScaledAdam([p], clipping_scale=2.0)
    assert stepped(optimizer, p, [None] * 26) == [1.0] * 26
    assert optimizer.model_norm_threshold == math.inf
    assert optimizer.num_clipped == 0
    assert stepped(optimizer, p, [5.0]) == [1.0]
    assert (p != 1.0).all()


def test_threshold_stays_where_all_gradients_are_missing() -> None:
    p = parameter()
    optimizer = ScaledAdam([p], clipping_scale=2.0)
    stepped(optimizer, p, [3.0] * 12)
    stepped(optimizer, p, [None] * 190)
    assert optimizer.model_norm_threshold == pytest.approx(2.0 * 3.0)  # of step 100, where few were left
    stepped(optimizer, p, [None] * 100)
    assert optimizer.model_norm_threshold == pytest.approx(2.0 * 3.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_first_gradient_that_is_not_finite_is_dropped(bad: float) -> None:
    p = parameter()
    optimizer = ScaledAdam([p], clipping_scale=2.0)
    p.grad = torch.tensor([1.0, bad, 1.0, 1.0], dtype=torch.float64)
    optimizer.step()
    assert optimizer.last_clip_factor == 0.0
    assert torch.equal(p, torch.ones_like(p))
    stepped(optimizer, p, [3.0] * 10)
    assert optimizer.model_norm_threshold == pytest.approx(2 * 2.0 * 3.0)
    assert p.isfinite().all() and (p != 1.0).all()


@pytest.mark.parametrize(("start", "end"), [(1, 11), (6, 11), (149, 201)])
def test_clipping_may_be_enabled_later(start: int, end: int) -> None:
    """The first threshold is the median of the norms since then; slots of earlier steps do not count."""
    p = parameter()
    optimizer = ScaledAdam([p])
    stepped(optimizer, p, [100.0] * start)
    optimizer.param_groups[0]["clipping_scale"] = 2.0
    norms = [float(n) for n in range(1, end - start + 1)]
    assert stepped(optimizer, p, list(norms))[:-1] == [1.0] * (len(norms) - 1)
    median = norms[min(len(norms) - 1, len(norms) // 4 * 2)]
    assert optimizer.model_norm_threshold == pytest.approx(2.0 * median * (2 if end == 11 else 1))
