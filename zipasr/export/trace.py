"""From a module to an ONNX graph that is known to compute the same: `Graph` says what to trace, `trace` traces it, `compare`
runs it in onnxruntime beside the original on inputs of several sizes.

The exporter is the one that traces (`dynamo=False`). Every PyTorch from 2.6 on has it, it needs no onnxscript and takes
seconds, and the stand-ins of `export.graph` hold nothing that tracing gets wrong. The newer one takes twenty times as long.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zipasr.errors import ConfigError, ExportError
from zipasr.onnx_runtime import INSTALL, open_session

OPSET = 13
"""That of the published models, so that every runtime which reads those reads ours."""


class Axes(NamedTuple):
    """Name of a tensor and of its axes that may have any size."""

    name: str
    dynamic: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A module to trace, and what its graph must look like."""

    name: str
    """What it is, for messages."""
    module: nn.Module
    """Takes and gives tensors."""
    inputs: Sequence[Axes]
    """By position."""
    outputs: Sequence[Axes]
    """By position."""
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Inputs that may be left out, the last ones, and what they are then."""
    metadata: Mapping[str, str | int] = field(default_factory=dict)
    """What the reading program is told."""
    cases: Sequence[tuple[Tensor, ...]]
    """Inputs on which it must agree; the first one is traced."""
    expected: Callable[..., Sequence[Tensor]]
    """What the original gives for a case: tensors, the first ones of all outputs to be compared."""
    is_valid: Callable[[Sequence[Tensor], int], Tensor | None] = lambda outputs, i: None
    """Which elements of expected output i hold a meaning, broadcastable to it; None: all."""


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
        warnings.simplefilter("ignore")  # of tracing, whose result is compared, and of the age of this exporter
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
    _write_shapes(model, graph)
    # An input with an initializer of the same name may be left out; runtimes do not count it among their inputs.
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in graph.defaults.items())
    onnx.helper.set_model_props(model, {key: str(value) for key, value in graph.metadata.items()})
    model.producer_name, model.producer_version = "zipasr", ""
    onnx.checker.check_model(model)
    return model


def _write_shapes(model: Any, graph: Graph) -> None:
    """Write the shape of every output: dynamic axes by name, the others as the first case has them."""
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
    """Largest difference from the original over all cases, as a share of the largest value of that output.

    Whole numbers must be equal: otherwise the difference is infinite, as it is for outputs that are not finite.
    """
    session = open_session(model.SerializeToString(), name=graph.name)
    names, worst = [axes.name for axes in graph.inputs], 0.0
    for case in graph.cases:
        found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, case, strict=True)})
        with torch.no_grad():
            expected = graph.expected(*case)
        for i, tensor in enumerate(expected):
            valid = graph.is_valid(expected, i)
            worst = max(worst, _difference(torch.from_numpy(np.asarray(found[i])), tensor, valid))
    return worst


def _difference(found: Tensor, expected: Tensor, valid: Tensor | None) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(found, expected) else float("inf")
    if valid is not None:
        found, expected = found.masked_fill(~valid, 0.0), expected.masked_fill(~valid, 0.0)
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    return float(difference) if bool(difference.isfinite()) else float("inf")


def check(model: Any, graph: Graph, *, tolerance: float) -> float:
    """`compare`, and refuse what differs by more than `tolerance`.

    Raises:
        ExportError: it does.
    """
    difference = compare(model, graph)
    if not difference <= tolerance:
        raise ExportError(
            f"the graph of the {graph.name} must agree with PyTorch within {tolerance:g} of the largest value, but differs "
            f"by {difference:.2g}; nothing was written. If you can live with that, raise --tolerance; else please report it"
        )
    return difference
