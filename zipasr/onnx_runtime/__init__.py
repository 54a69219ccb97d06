"""ONNX graphs, run by onnxruntime: `OnnxModel` is a `Scorer` like `AsrModel`, so that the same searches run on it.

Features (N, T, F) at 100 Hz in, frames at 25 Hz out, on the CPU. `zipasr export` writes such a folder: ONNX graphs, the
tokenizer and `export.json`, which describes them. If a model has both heads, the frames for its CTC head are read from
inside the encoder's graph, so that the encoder runs once for both. Graphs of other projects run in the same way
(`load_foreign`); their metadata describe them.
"""

from zipasr.onnx_runtime.folder import Exported, is_exported, load, open_graphs
from zipasr.onnx_runtime.foreign import find_foreign, load_foreign
from zipasr.onnx_runtime.foreign_files import GraphFiles, find_graphs
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
    "GraphFiles",
    "OnnxModel",
    "OnnxStreamState",
    "OnnxStreamingModel",
    "Precision",
    "find_foreign",
    "find_graphs",
    "is_exported",
    "load",
    "load_foreign",
    "open_graphs",
    "open_session",
]
