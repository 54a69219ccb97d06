"""Computation in at least float32, whatever the dtype of the model; float64 stays float64."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def widened(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def wide_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer of (..., in), with input and weights in at least float32; call it with autocast off."""
    if linear.weight.dtype in (torch.float32, torch.float64):
        result: Tensor = linear(widened(x))
        return result
    return functional.linear(widened(x), widened(linear.weight), None if linear.bias is None else widened(linear.bias))
