"""Loops over blocks of frames in a graph: `scan` calls a function for each block, and the graph gets one ONNX `Scan` for it.

Tensors that are computed block by block stay in the cache of a processor. The tracing exporter would unroll a loop as often
as its example needs. So the function is traced for one block, between two markers, and `insert_loops` moves what depends on
the block into the body of a loop.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_DOMAIN = "zipasr"
"""Domain of the markers, which no runtime knows."""
_OPSET = 13
_numbers = itertools.count()
"""Numbers of the calls, by which markers that belong together are found."""


@torch.library.custom_op(f"{_DOMAIN}::element", mutates_args=())
def _element(blocked: Tensor, number: int) -> Tensor:
    """Marks where the block enters a body; the first block is traced."""
    return blocked[0].clone()


@torch.library.custom_op(f"{_DOMAIN}::stack", mutates_args=())
def _stack(result: Tensor, blocked: Tensor, num_axes: int, number: int) -> Tensor:
    """Marks the result of a body; while it is traced, each block has the result of the first."""
    return torch.stack([result] * len(blocked))


@torch.onnx.symbolic_helper.parse_args("v", "i")
def _element_node(graph: Any, blocked: Any, number: int) -> Any:
    kind = blocked.type()
    num_axes, is_float = kind.dim() - 1, kind.scalarType() == "Float"
    node = graph.op(f"{_DOMAIN}::Element", blocked, number_i=number, num_axes_i=num_axes, is_float_i=int(is_float))
    return node.setType(kind.with_sizes([None] * num_axes))


@torch.onnx.symbolic_helper.parse_args("v", "v", "i", "i")
def _stack_node(graph: Any, result: Any, blocked: Any, num_axes: int, number: int) -> Any:
    node = graph.op(f"{_DOMAIN}::Stack", result, number_i=number, num_axes_i=num_axes)
    return node.setType(result.type().with_sizes([None] * num_axes))


torch.onnx.register_custom_op_symbolic(f"{_DOMAIN}::element", _element_node, _OPSET)  # type: ignore[attr-defined]
torch.onnx.register_custom_op_symbolic(f"{_DOMAIN}::stack", _stack_node, _OPSET)  # type: ignore[attr-defined]


def scan(body: Callable[..., Tensor], blocked: Sequence[Tensor]) -> Tensor:
    """The outputs of `body` for each block, stacked in a new first axis.

    Args:
        body: takes an element of each tensor of `blocked`; returns a tensor whose shape is the same for all blocks. What it
            computes without them is computed once.
        blocked: tensors whose first axis counts the blocks.
    """
    (stacked,) = scan_several(lambda *block: (body(*block),), blocked)
    return stacked


def scan_several(body: Callable[..., Sequence[Tensor]], blocked: Sequence[Tensor]) -> list[Tensor]:
    """`scan` of a body that returns several tensors."""
    if not torch.jit.is_tracing():  # type: ignore[attr-defined]
        results = [body(*block) for block in zip(*blocked, strict=True)]
        return [torch.stack(tensors) for tensors in zip(*results, strict=True)]
    number = next(_numbers)
    of_first = body(*(_element(tensor, number) for tensor in blocked))
    return [_stack(result, blocked[0], result.dim() + 1, number) for result in of_first]


def insert_loops(model: Any) -> None:
    """Replace the markers of an ONNX model by loops, in place."""
    loop_of: dict[str, int] = {}  # the loop, by value that depends on its blocks
    elements: dict[int, list[Any]] = {}
    bodies: dict[int, list[Any]] = {}
    stacks: dict[int, list[Any]] = {}
    for node in model.graph.node:
        if node.domain == _DOMAIN and node.op_type == "Stack":
            stacks.setdefault(_attribute(node, "number"), []).append(node)
    nodes = []
    for node in model.graph.node:
        if node.domain == _DOMAIN and node.op_type == "Stack":
            number = _attribute(node, "number")
            if node is stacks[number][0]:  # the body is complete before the first of its results is stacked
                nodes.append(_loop(stacks[number], elements[number], bodies[number], model.graph.initializer))
            continue
        if node.domain == _DOMAIN:
            number, group = _attribute(node, "number"), elements
        else:
            number, group = next((loop_of[name] for name in node.input if name in loop_of), -1), bodies
        if number < 0:
            nodes.append(node)
        else:
            group.setdefault(number, []).append(node)
            loop_of.update((name, number) for name in node.output)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    for i in reversed(range(len(model.opset_import))):
        if model.opset_import[i].domain == _DOMAIN:
            del model.opset_import[i]


def _loop(stacks: Sequence[Any], elements: Sequence[Any], body: Sequence[Any], initializers: Any) -> Any:
    """The `Scan` that takes the place of markers and of the nodes between them."""
    import onnx

    # onnxruntime uses its fast layout of images only if the weights of a convolution are in the same graph.
    of_convolutions = {name for node in body if node.op_type == "Conv" for name in node.input[1:]}
    weights = [tensor for tensor in initializers if tensor.name in of_convolutions]
    for i in reversed(range(len(initializers))):
        if initializers[i].name in of_convolutions:
            del initializers[i]
    inputs = []
    for node in elements:
        kind = onnx.TensorProto.FLOAT if _attribute(node, "is_float") else onnx.TensorProto.INT64
        inputs.append(onnx.helper.make_tensor_value_info(node.output[0], kind, [None] * _attribute(node, "num_axes")))
    outputs = [
        onnx.helper.make_tensor_value_info(
            node.input[0], onnx.TensorProto.FLOAT, [None] * (_attribute(node, "num_axes") - 1)
        )
        for node in stacks
    ]
    name = stacks[0].name
    return onnx.helper.make_node(
        "Scan",
        [node.input[0] for node in elements],
        [node.output[0] for node in stacks],
        name.removesuffix("Stack") + "Scan",
        body=onnx.helper.make_graph(body, name, inputs, outputs, weights),
        num_scan_inputs=len(inputs),
    )


def names_read(node: Any) -> set[str]:
    """The values that a node reads, those that the body of a loop takes from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= names_read(inner)
    return names


def _attribute(node: Any, name: str) -> int:
    import onnx

    value: int = onnx.helper.get_node_attr_value(node, name)
    return value
