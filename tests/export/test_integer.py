"""Reference: products in 8 bits are those of rounded weights and inputs, in a loop as well; a product may stay as it is."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zipasr.export.integer import WEIGHT_STEPS, graphs_in, quantize
from zipasr.export.scan import scan
from zipasr.export.trace import Axes, Graph, trace
from zipasr.onnx_runtime import open_session


class Products(nn.Module):
    """Two products of one input, one with a constant that is no matrix, and one in a loop, which is exported as Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.looped = nn.Linear(16, 8), nn.Linear(16, 24, bias=False), nn.Linear(32, 4)
        self.register_buffer("heads", torch.randn(2, 1, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, 32) to (N, T, 4)."""
        x = (torch.stack(x.chunk(2, dim=2)) @ self.heads).sum(0)
        return scan(lambda block: self.looped(block), [torch.cat([self.first(x), self.second(x)], dim=2)])


def rounded(linear: nn.Linear, x: Tensor) -> Tensor:
    """The product with a weight and an input in 8 bits."""
    low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
    step = (high - low) / 255
    weight_step = linear.weight.abs().amax(1, keepdim=True) / WEIGHT_STEPS
    zero = (-low / step).round()
    given = ((x / step).round() + zero).clamp(0, 255) - zero
    y = (given * step) @ ((linear.weight / weight_step).round() * weight_step).t()
    return y if linear.bias is None else y + linear.bias


@pytest.mark.parametrize("kept", ["", "second", "looped"])
def test_products_are_those_of_rounded_values(kept: str) -> None:
    torch.manual_seed(0)
    module = Products().eval()
    x = torch.randn(2, 5, 32)
    axes = {0: "N", 1: "T"}
    graph = trace(
        Graph(
            name="products",
            module=module,
            inputs=(Axes("x", axes),),
            outputs=(Axes("y", axes),),
            cases=[(x,)],
            expected=lambda x: [module(x)],
        )
    )
    model = quantize(graph, lambda name: not kept or kept not in name)
    types = [node.op_type for inner in graphs_in(model.graph) for node in inner.node]
    assert types.count("MatMulInteger") == (2 if kept else 3)
    assert types.count("DynamicQuantizeLinear") == (1 if kept == "looped" else 2)  # one for both products of the input
    (found,) = open_session(model.SerializeToString(), name="products").run(None, {"x": x.numpy()})

    def product(name: str, given: Tensor) -> Tensor:
        linear: nn.Linear = getattr(module, name)
        return linear(given) if name == kept else rounded(linear, given)

    with torch.no_grad():
        summed = (torch.stack(x.chunk(2, dim=2)) @ module.heads).sum(0)
        inner = torch.cat([product("first", summed), product("second", summed)], dim=2)
        expected = torch.stack([product("looped", block) for block in inner])
        exact = module(x)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)
    assert np.abs(found - exact.numpy()).max() > 3e-3
    assert ("Gemm" in types) == (kept == "looped")
