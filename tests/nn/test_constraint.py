"""Golden: the gradients of the original's constraints. Reference: the penalties of Balancer and Whiten by autograd. Law:
identity in value, identity in eval, exact size of the added gradient, same dtype in and out, finite on any input."""

import copy
import math

import pytest
import torch
from torch import Tensor

from tests.golden_files import assert_close_to, load_golden, seeded
from zipasr.nn import constraint
from zipasr.nn.constraint import Balancer, Whiten, chance, limit_param_value, penalize_abs, scale_grad
from zipasr.nn.schedule import Schedule, set_step

BALANCER_SETTINGS = load_golden("b_balancer")[0]["configs"]
WHITEN_SETTINGS = load_golden("b_whiten")[0]["configs"]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every event with a positive probability happen."""
    monkeypatch.setattr(constraint, "chance", lambda prob: prob > 0.0)


def gradient(module: torch.nn.Module, x: Tensor, y_grad: Tensor) -> Tensor:
    """Gradient of `x` through a module that must be the identity."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    assert torch.equal(y, x)
    y.backward(y_grad)
    assert x.grad is not None
    return x.grad


def rms(x: Tensor) -> Tensor:
    return x.square().mean(0).sqrt()


# Balancer


@pytest.mark.parametrize("name", list(BALANCER_SETTINGS))
def test_balancer_equals_golden(name: str) -> None:
    _, golden = load_golden("b_balancer")
    balancer = Balancer(**BALANCER_SETTINGS[name], prob=1.0)
    x, y_grad = golden["in.x"], golden["in.y_grad"]
    assert_close_to(gradient(balancer, x, y_grad), golden[f"grad.{name}.dim-1"])
    # "dim1" is the same with the channels of a (40, 3, 12) tensor along dim 1 of (3, 12, 40) or similar.
    assert_close_to(gradient(balancer, x, y_grad), golden[f"grad.{name}.dim1"])


def test_balancer_of_images_equals_golden() -> None:
    _, golden = load_golden("b_balancer")

    def image(x: Tensor) -> Tensor:
        return x.permute(1, 2, 0).reshape(3, 12, 8, 5).permute(0, 2, 3, 1)  # channels last, as Conv-Embed keeps them

    ours = gradient(Balancer(max_abs=1.0, prob=1.0), image(golden["in.x"]), image(golden["in.y_grad"]))
    assert_close_to(ours.permute(0, 3, 1, 2), golden["grad.nchw_maxabs1"])


def slow_balancer_gradient(x: Tensor, y_grad: Tensor, balancer: Balancer) -> Tensor:
    """The gradient that the Balancer should give, with the penalty differentiated by autograd."""

    def normalized_mean(positive: float) -> float:
        y = 2.0 * positive - 1.0
        return 0.8139535143 * 0.5 * (math.log(1.0 + y + 1e-10) - math.log(1.0 - y + 1e-10))

    assert not isinstance(balancer.min_positive, Schedule)
    assert not isinstance(balancer.max_positive, Schedule)
    assert not isinstance(balancer.min_abs, Schedule)
    assert not isinstance(balancer.max_abs, Schedule)
    x = x.detach().double().requires_grad_()
    mean, square = x.mean(0), x.square().mean(0)
    std = (square - mean.square()).clamp(min=1e-20).sqrt()
    rms = square.clamp(min=1e-20).sqrt()
    m = mean / std
    to_rms = math.sqrt(math.pi / 2)
    m_loss = (m - m.clamp(normalized_mean(balancer.min_positive), normalized_mean(balancer.max_positive))).abs()
    rms_loss = (rms.clamp(to_rms * balancer.min_abs, to_rms * balancer.max_abs) / rms).log().abs()
    (penalty,) = torch.autograd.grad((m_loss + rms_loss).sum(), x)
    penalty = penalty * balancer.grad_scale / penalty.square().mean(0).sqrt().clamp(min=1e-20)
    return y_grad + y_grad.abs() * penalty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_balancer_equals_the_penalty_by_autograd(dtype: torch.dtype) -> None:
    """Channels cross each limit alone, two limits at a time, or none."""
    means = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64).repeat(3)
    stds = torch.tensor([0.05, 1.0, 8.0], dtype=torch.float64).repeat_interleave(13)
    x = (means + stds * seeded(400, 39, dtype=torch.float64)).to(dtype)
    y_grad = seeded(400, 39, seed=1).to(dtype)
    balancer = Balancer(min_positive=0.2, max_positive=0.7, min_abs=0.3, max_abs=3.0, prob=1.0)
    expected = slow_balancer_gradient(x, y_grad, balancer)
    ours = gradient(balancer, x, y_grad)
    assert ours.dtype == dtype
    assert_close_to(ours, expected, 1e-5 if dtype == torch.float32 else 1e-12)


