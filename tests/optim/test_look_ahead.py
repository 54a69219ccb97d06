"""Looking ahead. Law: it leads where steps with gradients of zero lead, and back to the same bits."""

import pytest
import torch
from torch import nn

from zipasr.optim import ScaledAdam
from zipasr.optim.look_ahead import looking_ahead


def trained(num_steps: int) -> tuple[list[nn.Parameter], ScaledAdam]:
    """Parameters of every kind after some steps, sizes updated rarely and one gradient clipped."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (), (5,), (1,), (2, 2, 2))
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    params[2].data.zero_()  # its rms is below the smallest that is assumed
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.1}]
    optimizer = ScaledAdam(groups, lr=0.03, clipping_scale=2.0, size_update_period=1000)
    for _ in range(num_steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_leads_where_steps_without_gradients_lead(num_steps: int) -> None:
    params, optimizer = trained(15)
    before = [p.detach().clone() for p in params]
    with looking_ahead(optimizer, num_steps):
        ahead = [p.detach().clone() for p in params]
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    for _ in range(num_steps):
        optimizer.zero_grad()
        optimizer.step()
    for p, there, old in zip(params, ahead, before, strict=True):
        torch.testing.assert_close(there, p, rtol=1e-6, atol=1e-7)
        assert not torch.equal(there, old)


def test_leads_nowhere_before_the_first_step_and_for_none() -> None:
    for num_trained, num_steps in ((0, 2), (3, 0)):
        params, optimizer = trained(num_trained)
        before = [p.detach().clone() for p in params]
        with looking_ahead(optimizer, num_steps):
            assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


def test_goes_back_after_an_error() -> None:
    params, optimizer = trained(3)
    before = [p.detach().clone() for p in params]
    with pytest.raises(MemoryError), looking_ahead(optimizer, 1):
        raise MemoryError
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
