"""Sessions of onnxruntime on the CPU, and the extra output of an encoder's graph."""

from typing import Any

from zipasr.errors import CheckpointError, ConfigError
from zipasr.onnx_runtime.layout import HIDDEN_FRAMES

INSTALL = 'install it with: pip install "zipasr[onnx]"'
"""What messages say if onnxruntime is missing."""


def open_session(graph: bytes, *, name: str, num_threads: int = 1) -> Any:
    """An onnxruntime session of a graph, on the CPU.

    Raises:
        CheckpointError: the graph is damaged.
        ConfigError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NotImplemented
    except ImportError as error:
        raise ConfigError(f"running an exported model needs onnxruntime; {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NotImplemented) as error:
        raise CheckpointError(f"{name} must be an ONNX graph, but onnxruntime cannot open it: {error}") from error


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