def test_balancer_adds_exactly_its_gradient_scale_to_a_channel_outside_the_limits() -> None:
    x = seeded(1000, 3)
    x[:, 0] -= 2.054  # 2 % are positive
    x[:, 2] *= 1000.0  # far too large
    added = gradient(Balancer(prob=1.0), x, torch.ones_like(x)) - 1.0
    assert rms(added).tolist() == pytest.approx([0.04, 0.0, 0.04], rel=1e-4)
    assert added[:, 0].mean() < 0.0  # descent raises the mean
    assert (added[:, 2] * x[:, 2]).sum() > 0.0  # and shrinks what is too large


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-7, 1e-9, 1e-11, 0.0])
@pytest.mark.parametrize("mean", [1.0, 1e-3, 0.0, -1e4])
def test_balancer_adds_no_more_than_its_gradient_scale_to_a_channel_that_hardly_varies(spread: float, mean: float) -> None:
    x = mean + mean * spread * seeded(3000, 64) + (spread if mean == 0.0 else 0.0) * seeded(3000, 64, seed=1)
    added = gradient(Balancer(prob=1.0), x, torch.ones_like(x)) - 1.0
    assert added.isfinite().all()
    assert rms(added).max().item() <= 0.04 * 1.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_balancer_in_half_precision_keeps_the_type_of_the_gradient(dtype: torch.dtype) -> None:
    x, y_grad = (300.0 * seeded(50, 8)).to(dtype), seeded(50, 8, seed=1).to(dtype)  # squares overflow float16
    ours = gradient(Balancer(prob=1.0), x, y_grad)
    assert ours.dtype == dtype
    expected = gradient(Balancer(prob=1.0), x.float(), y_grad.float())
    torch.testing.assert_close(ours.float(), expected, rtol=1e-2, atol=1e-2)


def test_balancer_follows_its_schedules(always: None) -> None:
    balancer = Balancer(min_positive=0.0, min_abs=0.0, max_abs=Schedule(((0.0, 0.1), (10.0, 100.0))), max_positive=1.0)
    x = seeded(100, 4)
    set_step(balancer, 0.0)
    assert not torch.equal(gradient(balancer, x, torch.ones_like(x)), torch.ones_like(x))
    set_step(balancer, 10.0)
    assert torch.equal(gradient(balancer, x, torch.ones_like(x)), torch.ones_like(x))


def test_balancer_works_with_its_probability() -> None:
    torch.manual_seed(0)
    x, ones = 1000.0 * seeded(10, 2), torch.ones(10, 2)

    def share(balancer: Balancer) -> float:
        return sum(not torch.equal(gradient(balancer, x, ones), ones) for _ in range(400)) / 400

    balancer = Balancer()
    assert share(balancer) == pytest.approx(0.4, abs=0.08)
    set_step(balancer, 0.0)
    assert share(balancer) == pytest.approx(0.5, abs=0.08)
    set_step(balancer, 8000.0)
    assert share(balancer) == pytest.approx(0.125, abs=0.06)


# Whiten


@pytest.mark.parametrize("name", list(WHITEN_SETTINGS))
def test_whiten_equals_golden(name: str, always: None) -> None:
    _, golden = load_golden("b_whiten")
    settings = WHITEN_SETTINGS[name]
    whiten = Whiten(settings["whitening_limit"], num_groups=settings["num_groups"], grad_scale=settings["grad_scale"])
    assert_close_to(gradient(whiten, golden["in.x"], golden["in.y_grad"]), golden[f"grad.{name}"])
    assert whiten.prob == pytest.approx(golden[f"out.{name}.prob_after"].item())
    metric, _ = constraint._whitening_metric(golden["in.x"], settings["num_groups"])
    assert_close_to(metric, golden[f"out.{name}.metric"])


