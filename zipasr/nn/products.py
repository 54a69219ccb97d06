"""Linear layers by oneDNN in inference on a CPU: `use_onednn` for a model that is loaded. (..., in) -> (..., out).

PyTorch computes float32 products by MKL, which reaches half of oneDNN's speed on AMD processors with AVX-512. Its switch,
`torch.set_float32_matmul_precision`, is one for the whole process and allows rounding to bfloat16; here single layers call
oneDNN, in float32.
"""

import functools
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.nn.placement import is_cpu_inference
from zipasr.nn.swoosh import SwooshLinear, inference_value

_ROWS = 64
"""The number of rows that oneDNN gets is a multiple of this, and the rest goes to MKL: for each number it compiles a kernel
in 0.5 ms, and recordings have all lengths."""

_WORTHWHILE = 1.25
"""Ratio of times from which oneDNN is used."""
_ROUNDS = 7


class OneDnnLinear(nn.Linear):
    """`nn.Linear`, by oneDNN where that is possible."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if not _is_suitable(x, self.weight):
            return super().forward(x)
        return onednn_linear(x, self.weight, self.bias)


class OneDnnSwooshLinear(SwooshLinear):
    """`SwooshLinear`, by oneDNN where that is possible."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, in) to (N, T, out)."""
        if self.training or not _is_suitable(x, self.weight):
            return super().forward(x)
        return onednn_linear(inference_value(x, self.activation), self.weight, self.bias)


def use_onednn(model: nn.Module) -> None:
    """Let oneDNN compute the linear layers of `model` in inference on a CPU, in place.

    Parameters, their names and training stay as they are.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
        elif type(module) is SwooshLinear:
            module.__class__ = OneDnnSwooshLinear


@functools.cache
def is_onednn_faster() -> bool:
    """Whether oneDNN computes a float32 linear layer on this CPU 1.25 times as fast as PyTorch by itself, and as exactly.

    Measured once per process in 10 ms. With AMX and AVX-512 of Intel the ratio is 0.9 to 1.1, on AMD with AVX-512 2.2
    (benchmarks/LOG.md), so that chance does not decide.
    """
    if not _has_onednn():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((256, 256), (512, 256), (512,)))
    fastest_s = []
    with torch.inference_mode():
        exact = torch.addmm(bias.double(), x.double(), weight.double().t())
        if (onednn_linear(x, weight, bias) - exact).abs().max() > 1e-3:  # float32 gives 3e-5, bfloat16 0.2
            return False
        for product in (functional.linear, onednn_linear):
            times_s = []
            for _ in range(_ROUNDS):
                start_s = time.perf_counter()
                product(x, weight, bias)
                times_s.append(time.perf_counter() - start_s)
            fastest_s.append(min(times_s))
    return fastest_s[0] > _WORTHWHILE * fastest_s[1]


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear layer of contiguous (..., in), float32 without gradients, with a weight (out, in) and a bias (out,) or None."""
    rows = x.view(-1, x.shape[-1])
    num_rows = rows.shape[0] // _ROWS * _ROWS
    y = torch.ops.mkldnn._linear_pointwise(rows[:num_rows], weight, bias, "none", [], "")
    if num_rows < rows.shape[0]:
        y = torch.cat([y, functional.linear(rows[num_rows:], weight, bias)])
    return y.view(*x.shape[:-1], weight.shape[0])


def _has_onednn() -> bool:
    """Whether this PyTorch has the operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_suitable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute a product, fast: views with gaps take a slow path of it."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() >= _ROWS * x.shape[-1]
        and is_cpu_inference(x)
        and x.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )
