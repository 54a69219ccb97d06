"""Products in 8 bits in an ONNX graph: `quantize`.

Weights are rounded once, per output channel; inputs when the graph runs, per tensor, in a loop per block. Products of the
same input share its rounding.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zipasr.export.scan import names_read
from zipasr.export.trace import import_onnx

WEIGHT_STEPS = 64
"""Weights are -64 ... 64: with all 8 bits, sums of two products overflow on processors without VNNI."""


def quantize(model: Any, is_quantized: Callable[[str], bool]) -> Any:
    """A copy of an ONNX model with products in 8 bits.

    Args:
        model: the model.
        is_quantized: whether the product with a constant matrix of this node name is computed in 8 bits.
    """
    model = copy.deepcopy(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    made: dict[str, list[Any]] = {}
    for graph in reversed(graphs_in(model.graph)):  # those inside first, since a graph gets copies of its nodes
        _quantize_nodes(graph, weights, made, is_quantized)
    model.graph.initializer.extend(tensor for tensors in made.values() for tensor in tensors)
    read = {name for node in model.graph.node for name in names_read(node)} | {value.name for value in model.graph.input}
    for i in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[i].name not in read:
            del model.graph.initializer[i]
    import_onnx().checker.check_model(model)
    return model


def graphs_in(graph: Any) -> list[Any]:
    """A graph and the bodies of its loops."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(found for each in inner for found in graphs_in(each))]


def _quantize_nodes(
    graph: Any, weights: dict[str, Any], made: dict[str, list[Any]], is_quantized: Callable[[str], bool]
) -> None:
    """Replace products of a graph; `made` gets the rounded weights, by the name of the weight."""
    onnx = import_onnx()
    nodes: list[Any] = []
    inputs: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights or not is_quantized(node.name):
            nodes.append(node)
            continue
        given, weight, *bias = node.input
        if given not in inputs:
            inputs[given] = [f"{given}/{part}" for part in ("rounded", "scale", "zero")]
            nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [given], inputs[given], f"{node.name}/Round"))
        if weight not in made:
            made[weight] = _rounded(weights[weight], is_transposed=node.op_type == "Gemm")
        nodes += _product(node.name, inputs[given], [tensor.name for tensor in made[weight]], bias, node.output[0])
    graph.ClearField("node")
    graph.node.extend(nodes)


def _product(base: str, given: Sequence[str], weight: Sequence[str], bias: Sequence[str], output: str) -> list[Any]:
    """Nodes of a product in 8 bits, which onnxruntime fuses; input and weight are rounded values, scale and zero point."""
    make = import_onnx().helper.make_node
    product = f"{base}/product" if bias else output
    nodes = [
        make("MatMulInteger", [given[0], weight[0], given[2], weight[2]], [f"{base}/sum"], f"{base}/Integer"),
        make("Cast", [f"{base}/sum"], [f"{base}/float"], f"{base}/Cast", to=import_onnx().TensorProto.FLOAT),
        make("Mul", [given[1], weight[1]], [f"{base}/scale"], f"{base}/Scale"),
        make("Mul", [f"{base}/float", f"{base}/scale"], [product], f"{base}/Mul"),
    ]
    return [*nodes, make("Add", [product, *bias], [output], f"{base}/Add")] if bias else nodes


def _rounded(weight: Any, *, is_transposed: bool) -> list[Any]:
    """A weight (in, out), or (out, in), in 8 bits, the scale of each output channel, and its zero point, which is 0."""
    onnx = import_onnx()
    values = onnx.numpy_helper.to_array(weight)
    values = values.T if is_transposed else values
    scale = np.maximum(np.abs(values).max(0), 1e-12) / WEIGHT_STEPS
    rounded = np.rint(values / scale).astype(np.int8)
    arrays = {"rounded": rounded, "scale": scale.astype(np.float32), "zero": np.zeros(len(scale), np.int8)}
    return [onnx.numpy_helper.from_array(array, f"{weight.name}/{part}") for part, array in arrays.items()]
