"""The same models are exported in many tests; here their graphs are traced once."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from zipasr.export import onnx as export_onnx
from zipasr.export.trace import Graph, trace

_TRACED: dict[tuple[str, ...], Any] = {}


def _fingerprint(graph: Graph) -> tuple[str, ...]:
    """What tracing depends on: the modules, their weights, the inputs, and what the graph declares."""
    digest = hashlib.sha256()
    for tensor in (*graph.module.state_dict().values(), *graph.cases[0]):
        digest.update(tensor.detach().numpy().tobytes())
    declared = (graph.inputs, graph.outputs, graph.defaults, graph.metadata)
    shapes = [tuple(tensor.shape) for tensor in graph.cases[0]]
    return graph.name, repr(graph.module), repr(declared), repr(shapes), digest.hexdigest()


def _trace(graph: Graph) -> Any:
    key = _fingerprint(graph)
    if key not in _TRACED:
        _TRACED[key] = trace(graph)
    return copy.deepcopy(_TRACED[key])


@contextmanager
def traced_once() -> Iterator[None]:
    """While the block runs, exports trace equal graphs only once; each export still compares them with PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_onnx, "trace", _trace)
        yield
