"""Law: expectation, sharing over time, schedule, identity in eval. Contract: same dtype in and out; same seed, same mask."""

import pytest
import torch

from tests.golden_files import seeded
from zipasr.nn.dropout import DROPOUT, Dropout, sequence_mask
from zipasr.nn.schedule import set_step


def test_published_rate_falls_and_is_off_in_eval() -> None:
    assert (DROPOUT(0.0), DROPOUT(20000.0), DROPOUT.default) == (0.3, 0.1, 0.0)


@pytest.mark.parametrize("is_shared_over_time", [False, True])
def test_drops_with_its_rate_and_rescales(is_shared_over_time: bool) -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25, is_shared_over_time=is_shared_over_time)
    y = dropout(torch.ones(50, 20, 40))
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    is_constant = bool((y == y[:, :1]).all())
    assert is_constant == is_shared_over_time


@pytest.mark.parametrize("is_shared_over_time", [False, True])
def test_identity_in_eval_and_at_rate_zero(is_shared_over_time: bool) -> None:
    x = seeded(2, 3, 4)
    assert Dropout(0.5, is_shared_over_time=is_shared_over_time).eval()(x) is x
    assert Dropout(0.0, is_shared_over_time=is_shared_over_time)(x) is x
    assert Dropout(DROPOUT, is_shared_over_time=is_shared_over_time)(x) is x  # no step was set


def test_follows_its_schedule() -> None:
    dropout = Dropout(DROPOUT, is_shared_over_time=True)
    for step, rate in ((0.0, 0.3), (10000.0, 0.2), (30000.0, 0.1)):
        torch.manual_seed(0)
        set_step(dropout, step)
        assert (dropout(torch.ones(200, 1, 100)) == 0).float().mean().item() == pytest.approx(rate, abs=0.02)


def test_gradient_is_that_of_the_mask() -> None:
    dropout = Dropout(0.5, is_shared_over_time=True)
    x = seeded(2, 3, 50).requires_grad_()
    y = dropout(x)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(y != 0, 2.0, 0.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("is_shared_over_time", [False, True])
def test_keeps_the_type(dtype: torch.dtype, is_shared_over_time: bool) -> None:
    assert Dropout(0.5, is_shared_over_time=is_shared_over_time)(torch.ones(2, 3, 4, dtype=dtype)).dtype == dtype


def test_same_seed_same_mask() -> None:
    dropout, x = Dropout(0.5, is_shared_over_time=True), seeded(2, 3, 4)
    torch.manual_seed(5)
    first = dropout(x)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x))


@pytest.mark.parametrize("shape", [(4000, 7, 3), (4000, 2, 3, 5)])
def test_sequence_mask_switches_whole_sequences_off_without_rescaling(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mask = sequence_mask(torch.zeros(shape, dtype=torch.float16), 0.2)
    assert mask.shape == (4000,) + (1,) * (len(shape) - 1)
    assert mask.dtype == torch.float16
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.float().mean().item() == pytest.approx(0.8, abs=0.03)
