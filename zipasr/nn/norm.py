"""BiasNorm, Zipformer's normalization: it removes the vector length, except for what a learned bias preserves.

y = x · exp(log_scale) / rms(x - bias), over the last axis; note that the numerator is x, not x - bias.
Source: Yao et al. 2024, arXiv:2310.11230, equation 2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zipasr.nn.constraint import limit_param_value
from zipasr.nn.precision import widened


class _BiasNormFunction(torch.autograd.Function):
    """BiasNorm with a manual gradient; saves only x and one number per frame."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        centered_norm = torch.linalg.vector_norm(x - bias, dim=-1, keepdim=True)
        scale = log_scale.exp() * x.shape[-1] ** 0.5 / centered_norm
        ctx.save_for_backward(x, bias, scale, centered_norm)
        return x * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, bias, scale, centered_norm = ctx.saved_tensors
        grad_scale = (grad * x).sum(-1, keepdim=True)
        # d scale / d x_i = -scale (x_i - b_i) / |x - b|^2, and the opposite for the bias.
        pull = grad_scale * scale
        centered = (x - bias).mul_(pull / centered_norm.square())
        grad_bias = centered.reshape(-1, x.shape[-1]).sum(0)
        return (grad * scale).sub_(centered), grad_bias, pull.sum()


class BiasNorm(nn.Module):
    """BiasNorm over the channels (last axis): y = x · exp(log_scale) / rms(x - bias)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.randn(channels) * 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (..., D); computed in at least float32, returned in the wider dtype of `x` and the parameters.

        A half-precision model therefore stays in half precision, and under autocast the residual stream is float32.
        """
        wide = widened(x)
        log_scale = limit_param_value(self.log_scale, minimum=-1.5, maximum=1.5, training=self.training)
        if torch.is_grad_enabled():
            y: Tensor = _BiasNormFunction.apply(wide, self.bias, log_scale)
        else:
            norm = torch.linalg.vector_norm(wide - self.bias, dim=-1, keepdim=True)
            y = wide * (log_scale.exp() * x.shape[-1] ** 0.5 / norm)
        return y.to(torch.promote_types(x.dtype, self.bias.dtype))
