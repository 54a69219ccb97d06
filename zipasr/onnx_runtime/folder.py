"""Loading a folder that `zipasr export` wrote: `load`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from zipasr.checkpoint import CHECKSUMS, CheckpointFolder
from zipasr.errors import CheckpointError
from zipasr.features import FbankConfig
from zipasr.onnx_runtime.layout import EXPORT_FILE, VALID_FEATURES, ExportedConfig
from zipasr.onnx_runtime.model import OnnxModel
from zipasr.onnx_runtime.streaming import OnnxStreamingModel
from zipasr.tokenizer import MODEL_FILE, Tokenizer


class Exported(NamedTuple):
    """A loaded exported folder: scorer, tokenizer and feature configuration."""

    scorer: OnnxModel
    tokenizer: Tokenizer
    features: FbankConfig


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that `zipasr export` wrote."""
    return (Path(folder) / EXPORT_FILE).is_file() and (Path(folder) / CHECKSUMS).is_file()


def load(folder: str | os.PathLike[str], *, num_threads: int | None = None) -> Exported:
    """Load an exported folder.

    Args:
        folder: a folder that `zipasr export` wrote.
        num_threads: threads of onnxruntime; None: as many as PyTorch uses.
    Raises:
        CheckpointError: the folder is missing, incomplete or damaged.
        ConfigError: onnxruntime is not installed.
    """
    files = CheckpointFolder(folder)
    config = files.config(ExportedConfig, EXPORT_FILE)
    named = config.files.named()
    # With an encoder and a CTC head the combined graph is not needed.
    graphs = {name: files.blob(name) for part, name in named.items() if part != "ctc" or "encoder" not in named}
    try:
        scorer = open_graphs(config, graphs, num_threads=num_threads)
    except CheckpointError as error:
        raise CheckpointError(f"{files.path}: {error}") from error
    return Exported(scorer, Tokenizer.from_bytes(files.blob(MODEL_FILE)), config.features)


def open_graphs(config: ExportedConfig, graphs: Mapping[str, bytes], *, num_threads: int | None = None) -> OnnxModel:
    """The model of graphs in memory; arguments as for `OnnxModel`."""
    if config.chunk_frames_50hz is None:
        return OnnxModel(config, graphs, num_threads=num_threads)
    model = OnnxStreamingModel(config, graphs, num_threads=num_threads)
    if not model.takes_lengths:
        raise CheckpointError(f"streaming graphs must take {VALID_FEATURES}, but these do not; export again")
    return model
