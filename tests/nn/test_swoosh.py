"""Golden: values and gradients of the original's activations and of its activation + dropout + linear. Reference: the
formula in float64; Linear(Dropout(Swoosh)) by autograd. Law: gradcheck; same dtype in and out; zeros and minima."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.golden_files import assert_close_to, batch_first, load_golden, seeded, weights
from zipasr.nn.schedule import Schedule, set_step
from zipasr.nn.swoosh import SwooshL, SwooshLinear, SwooshR, scaled_linear, swoosh_left, swoosh_right

FUNCTIONS = {"l": swoosh_left, "r": swoosh_right}
NAMES = {"swoosh_left": "adl_SwooshL", "swoosh_right": "adl_SwooshR"}
HALF = (torch.float16, torch.bfloat16)


def slow_swoosh(x: Tensor, name: str) -> Tensor:
    """The formula, literally."""
    shift, offset = {"swoosh_left": (4.0, 0.035), "swoosh_right": (1.0, 0.313261687)}[name]
    return torch.logaddexp(x - shift, torch.zeros_like(x)) - 0.08 * x - offset


@pytest.mark.parametrize("side", ["l", "r"])
@pytest.mark.parametrize("kind", ["eval", "train", "forward", "forward2", "adl_eval"])
def test_values_equal_golden(side: str, kind: str) -> None:
    _, golden = load_golden("a_swoosh")
    x, expected = golden["in.x"], golden[f"out.{side}_{kind}"]
    # The original's own variants scatter by 6.4e-6 around the float64 formula, where |x| is near 100.
    torch.testing.assert_close(FUNCTIONS[side](x), expected, rtol=0.0, atol=1.3e-5)
    torch.testing.assert_close(FUNCTIONS[side](x.clone().requires_grad_()), expected, rtol=0.0, atol=1.3e-5)


@pytest.mark.parametrize("side", ["l", "r"])
def test_float64_equals_the_formula(side: str) -> None:
    _, golden = load_golden("a_swoosh")
    y = FUNCTIONS[side](golden["in.x"].double())
    torch.testing.assert_close(y, golden[f"out.{side}_float64_formula"].double(), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("side", ["l", "r"])
def test_gradient_is_exact_where_the_original_rounds_at_random(side: str) -> None:
    _, golden = load_golden("a_swoosh")
    x = golden["in.x"].clone().requires_grad_()
    FUNCTIONS[side](x).sum().backward()
    assert x.grad is not None
    assert_close_to(x.grad, golden[f"out.{side}_deriv_exact"], 2e-6)
    step = 1.005 / 255
    assert (x.grad - golden[f"grad.{side}_quantized_seed7"]).abs().max() <= step * 1.01
    assert (x.grad - golden[f"grad.{side}_quantized_mean400"]).abs().max() <= 5 * step / math.sqrt(12 * 400) * 2


def test_zeros_and_minima() -> None:
    x = torch.tensor([0.0, -1.4423470, 1.5576530], dtype=torch.float64)
    assert swoosh_right(x)[0].item() == pytest.approx(0.0, abs=1e-9)
    assert swoosh_left(x)[0].item() == pytest.approx(-0.01685, abs=1e-5)
    assert swoosh_right(x)[1].item() == pytest.approx(-0.1144923, abs=1e-7)
    assert swoosh_left(x)[2].item() == pytest.approx(-0.0762306, abs=1e-7)


@pytest.mark.parametrize("function", [swoosh_left, swoosh_right])
def test_gradcheck(function: Callable[[Tensor], Tensor]) -> None:
    x = (3.0 * seeded(4, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("needs_grad", [False, True])
def test_half_precision_keeps_its_type_and_is_computed_in_float32(dtype: torch.dtype, needs_grad: bool) -> None:
    x = (5.0 * seeded(100)).to(dtype).requires_grad_(needs_grad)
    y = swoosh_left(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, swoosh_left(x.detach().float()).to(dtype), rtol=0.0, atol=0.0)
    if needs_grad:
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype


def test_large_inputs_stay_finite() -> None:
    x = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    y = swoosh_right(x)
    y.sum().backward()
    assert x.grad is not None
    assert y.isfinite().all()
    torch.testing.assert_close(x.grad, torch.tensor([-0.08, -0.08, 0.92, 0.92]))


@pytest.mark.parametrize("side", ["l", "r"])
def test_large_tensors_of_inference_equal_small_ones(side: str) -> None:
    """Large tensors take another path without gradients, up to the ends of the range."""
    x = torch.cat([4.0 * seeded(2**14), torch.tensor([-1e30, -1e4, -90.0, 19.99, 25.0, 90.0, 1e4, 1e30, math.nan])])
    slow = FUNCTIONS[side](x.clone().requires_grad_()).detach()
    shift, offset = {"l": (4.0, 0.035), "r": (1.0, 0.313261687)}[side]
    assert torch.equal(slow[:-1], (functional.softplus(x - shift).add_(x, alpha=-0.08).sub_(offset))[:-1])
    with torch.no_grad():
        fast = FUNCTIONS[side](x)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=5e-7, equal_nan=True)
    assert not torch.equal(fast[:-1], slow[:-1])


def test_modules_are_the_functions() -> None:
    x = seeded(3, 4)
    torch.testing.assert_close(SwooshL()(x), swoosh_left(x))
    torch.testing.assert_close(SwooshR()(x), swoosh_right(x))


def golden_linear(activation: str) -> tuple[SwooshLinear, dict[str, Tensor]]:
    _, golden = load_golden("b_misc_grads")
    own = weights(golden, f"w.{NAMES[activation]}.")
    linear = SwooshLinear(12, 7, activation)
    linear.load_state_dict(own)
    return linear, golden


@pytest.mark.parametrize("activation", ["swoosh_left", "swoosh_right"])
def test_swoosh_linear_equals_golden(activation: str) -> None:
    linear, golden = golden_linear(activation)
    name = NAMES[activation]
    x = batch_first(golden[f"in.{name}.x"]).clone().requires_grad_()
    y = linear(x)
    y.backward(batch_first(golden[f"in.{name}.y_grad"]))
    assert x.grad is not None
    assert linear.weight.grad is not None
    assert linear.bias.grad is not None
    assert_close_to(y, batch_first(golden[f"out.{name}.y"]))
    assert_close_to(x.grad, batch_first(golden[f"grad.{name}.x"]))
    assert_close_to(linear.weight.grad, golden[f"grad.{name}.weight"])
    assert_close_to(linear.bias.grad, golden[f"grad.{name}.bias"])
    with torch.no_grad():
        assert_close_to(linear.eval()(x), batch_first(golden[f"out.{name}.y_eval"]))


@pytest.mark.parametrize("activation", ["swoosh_left", "swoosh_right"])
def test_swoosh_linear_with_dropout_equals_golden(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, golden = golden_linear(activation)
    name = NAMES[activation]
    mask = batch_first(golden[f"in.{name}.drop_mask_scaled"])
    linear.dropout = 1.0 - 1.0 / mask.max().item()
    monkeypatch.setattr(torch, "rand", lambda *shape, device: (mask > 0).float().reshape(shape))
    x = batch_first(golden[f"in.{name}.x"]).clone().requires_grad_()
    y = linear(x)
    y.backward(batch_first(golden[f"in.{name}.y_grad"]))
    assert x.grad is not None
    assert linear.weight.grad is not None
    assert linear.bias.grad is not None
    assert_close_to(y, batch_first(golden[f"out.{name}.drop_y"]))
    assert_close_to(x.grad, batch_first(golden[f"grad.{name}.drop_x"]))
    assert_close_to(linear.weight.grad, golden[f"grad.{name}.drop_weight"])
    assert_close_to(linear.bias.grad, golden[f"grad.{name}.drop_bias"])


@pytest.mark.parametrize("activation", ["swoosh_left", "swoosh_right"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_swoosh_linear_equals_linear_of_dropout_of_swoosh(activation: str, dropout: float) -> None:
    linear = SwooshLinear(6, 4, activation, dropout=dropout).double()
    x = (3.0 * seeded(2, 5, 6, dtype=torch.float64)).requires_grad_()

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(3)
        return torch.func.functional_call(linear, {"weight": weight, "bias": bias}, (x,))

    def slow(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(3)
        hidden = slow_swoosh(x, activation)
        if dropout:
            hidden = hidden * (torch.rand(2, 1, 6) > dropout) / (1.0 - dropout)
        return functional.linear(hidden, weight, bias)

    arguments = (x, linear.weight, linear.bias)
    torch.testing.assert_close(ours(*arguments), slow(*arguments))
    assert torch.autograd.gradcheck(ours, arguments)
    y_grad = seeded(2, 5, 4, seed=1, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad(ours(*arguments), arguments, y_grad),
        torch.autograd.grad(slow(*arguments), arguments, y_grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_dropout_of_swoosh_linear_is_shared_over_time_and_follows_its_schedule() -> None:
    linear = SwooshLinear(64, 64, "swoosh_left", dropout=Schedule(((0.0, 0.5), (10.0, 0.0))))
    with torch.no_grad():
        linear.weight.copy_(torch.eye(64))
        linear.bias.zero_()
    x = seeded(8, 5, 64)
    kept = linear(x) != 0
    assert kept.all()  # no step was set
    set_step(linear, 0.0)
    kept = linear(x) != 0
    assert (kept == kept[:, :1]).all()
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(linear(x).mean(), swoosh_left(x).mean(), atol=0.1, rtol=0.0)
    set_step(linear, 10.0)
    torch.testing.assert_close(linear(x), swoosh_left(x))
    set_step(linear, 0.0)
    torch.testing.assert_close(linear.eval()(x), swoosh_left(x))


@pytest.mark.parametrize("dtype", HALF)
def test_swoosh_linear_in_half_precision_gives_gradients_of_the_types_of_its_inputs(dtype: torch.dtype) -> None:
    linear = SwooshLinear(8, 4, "swoosh_right", dropout=0.2)
    x = seeded(2, 3, 8).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = linear(x)
    y.float().square().sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert linear.weight.grad is not None
    assert x.grad.dtype == dtype
    assert linear.weight.grad.dtype == torch.float32


def test_scaled_linear_is_initialized_as_in_the_original() -> None:
    _, golden = load_golden("b_misc_grads")
    torch.manual_seed(5)
    linear = scaled_linear(12, 7, 0.25)
    # Without vector instructions, PyTorch draws numbers that differ in the last bit.
    torch.testing.assert_close(linear.weight, golden["out.scaled_linear_seed5.weight"], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(linear.bias, golden["out.scaled_linear_seed5.bias"], rtol=1e-6, atol=0.0)
    assert scaled_linear(3, 4, 0.05, bias=False).bias is None


def test_scaled_linear_equals_golden() -> None:
    _, golden = load_golden("b_misc_grads")
    torch.manual_seed(5)
    linear = scaled_linear(12, 7, 0.25)
    x = golden["in.sl.x"].clone().requires_grad_()
    y = linear(x)
    y.backward(golden["in.sl.y_grad"])
    assert x.grad is not None
    assert linear.weight.grad is not None
    assert_close_to(y, golden["out.sl.y"])
    assert_close_to(x.grad, golden["grad.sl.x"])
    assert_close_to(linear.weight.grad, golden["grad.sl.weight"])


def test_swoosh_linear_starts_like_a_scaled_linear() -> None:
    torch.manual_seed(5)
    expected = scaled_linear(12, 7, 0.1)
    torch.manual_seed(5)
    linear = SwooshLinear(12, 7, "swoosh_left", init_scale=0.1)
    torch.testing.assert_close(linear.weight, expected.weight)
    assert linear.bias.abs().max() <= 0.01