def slow_whitening_metric(x: Tensor, num_groups: int) -> Tensor:
    groups = x.reshape(-1, num_groups, x.shape[-1] // num_groups).transpose(0, 1)
    groups = groups - groups.mean(1, keepdim=True)
    covariance = groups.transpose(1, 2) @ groups
    diagonal_mean = covariance.diagonal(dim1=1, dim2=2).mean()
    return covariance.square().sum() / x.shape[-1] / (diagonal_mean.square() + 1e-20)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whitening_metric_and_its_gradient_equal_autograd(num_groups: int, dtype: torch.dtype) -> None:
    x = (seeded(40, 8, dtype=torch.float64) @ seeded(8, 8, seed=1, dtype=torch.float64)).requires_grad_()
    expected = slow_whitening_metric(x, num_groups)
    (expected_gradient,) = torch.autograd.grad(expected, x)
    metric, metric_gradient = constraint._whitening_metric(x.detach().to(dtype), num_groups)
    rel = 1e-5 if dtype == torch.float32 else 1e-12
    assert_close_to(metric, expected, rel)
    assert_close_to(metric_gradient, expected_gradient, rel)


def test_whiten_leaves_isotropic_noise_alone_and_looks_less_often(always: None) -> None:
    x, y_grad = seeded(2000, 16), seeded(2000, 16, seed=1)
    whiten = Whiten(2.0)
    assert whiten.prob == 0.25
    assert torch.equal(gradient(whiten, x, y_grad), y_grad)
    assert whiten.prob == 0.025


def test_whiten_adds_exactly_its_share_where_one_direction_dominates(always: None) -> None:
    x = 0.1 * seeded(200, 16) + seeded(200, 1, seed=1)
    y_grad = seeded(200, 16, seed=2)
    whiten = Whiten(2.0, grad_scale=0.02)
    whiten.prob = whiten.min_prob
    added = gradient(whiten, x, y_grad) - y_grad
    assert added.norm().item() == pytest.approx(0.02 * y_grad.norm().item(), rel=1e-4)
    metric, _ = constraint._whitening_metric(x, 1)
    better, _ = constraint._whitening_metric(x - 10.0 * added, 1)
    assert better < metric
    assert whiten.prob == 0.25


def test_whiten_limit_follows_its_schedule(always: None) -> None:
    x, y_grad = 0.3 * seeded(200, 16) + seeded(200, 1, seed=1), seeded(200, 16, seed=2)
    whiten = Whiten(Schedule(((0.0, 1.0), (10.0, 100.0)), default=100.0))
    assert torch.equal(gradient(whiten, x, y_grad), y_grad)
    set_step(whiten, 0.0)
    assert not torch.equal(gradient(whiten, x, y_grad), y_grad)
    set_step(whiten, 10.0)
    assert torch.equal(gradient(whiten, x, y_grad), y_grad)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_whiten_that_reads_late_does_the_same(scale: float, always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator the metric is read when `prob` is needed; the result is the same below the limit and above."""
    x, y_grad = seeded(200, 16) + scale * seeded(200, 1, seed=1), seeded(200, 16, seed=2)
    whiten = Whiten(2.0)
    whiten.prob = whiten.min_prob if scale > 1 else whiten.max_prob
    late = copy.deepcopy(whiten)
    expected = gradient(whiten, x, y_grad)
    monkeypatch.setattr(constraint, "_reads_late", lambda x: True)
    assert torch.equal(gradient(late, x, y_grad), expected)
    assert late._late is not None
    copied = copy.deepcopy(late)
    assert copied._late is None
    assert copied.prob == late.prob == whiten.prob == (0.25 if scale > 1 else 0.025)
    assert late._late is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_whiten_in_half_precision_keeps_the_type_of_the_gradient(dtype: torch.dtype, always: None) -> None:
    x = (100.0 * seeded(200, 16) + 100.0 * seeded(200, 1, seed=1)).to(dtype)
    y_grad = seeded(200, 16, seed=2).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        ours = gradient(Whiten(2.0, grad_scale=0.5), x, y_grad)
    assert ours.dtype == dtype
    expected = gradient(Whiten(2.0, grad_scale=0.5), x.float(), y_grad.float())
    torch.testing.assert_close(ours.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("x", [torch.zeros(20, 8), torch.ones(20, 8), 1e-15 * seeded(20, 8)])
def test_constraints_give_finite_gradients_for_degenerate_inputs(x: Tensor, always: None) -> None:
    y_grad = seeded(20, 8, seed=1)
    assert gradient(Balancer(), x, y_grad).isfinite().all()
    assert gradient(Whiten(1.0), x, y_grad).isfinite().all()
    assert gradient(Balancer(), x, torch.zeros_like(y_grad)).eq(0.0).all()


# Balancer and Whiten


@pytest.mark.parametrize("module", [Balancer(max_abs=0.1), Whiten(1.0)])
def test_identity_in_eval_and_where_no_gradient_flows(module: torch.nn.Module, always: None) -> None:
    x = 0.1 * seeded(50, 8) + seeded(50, 1, seed=1)
    y_grad = seeded(50, 8, seed=2)
    module.train()
    assert not torch.equal(gradient(module, x, y_grad), y_grad)
    assert module(x) is x
    module.eval()
    assert torch.equal(gradient(module, x, y_grad), y_grad)
    needs_grad = x.clone().requires_grad_()
    assert module(needs_grad) is needs_grad


# The functions


def test_penalize_abs_equals_golden() -> None:
    _, golden = load_golden("b_misc_grads")
    x = golden["in.pen.x"].clone().requires_grad_()
    penalize_abs(x, limit=25.0, penalty=1e-4).backward(golden["in.pen.y_grad"])
    assert x.grad is not None
    assert_close_to(x.grad, golden["grad.pen.x"], 1e-7)


def test_penalize_abs_adds_only_beyond_the_limit() -> None:
    x = torch.tensor([-26.0, -25.0, 0.0, 25.0, 26.0], requires_grad=True)
    penalize_abs(x, limit=25.0, penalty=0.5).backward(torch.zeros(5))
    assert x.grad is not None
    assert x.grad.tolist() == [-0.5, 0.0, 0.0, 0.0, 0.5]


def test_limit_param_value_equals_golden(always: None) -> None:
    _, golden = load_golden("b_misc_grads")
    x = golden["in.lpv.x"].clone().requires_grad_()
    limit_param_value(x, minimum=-1.0, maximum=0.5, training=True).backward(golden["in.lpv.y_grad"])
    assert x.grad is not None
    assert torch.equal(x.grad, golden["grad.lpv.x"])


@pytest.mark.parametrize(
    ("value", "gradient_in", "gradient_out"),
    [(0.1, 1.0, -1.0), (0.1, -1.0, -1.0), (1.2, -1.0, 1.0), (1.2, 1.0, 1.0), (0.5, 1.0, 1.0), (0.5, -1.0, -1.0)],
)
def test_limit_param_value_only_pushes_back_inside(
    value: float, gradient_in: float, gradient_out: float, always: None
) -> None:
    x = torch.tensor([value], requires_grad=True)
    limit_param_value(x, minimum=0.2, maximum=1.0, training=True).backward(torch.tensor([gradient_in]))
    assert x.grad is not None
    assert x.grad.item() == gradient_out


def test_limit_param_value_is_off_in_eval_and_works_with_its_probability() -> None:
    torch.manual_seed(0)

    def flips(training: bool) -> float:
        count = 0
        for _ in range(400):
            x = torch.tensor([0.1], requires_grad=True)
            limit_param_value(x, minimum=0.2, maximum=1.0, training=training).backward(torch.ones(1))
            assert x.grad is not None
            count += x.grad.item() < 0
        return count / 400

    assert flips(training=False) == 0.0
    assert flips(training=True) == pytest.approx(0.6, abs=0.08)


def test_scale_grad_equals_golden() -> None:
    _, golden = load_golden("b_misc_grads")
    x = golden["in.sg.x"].clone().requires_grad_()
    y = scale_grad(x, 0.2)
    assert torch.equal(y, x)
    y.backward(golden["in.pen.y_grad"])
    assert x.grad is not None
    assert_close_to(x.grad, golden["grad.sg.x"], 1e-7)


def test_chance_has_its_probability_and_is_reproducible() -> None:
    torch.manual_seed(1)
    draws = [chance(0.3) for _ in range(2000)]
    torch.manual_seed(1)
    assert draws == [chance(0.3) for _ in range(2000)]
    assert sum(draws) / 2000 == pytest.approx(0.3, abs=0.04)
    assert not any(chance(0.0) for _ in range(100))
    assert all(chance(1.0) for _ in range(100))
