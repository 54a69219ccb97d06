"""Exported folders run by onnxruntime: an `OnnxModel` is a `Scorer` as `AsrModel` is, so that the same searches run on it.

Features (N, T, F) at 100 Hz in, frames at 25 Hz out, all on the CPU. A folder is what `zipasr export` writes: ONNX graphs,
the tokenizer and `export.json`, which says what they are. Where a model has both heads, the frames that its CTC head takes
are read inside of the encoder's graph, so that one run of the encoder serves both.
"""

from zipasr.onnx_runtime.folder import Exported, is_exported, load, open_graphs
from zipasr.onnx_runtime.layout import EXPORT_FILE, HIDDEN_FRAMES, VALID_FEATURES, ExportedConfig, ExportedFiles, Precision
from zipasr.onnx_runtime.model import OnnxModel
from zipasr.onnx_runtime.session import INSTALL, open_session
from zipasr.onnx_runtime.streaming import OnnxStreamingModel, OnnxStreamState

__all__ = [
    "EXPORT_FILE",
    "HIDDEN_FRAMES",
    "INSTALL",
    "VALID_FEATURES",
    "Exported",
    "ExportedConfig",
    "ExportedFiles",
    "OnnxModel",
    "OnnxStreamState",
    "OnnxStreamingModel",
    "Precision",
    "is_exported",
    "load",
    "open_graphs",
    "open_session",
]
