"""Golden: BiasNorm of the original, value and gradient. Reference: the formula by autograd. Law: gradcheck; same dtype in
and out; outside the limits of the scale, its gradient only leads back into them."""

import math

import pytest
import torch
from torch import Tensor

from tests.golden_files import assert_close_to, load_golden, seeded
from zipasr.nn.norm import BiasNorm


def slow_bias_norm(x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
    return x * (x - bias).square().mean(-1, keepdim=True).rsqrt() * log_scale.exp()


@pytest.mark.parametrize("case", ["last", "store", "dim1"])
def test_equals_golden(case: str) -> None:
    _, golden = load_golden("a_biasnorm")

    def channels_last(x: Tensor) -> Tensor:
        return x.movedim(1, -1) if case == "dim1" else x

    norm = BiasNorm(golden[f"w.{case}.bias"].numel())
    norm.load_state_dict({name: golden[f"w.{case}.{name}"].reshape(p.shape) for name, p in norm.named_parameters()})
    norm.eval()
    x = channels_last(golden[f"in.{case}.x"]).clone().requires_grad_()
    y = norm(x)
    y.backward(channels_last(golden[f"in.{case}.y_grad"]))
    assert x.grad is not None
    assert norm.bias.grad is not None
    assert norm.log_scale.grad is not None
    assert_close_to(y, channels_last(golden[f"out.{case}.y"]))
    assert_close_to(x.grad, channels_last(golden[f"grad.{case}.x"]))
    assert_close_to(norm.bias.grad, golden[f"grad.{case}.bias"].flatten())
    assert_close_to(norm.log_scale.grad, golden[f"grad.{case}.log_scale"])


@pytest.mark.parametrize("case", range(4))
def test_gradient_of_the_scale_may_only_lead_back_into_its_limits(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, golden = load_golden("a_biasnorm")
    monkeypatch.setattr("zipasr.nn.constraint.chance", lambda prob: prob > 0.0)
    norm = BiasNorm(8).train()
    with torch.no_grad():
        norm.bias.zero_()
        norm.log_scale.copy_(golden[f"in.limit{case}.log_scale"])
    y = norm(golden[f"in.limit{case}.x"])
    (golden[f"in.limit{case}.sign"] * (y * y).sum()).backward()
    assert norm.log_scale.grad is not None
    assert_close_to(norm.log_scale.grad, golden[f"grad.limit{case}.log_scale"])


def test_without_gradient_the_value_is_the_same() -> None:
    norm = BiasNorm(16).eval()
    x = seeded(3, 5, 16)
    with torch.no_grad():
        plain = norm(x)
    torch.testing.assert_close(norm(x), plain)
    torch.testing.assert_close(plain, slow_bias_norm(x, norm.bias, norm.log_scale))


def test_gradcheck_and_reference_in_float64() -> None:
    norm = BiasNorm(6).double().eval()
    x = seeded(2, 3, 6, dtype=torch.float64).requires_grad_()
    bias = (0.3 * seeded(6, seed=1, dtype=torch.float64)).requires_grad_()
    log_scale = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def ours(x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"bias": bias, "log_scale": log_scale}, (x,))

    assert ours(x, bias, log_scale).dtype == torch.float64
    torch.testing.assert_close(ours(x, bias, log_scale), slow_bias_norm(x, bias, log_scale), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, bias, log_scale), slow_bias_norm(x, bias, log_scale), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, (x, bias, log_scale))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_half_precision_keeps_its_type(dtype: torch.dtype, needs_grad: bool) -> None:
    norm = BiasNorm(16).to(dtype)
    x = (100.0 * seeded(4, 16)).to(dtype).requires_grad_(needs_grad)  # squares overflow float16
    y = norm(x)
    assert y.dtype == dtype
    expected = slow_bias_norm(x.detach().float(), norm.bias.detach().float(), norm.log_scale.detach().float())
    torch.testing.assert_close(y.float(), expected, rtol=1e-2, atol=1e-2)
    if needs_grad:
        y.float().sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
        assert norm.bias.grad is not None
        assert norm.bias.grad.dtype == dtype


def test_starts_as_the_original() -> None:
    torch.manual_seed(0)
    norm = BiasNorm(10000)
    assert norm.log_scale.item() == 1.0
    assert norm.bias.std().item() == pytest.approx(1e-4, rel=0.05)


def test_the_length_of_the_output_is_the_scale_where_the_bias_is_zero() -> None:
    norm = BiasNorm(16).eval()
    with torch.no_grad():
        norm.bias.zero_()
    rms = norm(seeded(50, 16)).square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, math.e))
