"""SwooshL and SwooshR, and `SwooshLinear`: activation, dropout and linear map in one memory-lean step.

SwooshL(x) = ln(1 + e^(x-4)) - 0.08 x - 0.035;  SwooshR(x) = ln(1 + e^(x-1)) - 0.08 x - 0.313261687.
Both keep only x for the backward pass and use the exact derivative sigmoid(x - shift) - 0.08; the original keeps the
derivative in 8 bits with random rounding, which is the same in expectation.
Source: Yao et al. 2024, arXiv:2310.11230, equations 3 and 4.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from zipasr.nn.schedule import Schedule, ScheduledModule

_SLOPE = 0.08
_LEFT = (4.0, 0.035)
_RIGHT = (1.0, 0.313261687)


def _swoosh(x: Tensor, shift: float, offset: float) -> Tensor:
    if x.dtype in (torch.float16, torch.bfloat16):
        return _swoosh(x.float(), shift, offset).to(x.dtype)
    return functional.softplus(x - shift).add_(x, alpha=-_SLOPE).sub_(offset)


def _swoosh_derivative(x: Tensor, shift: float) -> Tensor:
    return (x - shift).sigmoid_().sub_(_SLOPE)


class _SwooshFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: float, offset: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shift = shift
        return _swoosh(x, shift, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _swoosh_derivative(x, ctx.shift).mul_(grad), None, None


def swoosh_left(x: Tensor) -> Tensor:
    """SwooshL of any shape; computed in float32 for half-precision input, returned in the dtype of `x`."""
    return _SwooshFunction.apply(x, *_LEFT) if x.requires_grad else _swoosh(x, *_LEFT)


def swoosh_right(x: Tensor) -> Tensor:
    """SwooshR of any shape; computed in float32 for half-precision input, returned in the dtype of `x`."""
    return _SwooshFunction.apply(x, *_RIGHT) if x.requires_grad else _swoosh(x, *_RIGHT)


class SwooshL(nn.Module):
    """SwooshL as a module: the activation of modules that are often switched off (feed-forward, ConvNeXt)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        return swoosh_left(x)


class SwooshR(nn.Module):
    """SwooshR as a module: the activation of the convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        return swoosh_right(x)


class _SwooshLinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, shift: float, offset: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.constants = (shift, offset)
        hidden = _swoosh(x, shift, offset)
        if mask is not None:
            hidden.mul_(mask)
        return functional.linear(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        shift, offset = ctx.constants
        hidden = _swoosh(x, shift, offset)
        if mask is not None:
            hidden.mul_(mask)
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_weight = grad_rows.t() @ hidden.reshape(-1, hidden.shape[-1]).to(grad.dtype)
        grad_x = (grad_rows @ weight.to(grad.dtype)).view(x.shape).to(x.dtype).mul_(_swoosh_derivative(x, shift))
        if mask is not None:
            grad_x.mul_(mask)
        grad_bias = grad_rows.sum(0)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None, None


class SwooshLinear(ScheduledModule):
    """Linear(Dropout(Swoosh(x))): the activation is recomputed in the backward pass instead of being kept.

    The dropout mask is shared over time. Weight and bias start as PyTorch's default times `init_scale`, the bias
    uniform in +-0.1 · init_scale.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: str,
        *,
        dropout: Schedule | float = 0.0,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        linear = scaled_linear(in_channels, out_channels, init_scale)
        self.weight, self.bias = linear.weight, linear.bias
        self.dropout = dropout
        self.constants = {"swoosh_left": _LEFT, "swoosh_right": _RIGHT}[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, in_channels) to (N, T, out_channels)."""
        rate = self.value(self.dropout) if self.training else 0.0
        mask = None
        if rate > 0.0:
            mask = (torch.rand(x.shape[0], 1, x.shape[2], device=x.device) > rate).to(x.dtype) / (1.0 - rate)
        if not torch.is_grad_enabled():
            hidden = _swoosh(x, *self.constants)
            return functional.linear(hidden if mask is None else hidden.mul_(mask), self.weight, self.bias)
        return _SwooshLinearFunction.apply(x, self.weight, self.bias, mask, *self.constants)


def scaled_linear(in_channels: int, out_channels: int, scale: float, *, bias: bool = True) -> nn.Linear:
    """A linear layer whose default initial weight is multiplied by `scale`; bias uniform in +-0.1 · scale.

    Small initial outputs let each residual branch start near zero (facts of the recipe's ScaledLinear).
    """
    linear = nn.Linear(in_channels, out_channels, bias=bias)
    with torch.no_grad():
        linear.weight.mul_(scale)
        if bias:
            linear.bias.uniform_(-0.1 * scale, 0.1 * scale)
    return linear
