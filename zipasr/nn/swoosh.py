"""SwooshL and SwooshR, and `SwooshLinear`: activation, dropout and linear layer in one memory-efficient step.

SwooshL(x) = ln(1 + e^(x-4)) - 0.08 x - 0.035;  SwooshR(x) = ln(1 + e^(x-1)) - 0.08 x - 0.313261687. Swish, x sigmoid(x), is
available for comparison. All save only x for the backward pass and use the exact derivative, for the first two
sigmoid(x - shift) - 0.08; the original stores it in 8 bits with random rounding, which is the same in expectation.
Source: Yao et al. 2024, arXiv:2310.11230, equations 3 and 4.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from zipasr.nn.placement import is_cpu_inference
from zipasr.nn.precision import widened
from zipasr.nn.schedule import Schedule, ScheduledModule

ActivationKind = Literal["swoosh_left", "swoosh_right", "swish"]
"""The activation of a module; swish is that of Conformer, for ablations."""

SLOPE = 0.08
SHIFT_AND_OFFSET: dict[str, tuple[float, float]] = {"swoosh_left": (4.0, 0.035), "swoosh_right": (1.0, 0.313261687)}


_LINEAR_FROM = 20.0
"""From here on ln(1 + e^x) is x, in PyTorch's softplus as well; the difference is 2e-9."""
_FEWEST_FAST = 2**14
"""Elements from which eight fast passes are faster than four with the slow softplus, whose calls are fewer."""


def _value(x: Tensor, kind: ActivationKind) -> Tensor:
    if x.dtype in (torch.float16, torch.bfloat16):
        return _value(x.float(), kind).to(x.dtype)
    if kind == "swish":
        return functional.silu(x)
    shift, offset = SHIFT_AND_OFFSET[kind]
    return functional.softplus(x - shift).add_(x, alpha=-SLOPE).sub_(offset)


def inference_value(x: Tensor, kind: ActivationKind) -> Tensor:
    """`activate` without gradients: large tensors on a CPU by exp and log, several times as fast as softplus there.

    Adding 1 to e^(x - shift) rounds by 6e-8 at most, as much as the sums that follow.
    """
    if kind == "swish" or x.numel() < _FEWEST_FAST or not is_cpu_inference(x):
        return _value(x, kind)
    shift, offset = SHIFT_AND_OFFSET[kind]
    shifted = widened(x) - shift
    y = shifted.clamp(max=_LINEAR_FROM).exp_().add_(1.0).log_()
    y = torch.maximum(y, shifted, out=y).add_(shifted, alpha=-SLOPE).sub_(offset + SLOPE * shift)
    return y.to(x.dtype)


def _derivative(x: Tensor, kind: ActivationKind) -> Tensor:
    if kind == "swish":
        gate = x.sigmoid()
        return (1.0 - gate).mul_(x).add_(1.0).mul_(gate)
    return (x - SHIFT_AND_OFFSET[kind][0]).sigmoid_().sub_(SLOPE)


class _ActivationFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: ActivationKind) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return _value(x, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _derivative(x, ctx.kind).mul_(grad), None


def activate(x: Tensor, kind: ActivationKind) -> Tensor:
    """Apply an activation to any shape; computed in float32 for half-precision input, returned in the dtype of `x`."""
    return _ActivationFunction.apply(x, kind) if x.requires_grad else inference_value(x, kind)


def swoosh_left(x: Tensor) -> Tensor:
    """SwooshL of any shape; see `activate`."""
    return activate(x, "swoosh_left")


def swoosh_right(x: Tensor) -> Tensor:
    """SwooshR of any shape; see `activate`."""
    return activate(x, "swoosh_right")


class SwooshL(nn.Module):
    """SwooshL as a module: the activation of modules that learn to be off most of the time (feed-forward, ConvNeXt)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        return swoosh_left(x)


class SwooshR(nn.Module):
    """SwooshR as a module: the activation of the convolution modules and of Conv-Embed."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        return swoosh_right(x)


class _SwooshLinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, kind: ActivationKind
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.kind = kind
        hidden = _value(x, kind)
        if mask is not None:
            hidden.mul_(mask)
        return functional.linear(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]  # skip the work for frozen layers
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if needs_weight:
            hidden = _value(x, ctx.kind)
            if mask is not None:
                hidden.mul_(mask)
            grad_weight = (grad_rows.t() @ hidden.reshape(-1, hidden.shape[-1]).to(grad.dtype)).to(weight.dtype)
        if needs_x:
            grad_x = (grad_rows @ weight.to(grad.dtype)).view(x.shape).to(x.dtype).mul_(_derivative(x, ctx.kind))
            if mask is not None:
                grad_x.mul_(mask)
        if needs_bias:
            grad_bias = grad_rows.sum(0).to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def swoosh_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, activation: ActivationKind) -> Tensor:
    """Linear layer of activation(x) · mask; only x is saved for the backward pass.

    Args:
        x: (N, T, in).      weight: (out, in).      bias: (out,) or None.
        mask: dropout factors, broadcastable to x, or None.
        activation: applied to x first.
    """
    if not torch.is_grad_enabled():
        hidden = inference_value(x, activation)
        return functional.linear(hidden if mask is None else hidden.mul_(mask), weight, bias)
    return _SwooshLinearFunction.apply(x, weight, bias, mask, activation)


class SwooshLinear(ScheduledModule):
    """Linear(Dropout(Swoosh(x))): the activation is recomputed in the backward pass instead of being saved.

    The dropout mask is shared over time. The weight starts as PyTorch's default times `init_scale`, the bias
    uniform in +-0.1 · init_scale.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: ActivationKind,
        *,
        dropout: Schedule | float = 0.0,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        linear = scaled_linear(in_channels, out_channels, init_scale)
        self.weight, self.bias = linear.weight, linear.bias
        self.dropout = dropout
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, in_channels) to (N, T, out_channels)."""
        return swoosh_linear(x, self.weight, self.bias, self.dropout_mask(x), self.activation)

    def dropout_mask(self, x: Tensor) -> Tensor | None:
        """Dropout factors (N, 1, in_channels) for x at the current step, redrawn at each call; None: no dropout."""
        rate = self.value(self.dropout) if self.training else 0.0
        if not rate > 0.0:
            return None
        return (torch.rand(x.shape[0], 1, x.shape[2], device=x.device) > rate).to(x.dtype) / (1.0 - rate)


def scaled_linear(in_channels: int, out_channels: int, scale: float, *, bias: bool = True) -> nn.Linear:
    """A linear layer whose default initial weight is multiplied by `scale`; bias uniform in +-0.1 · scale.

    Small initial outputs let each residual branch start near zero (as ScaledLinear of the published recipe).
    """
    linear = nn.Linear(in_channels, out_channels, bias=bias)
    with torch.no_grad():
        linear.weight.mul_(scale)
        if bias:
            linear.bias.uniform_(-0.1 * scale, 0.1 * scale)
    return linear
