"""BiasNorm, the normalisation of Zipformer: length is normalised away except for what a learned bias preserves.

y = x · exp(log_scale) / rms(x - bias), over the last axis; note that the numerator is x, not x - bias.
Source: Yao et al. 2024, arXiv:2310.11230, equation 2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zipasr.nn.constraint import limit_param_value


class _BiasNormFunction(torch.autograd.Function):
    """Keeps only x and one number per frame; the gradient is worked out by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        centred_norm = torch.linalg.vector_norm(x - bias, dim=-1, keepdim=True)
        scale = log_scale.exp() * x.shape[-1] ** 0.5 / centred_norm
        ctx.save_for_backward(x, bias, scale, centred_norm)
        return x * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, bias, scale, centred_norm = ctx.saved_tensors
        grad_scale = (grad * x).sum(-1, keepdim=True)
        # d scale / d x_i = -scale (x_i - b_i) / |x - b|^2, and the opposite for the bias.
        pull = grad_scale * scale
        centred = (x - bias).mul_(pull / centred_norm.square())
        grad_bias = centred.reshape(-1, x.shape[-1]).sum(0)
        return (grad * scale).sub_(centred), grad_bias, pull.sum()


class BiasNorm(nn.Module):
    """BiasNorm over the channels (last axis)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.randn(channels) * 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D); at least float32 inside, the wider dtype of `x` and the parameters outside.

        So a model in half precision stays in it, while under autocast the residual stream begins in float32.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        log_scale = limit_param_value(self.log_scale, minimum=-1.5, maximum=1.5, training=self.training)
        if torch.is_grad_enabled():
            y: Tensor = _BiasNormFunction.apply(wide, self.bias, log_scale)
        else:
            norm = torch.linalg.vector_norm(wide - self.bias, dim=-1, keepdim=True)
            y = wide * (log_scale.exp() * x.shape[-1] ** 0.5 / norm)
        return y.to(torch.promote_types(x.dtype, self.bias.dtype))
