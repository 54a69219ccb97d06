"""Law: a loop in a graph gives what calling the function block by block gives, for any number of blocks."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from zipasr.export.integer import graphs_in
from zipasr.export.scan import names_read, scan, scan_several
from zipasr.export.trace import Axes, Graph, compare, trace


class Blocked(nn.Module):
    """Two loops, the second on the result of the first, with weights, a convolution and a slice of a tensor outside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(3, 3), nn.Conv2d(1, 1, (3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 2M, 3) to (M, N, 2, 3)."""
        num_blocks, doubled = x.shape[1] // 2, x.repeat(1, 2, 1)
        blocks = x.reshape(x.shape[0], num_blocks, 2, 3).transpose(0, 1)
        convolved = scan(lambda block: self.conv(self.linear(block).unsqueeze(1)).squeeze(1), [blocks])
        return scan(
            lambda block, start: block + doubled[:, start : start + 2].cumsum(1), [convolved, torch.arange(num_blocks)]
        )


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    module = Blocked()
    return Graph(
        name="loops",
        module=module,
        inputs=(Axes("x", {0: "N", 1: "T"}),),
        outputs=(Axes("y", {0: "M", 1: "N"}),),
        cases=[(torch.randn(size, 2 * num_blocks, 3),) for size, num_blocks in ((2, 3), (1, 1), (3, 7))],
        expected=lambda x: [module(x)],
    )


def test_loops_equal_blocks_one_by_one(graph: Graph) -> None:
    model = trace(graph)
    assert [node.op_type for node in model.graph.node].count("Scan") == 2
    assert all(imported.domain == "" for imported in model.opset_import)
    assert compare(model, graph) < 1e-6


def test_without_tracing_blocks_are_called_one_by_one() -> None:
    seen = []

    def body(block: Tensor) -> Tensor:
        seen.append(block)
        return 2.0 * block

    x = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(scan(body, [x]), 2.0 * x)
    assert len(seen) == 3


class Several(nn.Module):
    """A loop with two results, of which the second, with another number of axes, is read first."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, T, 3) to (N, 2) and (N, T, 2)."""
        projected, total = scan_several(lambda block: ((y := self.linear(block)), y.sum(0)), [x])
        return total + 1.0, projected


def test_a_loop_may_have_several_results() -> None:
    torch.manual_seed(0)
    module = Several()
    graph = Graph(
        name="loop",
        module=module,
        inputs=(Axes("x", {0: "N"}),),
        outputs=(Axes("total", {0: "N"}), Axes("projected", {0: "N"})),
        cases=[(torch.randn(size, 5, 3),) for size in (2, 1, 4)],
        expected=lambda x: list(module(x)),
    )
    model = trace(graph)
    assert [node.op_type for node in model.graph.node].count("Scan") == 1
    assert compare(model, graph) < 1e-6
    x = graph.cases[0][0]
    projected = module.linear(x)
    assert all(map(torch.allclose, module(x), (projected.sum(1) + 1.0, projected)))


def test_what_does_not_depend_on_the_block_is_outside(graph: Graph) -> None:
    model = trace(graph)
    main, *bodies = graphs_in(model.graph)
    assert len(bodies) == 2
    assert all("CumSum" in [node.op_type for node in body.node] for body in bodies[1:])
    assert not any(node.op_type == "Tile" for body in bodies for node in body.node)
    (loop,) = [
        node for node in main.node if node.op_type == "Scan" and "Conv" in [n.op_type for n in node.attribute[0].g.node]
    ]
    inside = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loop.attribute[0].g.initializer}
    assert {array.shape for array in inside.values()} == {(1, 1, 3, 1), (1,)}  # the convolution, and nothing else
    assert not inside.keys() & {tensor.name for tensor in main.initializer}
    outside = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in main.initializer}
    assert any(name in names_read(loop) and np.size(array) == 9 for name, array in outside.items())
