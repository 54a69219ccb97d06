"""A graph that onnxruntime has opened: what its inputs are called, their types and shapes, its metadata, and running it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zipasr.errors import CheckpointError
from zipasr.onnx_runtime.session import open_session, quiet_runs, run_session

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class GraphInput(NamedTuple):
    """What a graph declares of an input."""

    name: str
    dtype: type[np.generic]
    """Type of its elements."""
    shape: tuple[int | None, ...]
    """Size of every axis; None: any."""

    @property
    def free_axes(self) -> list[int]:
        """The axes of any size."""
        return [axis for axis, size in enumerate(self.shape) if size is None]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join('any' if size is None else str(size) for size in self.shape)})"


class Graph:
    """A graph that runs on the CPU. Arrays in and out are by position; inputs are converted to the types of the graph."""

    def __init__(self, source: bytes | Path, *, name: str, num_threads: int) -> None:
        """Open a graph in memory, or from a file, beside which its weights may be.

        Raises:
            CheckpointError: the graph is damaged, or takes values of other types.
            ConfigError: onnxruntime is not installed.
        """
        self.name = name
        self._session = open_session(source, name=name, num_threads=num_threads)
        self._options = quiet_runs()
        self.inputs = [self._declared(given) for given in self._session.get_inputs()]
        """The inputs that it needs."""
        self.optional = {given.name: self._declared(given) for given in self._session.get_overridable_initializers()}
        """Inputs with default values, by name."""
        self.outputs = [_sizes(given.shape) for given in self._session.get_outputs()]
        """Size of every axis of every output; None: any."""
        self.output_names = [given.name for given in self._session.get_outputs()]
        """Names of the outputs."""
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        """What the graph says of itself."""

    def _declared(self, given: Any) -> GraphInput:
        if given.type not in _TYPES:
            raise CheckpointError(
                f"{self.name} must take numbers of the types {', '.join(_TYPES)}, but {given.name} is {given.type}; "
                "export the model again"
            )
        return GraphInput(given.name, _TYPES[given.type], _sizes(given.shape))

    def run(self, *arrays: np.ndarray, **optional: np.ndarray) -> list[np.ndarray]:
        """The outputs for inputs by position, and for optional ones by name.

        Raises:
            CheckpointError: onnxruntime cannot compute the graph with them.
        """
        values = {declared.name: _as(array, declared) for declared, array in zip(self.inputs, arrays, strict=True)}
        values |= {name: _as(array, self.optional[name]) for name, array in optional.items()}
        return run_session(self._session, values, self._options, name=self.name)


def _as(array: np.ndarray, declared: GraphInput) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=declared.dtype)


def _sizes(shape: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)
