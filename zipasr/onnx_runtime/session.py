"""Sessions of onnxruntime on the CPU, and the extra output of an encoder's graph."""

import os
from pathlib import Path
from typing import Any

from zipasr.errors import CheckpointError, ConfigError
from zipasr.onnx_runtime.layout import HIDDEN_FRAMES

INSTALL = 'install it with: pip install "zipasr[onnx]"'
"""What messages say if onnxruntime is missing."""


def open_session(graph: bytes | Path, *, name: str, num_threads: int = 1) -> Any:
    """An onnxruntime session on the CPU of a graph in memory, or in a file, which is read once.

    Raises:
        CheckpointError: the graph is damaged.
        ConfigError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"running an exported model needs onnxruntime; {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    source = graph if isinstance(graph, bytes) else os.fspath(graph)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise CheckpointError(f"{name} must be an ONNX graph, but onnxruntime cannot open it: {error}") from error


def quiet_runs() -> Any:
    """Options of runs that write nothing to stderr when they fail; the exception says it too."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options


def run_session(session: Any, values: dict[str, Any], options: Any, *, name: str) -> list[Any]:
    """The outputs of a session for arrays by name.

    Raises:
        CheckpointError: onnxruntime cannot compute the graph with them.
    """
    try:
        outputs: list[Any] = session.run(None, values, options)
    except _errors() as error:
        shapes = ", ".join(f"{key} {tuple(array.shape)}" for key, array in list(values.items())[:2])
        raise CheckpointError(f"{name} must take {shapes}, but onnxruntime fails with them: {error}") from error
    return outputs


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions of onnxruntime."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
    )
    return tuple(getattr(state, name) for name in names)


def with_hidden_frames(graph: bytes, name: str) -> bytes:
    """The encoder's graph with the frames before the joiner's projection as an additional output."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ConfigError(f"an exported model with a transducer and a CTC head needs onnx; {INSTALL}") from error
    try:
        model = onnx.load_from_string(graph)
    except DecodeError as error:
        raise CheckpointError(f"{name} must be an ONNX graph, but cannot be read: {error}") from error
    if not any(HIDDEN_FRAMES in node.output for node in model.graph.node):
        raise CheckpointError(f"{name} must compute {HIDDEN_FRAMES}, but does not; export again")
    model.graph.output.append(onnx.ValueInfoProto(name=HIDDEN_FRAMES))
    return model.SerializeToString()
