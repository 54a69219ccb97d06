"""From a module to a verified ONNX graph: `Graph` describes what to trace, `trace` traces it, `compare` compares it in
onnxruntime with the original on inputs of several sizes.

The tracing exporter is used (`dynamo=False`). Every PyTorch since 2.6 has it, it needs no onnxscript and takes seconds, and
the modules of `export.graph` contain nothing that tracing gets wrong. The newer exporter takes twenty times as long.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zipasr import __version__
from zipasr.errors import ConfigError, ExportError
from zipasr.export.scan import insert_loops, names_read
from zipasr.onnx_runtime import INSTALL, open_session

OPSET = 13
"""ONNX opset of the published models, so that every runtime that reads those also reads ours."""


class Axes(NamedTuple):
    """The name of a tensor and the names of its dynamic axes."""

    name: str
    dynamic: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A module to trace, with the interface of its graph and the inputs to compare it on."""

    name: str
    """Name of the graph in messages."""
    module: nn.Module
    """Takes and returns tensors."""
    inputs: Sequence[Axes]
    """By position."""
    outputs: Sequence[Axes]
    """By position."""
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Optional inputs, which must be the last ones, and their default values."""
    metadata: Mapping[str, str | int] = field(default_factory=dict)
    """Metadata of the graph for the program that loads it."""
    cases: Sequence[tuple[Tensor, ...]]
    """Inputs on which the graph must agree with the original; the first one is traced."""
    expected: Callable[..., Sequence[Tensor]]
    """Outputs of the original for a case, to be compared with the first outputs of the graph."""
    has_lens: bool = False
    """Whether output 1 holds the lengths of the sequences in output 0, which are compared only that far."""


def import_onnx() -> Any:
    """The package `onnx`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(f"export needs onnx; {INSTALL}") from error
    return onnx


def trace(graph: Graph) -> Any:
    """The ONNX model of a graph, checked by onnx, with its metadata."""
    onnx = import_onnx()
    named = [*graph.inputs, *graph.outputs]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        path = Path(folder) / "graph.onnx"
        warnings.simplefilter("ignore")  # warnings of tracing, whose result we compare, and that this exporter is old
        torch.onnx.export(
            graph.module.eval(),
            graph.cases[0],
            path,
            input_names=[axes.name for axes in graph.inputs],
            output_names=[axes.name for axes in graph.outputs],
            dynamic_axes={axes.name: dict(axes.dynamic) for axes in named if axes.dynamic},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(path)
    insert_loops(model)
    # An input with an initializer of the same name may be left out; runtimes do not count it among their inputs.
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in graph.defaults.items())
    return _described(model, graph)


def join(encoder: Any, head: Any, graph: Graph) -> Any:
    """The ONNX model of `graph`, made of those of its encoder and its head without tracing the encoder again.

    Args:
        encoder: its first output, which `graph` lacks, may need nodes after the input of the head; these are left out. Its
            other outputs and its inputs are those of `graph`, by position.
        head: its input is a tensor of the encoder's graph.
        graph: the description of the result; its module has the head as `head`.
    """
    onnx, joined = import_onnx(), copy.deepcopy(encoder)
    model = joined.graph
    added = onnx.compose.add_prefix_graph(head.graph, "head/", rename_inputs=False, rename_outputs=False)
    for node in added.node:
        node.name = f"/head{node.name.removeprefix('head/')}"
    del model.output[0]
    for value, axes in zip(model.output, graph.outputs[1:], strict=True):
        for node in model.node:
            node.output[:] = [axes.name if name == value.name else name for name in node.output]
        value.name = axes.name
    needed = {value.name for value in (*added.input, *model.input, *model.output)}
    nodes = []
    for node in reversed(model.node):
        if not needed.isdisjoint(node.output):
            needed.update(names_read(node))
            nodes.append(node)
    weights = [tensor for tensor in model.initializer if tensor.name in needed]
    for field_name, values in (("node", [*reversed(nodes), *added.node]), ("initializer", [*weights, *added.initializer])):
        model.ClearField(field_name)
        getattr(model, field_name).extend(values)
    model.output.insert(0, added.output[0])
    return _described(joined, graph)


def _described(model: Any, graph: Graph) -> Any:
    """An ONNX model with the shapes and metadata of its graph, checked by onnx."""
    onnx = import_onnx()
    _write_shapes(model, graph)
    onnx.helper.set_model_props(model, {key: str(value) for key, value in graph.metadata.items()})
    model.producer_name, model.producer_version = "zipasr", __version__
    onnx.checker.check_model(model)
    return model


def _write_shapes(model: Any, graph: Graph) -> None:
    """Write the shape of every output into a graph: dynamic axes by name, the others with the sizes of the first case."""
    with torch.no_grad():
        given = graph.module(*graph.cases[0])
    tensors = [given] if isinstance(given, Tensor) else given
    for value, axes, tensor in zip(model.graph.output, graph.outputs, tensors, strict=True):
        assert value.name == axes.name
        del value.type.tensor_type.shape.dim[:]
        for axis, size in enumerate(tensor.shape):
            dim = value.type.tensor_type.shape.dim.add()
            if axis in axes.dynamic:
                dim.dim_param = axes.dynamic[axis]
            else:
                dim.dim_value = size


def compare(model: Any, graph: Graph) -> float:
    """Largest difference from the original over all cases, relative to the largest value of the output.

    Integers must be equal; otherwise the difference is infinite, as it is for outputs that are not finite.
    """
    session = open_session(model.SerializeToString(), name=graph.name)
    names, worst = [axes.name for axes in graph.inputs], 0.0
    for case in graph.cases:
        found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, case, strict=True)})
        with torch.no_grad():
            expected = graph.expected(*case)
        for i, tensor in enumerate(expected):
            lens = expected[1] if graph.has_lens and i == 0 else None
            worst = max(worst, _difference(torch.from_numpy(np.asarray(found[i])), tensor, lens))
    return worst


def _difference(found: Tensor, expected: Tensor, lens: Tensor | None) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(found, expected) else float("inf")
    if lens is not None:
        is_padding = (torch.arange(expected.shape[1]) >= lens.unsqueeze(1)).unsqueeze(-1)
        found, expected = found.masked_fill(is_padding, 0.0), expected.masked_fill(is_padding, 0.0)
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    return float(difference) if bool(difference.isfinite()) else float("inf")


def check(model: Any, graph: Graph, *, tolerance: float) -> float:
    """The result of `compare`, if it is within the tolerance.

    Raises:
        ExportError: the graph differs by more than `tolerance`.
    """
    difference = compare(model, graph)
    if not difference <= tolerance:
        raise ExportError(
            f"the graph of the {graph.name} must agree with PyTorch within {tolerance:g} of the largest value, but differs "
            f"by {difference:.2g}; nothing was written. If that is acceptable, raise --tolerance; otherwise please report it"
        )
    return difference
