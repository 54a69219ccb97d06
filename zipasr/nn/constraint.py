"""Balancer, Whiten and related modules: identities in the forward pass that modify the gradient in the backward pass.

They keep activations in a healthy range during training and are plain identities in eval mode. Channels are the last
axis. All arithmetic is in at least float32, whatever the dtype of the input.
Source: Yao et al. 2024, arXiv:2310.11230, section 3.5 and appendix; constants from the published recipe.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zipasr.nn.precision import widened
from zipasr.nn.schedule import Schedule, ScheduledModule

MEAN_ABS_TO_RMS = math.sqrt(math.pi / 2)
"""Root mean square over mean absolute value of a zero-mean Gaussian."""
_POSITIVE_TO_MEAN = 0.8139535143  # slope of the atanh fit of the normal quantile, recipe constant
BALANCER_PROB = Schedule(((0.0, 0.5), (8000.0, 0.125)), default=0.4)


def chance(prob: float) -> bool:
    """True with probability `prob`, drawn from the global torch CPU generator (no device sync)."""
    if prob <= 0.0 or prob >= 1.0:
        return prob >= 1.0
    return torch.rand(()).item() < prob


def normalized_mean(proportion_positive: float) -> float:
    """Mean over standard deviation of a near-Gaussian channel with this share of positive values."""
    y = 2.0 * proportion_positive - 1.0
    return _POSITIVE_TO_MEAN * 0.5 * (math.log(1.0 + y + 1e-10) - math.log(1.0 - y + 1e-10))


class _ChangeGradient(torch.autograd.Function):
    """The identity in the forward pass; its gradient is `change(grad, x)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad, *ctx.saved_tensors), None


def _balanced(grad: Tensor, x: Tensor, limits: tuple[float, float, float, float], grad_scale: float) -> Tensor:
    """`grad` of a Balancer's output plus its penalty.

    The penalty's gradient is center_c + slope_c · (x - mu) in each channel, so two moments of x give its size.
    With mu = E[x], sigma² = E[(x - mu)²], u = E[x²], m = mu/sigma, r = sqrt(u), n elements a channel:
    d m/d x_i = (1 - m (x_i - mu)/sigma) / (n sigma),  d ln r/d x_i = x_i / (n u).
    Everything is centered: with raw powers of x, the terms of a nearly constant channel cancel and lose all precision.
    """
    mean_min, mean_max, rms_min, rms_max = limits
    rows = widened(x).reshape(-1, x.shape[-1])
    mean = rows.mean(0)
    centered = rows - mean
    variance = torch.linalg.vector_norm(centered, dim=0).square() / rows.shape[0]
    square = variance + mean.square()
    std = variance.clamp(min=1e-20).sqrt()
    rms = square.clamp(min=1e-20).sqrt()
    m = mean / std
    push_mean = (m > mean_max).to(m.dtype) - (m < mean_min).to(m.dtype)
    push_rms = ((rms > rms_max).to(m.dtype) - (rms < rms_min).to(m.dtype)) * (square > 1e-20)
    # center, and slope times std, which unlike the slope itself stays in the range of float32
    center = push_mean / std + push_rms * mean / rms.square()
    slope_std = push_rms * std / rms.square() - push_mean * m / std * (variance > 1e-20)
    factor = grad_scale / torch.hypot(center, slope_std).clamp(min=1e-20)
    penalty = centered.mul_(slope_std * factor / std).add_(center * factor).view(x.shape)
    return penalty.mul_(grad.abs()).add_(grad).to(grad.dtype)


class Balancer(ScheduledModule):
    """Keep each channel's share of positive values and mean absolute value within limits.

    Where a limit is violated, the gradient of the penalty |m - clamp(m)| + |ln(clamp(r)/r)|, scaled to rms
    `grad_scale` per channel, is added in proportion to |grad|.
    Differs: on a GPU the published module does nothing in the 5 % of its calls at which most memory is allocated, which
    saves memory. Here it always works: some penalties more in the last layers, with no expected effect on error rates.
    """

    def __init__(
        self,
        *,
        min_positive: Schedule | float = 0.05,
        max_positive: Schedule | float = 0.95,
        min_abs: Schedule | float = 0.2,
        max_abs: Schedule | float = 100.0,
        grad_scale: float = 0.04,
        prob: Schedule | float = BALANCER_PROB,
    ) -> None:
        super().__init__()
        self.min_positive, self.max_positive = min_positive, max_positive
        self.min_abs, self.max_abs = min_abs, max_abs
        self.grad_scale, self.prob = grad_scale, prob

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D) unchanged; in training mode its gradient is adjusted with probability `prob`."""
        if not (self.training and x.requires_grad and chance(self.value(self.prob))):
            return x
        limits = (
            normalized_mean(self.value(self.min_positive)),
            normalized_mean(self.value(self.max_positive)),
            MEAN_ABS_TO_RMS * self.value(self.min_abs),
            MEAN_ABS_TO_RMS * self.value(self.max_abs),
        )
        return _ChangeGradient.apply(x, lambda grad, x: _balanced(grad, x, limits, self.grad_scale))


def _whitening_metric(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """The metric (1 if every group's covariance is the same multiple of I) and its gradient with respect to `x`."""
    channels = x.shape[-1] // num_groups
    groups = widened(x).reshape(-1, num_groups, channels).transpose(0, 1)
    centered = groups - groups.mean(1, keepdim=True)
    covariance = centered.transpose(1, 2) @ centered
    size = num_groups * channels
    mean_diag = covariance.diagonal(dim1=1, dim2=2).sum() / size
    denominator = mean_diag.square() + 1e-20
    metric = covariance.square().sum() / size / denominator
    eye = torch.eye(channels, dtype=groups.dtype, device=x.device)
    grad = centered @ (covariance - metric * mean_diag * eye) * (4.0 / (size * denominator))
    return metric, grad.transpose(0, 1).reshape(x.shape)


class _LateFlag:
    """A bool computed on an accelerator and read later by the host, which then waits only for that computation."""

    def __init__(self, flag: Tensor) -> None:
        self._flag = flag
        self._event: torch.cuda.Event | None = None
        if flag.device.type == "cuda":
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> bool:
        if self._event is not None:
            self._event.synchronize()
        return bool(self._flag)


def _reads_late(x: Tensor) -> bool:
    """Whether the host should not wait for values computed from `x`."""
    return x.device.type != "cpu"


class Whiten(ScheduledModule):
    """Push the covariance of the channels (within groups) toward a multiple of the identity.

    A penalty gradient of size `grad_scale` · |grad| is added where the metric is not below `limit`. The metric is computed
    with probability 0.25 if it was last above the limit and with 0.025 if below; `prob` is that state and belongs in a
    training checkpoint. On an accelerator the host reads it in the next forward pass, where it is needed: the same rule
    without a wait in the backward pass.
    """

    min_prob, max_prob = 0.025, 0.25

    def __init__(self, limit: Schedule | float, *, num_groups: int = 1, grad_scale: float = 0.01) -> None:
        super().__init__()
        self.limit, self.num_groups, self.grad_scale = limit, num_groups, grad_scale
        self._prob = self.max_prob
        self._late: _LateFlag | None = None

    @property
    def prob(self) -> float:
        """Probability that the metric is computed in a step."""
        if self._late is not None:
            self.prob = self.max_prob if self._late.read() else self.min_prob
        return self._prob

    @prob.setter
    def prob(self, prob: float) -> None:
        self._prob, self._late = prob, None

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without the device event."""
        return self.__dict__ | {"_prob": self.prob, "_late": None}

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D) unchanged; D must be a multiple of `num_groups`."""
        if not (self.training and x.requires_grad and self.grad_scale > 0.0 and chance(self.prob)):
            return x
        limit = self.value(self.limit)
        return _ChangeGradient.apply(x, lambda grad, x: self._whitened(grad, x, limit))

    def _whitened(self, grad: Tensor, x: Tensor, limit: float) -> Tensor:
        """`grad` of the output plus the penalty, if the metric of `x` is not below `limit`."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            metric, penalty = _whitening_metric(x, self.num_groups)
            is_above = ~(metric < limit)  # also true for nan
            self._late = _LateFlag(is_above)  # read when `prob` is next needed
            if not _reads_late(x) and self.prob == self.min_prob:
                return grad
            wide_grad = widened(grad)
            scale = self.grad_scale * wide_grad.norm() / (penalty.norm() + 1e-20)
            return torch.where(is_above, torch.addcmul(wide_grad, penalty, scale), wide_grad).to(grad.dtype)


def penalize_abs(x: Tensor, *, limit: float, penalty: float) -> Tensor:
    """Return `x`; add penalty · sign(x) to the gradient of every element with |x| > limit."""
    if not x.requires_grad:
        return x
    return _ChangeGradient.apply(x, lambda grad, x: torch.add(grad, x.sign() * (x.abs() > limit), alpha=penalty))


def limit_param_value(x: Tensor, *, minimum: float, maximum: float, training: bool, prob: float = 0.6) -> Tensor:
    """Return `x`; with probability `prob` in training, its gradient may only push it back into the limits."""
    if not (training and x.requires_grad and chance(prob)):
        return x

    def limited(grad: Tensor, x: Tensor) -> Tensor:
        grad = torch.where((grad > 0) & (x < minimum), -grad, grad)
        return torch.where((grad < 0) & (x > maximum), -grad, grad)

    return _ChangeGradient.apply(x, limited)


class _ScaleGradFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_grad(x: Tensor, factor: float) -> Tensor:
    """Return `x`; multiply its gradient by `factor`."""
    return _ScaleGradFunction.apply(x, factor) if x.requires_grad else x
