"""Golden: the original's schedule. Law: linear between points, constant beyond. Contract: which modules `set_step`
reaches."""

import pytest
import torch
from torch import nn

from tests.golden_files import load_golden
from zipasr.nn.schedule import Schedule, ScheduledModule, set_step

DROPOUT = Schedule(((0.0, 0.3), (20000.0, 0.1)), default=0.7)


def test_values_equal_golden() -> None:
    _, golden = load_golden("b_misc_grads")
    values = [DROPOUT(step) for step in (0, 1, 5000, 10000, 19999, 20000, 50000)]
    torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), golden["out.scheduled_float"])


def test_is_exact_at_points_linear_between_and_constant_beyond() -> None:
    schedule = Schedule(((10.0, 1.0), (20.0, 3.0), (40.0, -1.0)))
    assert [schedule(step) for step in (-5.0, 0.0, 10.0, 20.0, 40.0, 1e9)] == [1.0, 1.0, 1.0, 3.0, -1.0, -1.0]
    assert schedule(15.0) == pytest.approx(2.0)
    assert schedule(35.0) == pytest.approx(0.0)


def test_one_point_is_a_constant() -> None:
    assert Schedule(((7.0, 2.0),))(0.0) == Schedule(((7.0, 2.0),))(8.0) == 2.0


@pytest.mark.parametrize("points", [(), ((1.0, 0.0), (1.0, 1.0)), ((2.0, 0.0), (1.0, 1.0))])
def test_steps_must_rise(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        Schedule(points)


def test_default_holds_in_eval_and_before_the_first_step() -> None:
    module = ScheduledModule()
    assert module.value(DROPOUT) == 0.7
    module.step = 10000.0
    assert module.value(DROPOUT) == pytest.approx(0.2)
    assert module.eval().value(DROPOUT) == 0.7
    assert module.train().value(DROPOUT) == pytest.approx(0.2)


def test_a_number_is_its_own_value() -> None:
    assert ScheduledModule().eval().value(0.25) == 0.25


def test_set_step_reaches_every_scheduled_module() -> None:
    inner = ScheduledModule()
    model = nn.Sequential(nn.Linear(1, 1), nn.ModuleList([ScheduledModule(), nn.Sequential(inner)]))
    set_step(model, 123.0)
    steps = [module.step for module in model.modules() if isinstance(module, ScheduledModule)]
    assert steps == [123.0, 123.0]
    assert inner.step == 123.0


def test_the_step_is_not_part_of_the_state() -> None:
    module = ScheduledModule()
    set_step(module, 5.0)
    assert module.state_dict() == {}
