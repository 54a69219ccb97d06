"""A model folder in, a folder of ONNX graphs out: `export_model`. The graphs are those that sherpa-onnx reads.

Features (N, T, 80) at 100 Hz go in; N and T are free. A transducer is three graphs (encoder, decoder, joiner), a CTC head
one with the encoder in it; a model with both gives both. Each is compared with PyTorch before anything is written, and
the folder is then there whole or not at all.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zipasr import checkpoint
from zipasr.config import to_json
from zipasr.errors import ConfigError
from zipasr.export.offline import offline_graphs
from zipasr.export.online import online_graphs
from zipasr.export.readme import describe, sherpa_onnx_limits
from zipasr.export.trace import Graph, check, import_onnx, trace
from zipasr.model import AsrModel, resolve_model_folder
from zipasr.onnx_runtime import EXPORT_FILE, HIDDEN_FRAMES, ExportedConfig, ExportedFiles, Precision, is_exported
from zipasr.recognizer.chunks import ChunkSizes, frames_50hz
from zipasr.search.confidence import CALIBRATION_FILE
from zipasr.search.default_search import SEARCH_FILE, read_default_search
from zipasr.tokenizer import Tokenizer

TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "float16": 1e-2}
"""Largest difference from PyTorch, as a share of the largest value. Rounding alone gives 1e-6 to 1e-5 in float32, 1e-3 with
weights in float16."""
LEFT_CONTEXT_MS = 2560
"""Left context of the published streaming models."""
_FEWEST_HALVED = 64
"""Values of a weight that is worth storing in float16."""


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    folder: Path
    """Where."""
    config: ExportedConfig
    """Which graphs."""
    differences: dict[str, float]
    """Largest difference of each graph from PyTorch, as a share of the largest value; in int8 before quantisation."""
    num_bytes: int
    """Size of the graphs."""
    limits: str | None = None
    """What sherpa-onnx loses against the model's default search, in sentences."""

    def to_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        files = {part: name for part, name in vars(self.config.files).items() if name is not None}
        return {
            "folder": str(self.folder),
            "precision": self.config.precision,
            "files": files,
            "differences": self.differences,
            "num_bytes": self.num_bytes,
            "limits": self.limits,
        }

    def table(self) -> str:
        """The figures for people."""
        names: dict[str, str] = vars(self.config.files)
        rows = [f"  {names[part]}  differs from PyTorch by {value:.1e}" for part, value in self.differences.items()]
        notes = [] if self.limits is None else [f"note: {self.limits}"]
        return "\n".join([f"{self.folder}: {self.num_bytes / 1e6:.1f} MB, {self.config.precision}", *rows, *notes])


def export_model(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "float32",
    tolerance: float | None = None,
    chunk_ms: int | None = None,
    left_context_ms: int | None = None,
) -> ExportReport:
    """Write the graphs of a model.

    Args:
        folder: a model, or the folder of a training run.
        out: the folder to write; one that an earlier export wrote is replaced.
        precision: float32, or float16 for weights of half the size. For int8 see `export.quantize`.
        tolerance: largest difference from PyTorch, as a share of the largest value; None: that of `TOLERANCES`.
        chunk_ms: length of the chunks of a causal model that is to stream; None: whole utterances.
        left_context_ms: sound before a chunk that is seen, a multiple of the chunk; None: that of `LEFT_CONTEXT_MS`.
    Raises:
        CheckpointError: the model cannot be read, or the folder cannot be written.
        ConfigError: the model cannot be exported, `out` holds something else, or a package is missing.
        ExportError: a graph differs from PyTorch by more than the tolerance.
    """
    source = resolve_model_folder(folder)
    check_target(out)
    sizes = sizes_in_frames(chunk_ms, left_context_ms)
    model, tokenizer = AsrModel.load(source)
    graphs, differences = make_graphs(wanted_graphs(model, sizes), precision=precision, tolerance=tolerance)
    config = exported_config(model, graphs, precision, sizes)
    return write_graphs(source, out, tokenizer, config, graphs, differences)


def sizes_in_frames(chunk_ms: int | None, left_context_ms: int | None) -> ChunkSizes | None:
    """Chunk and left context of graphs that are to hear chunks; see `export_model`.

    Raises:
        ConfigError: there is a left context without a chunk, or one is no positive multiple of a frame.
    """
    if chunk_ms is None:
        if left_context_ms is not None:
            raise ConfigError("the left context is that of chunks, but there are none; give --chunk-ms too, or neither")
        return None
    left_context_ms = LEFT_CONTEXT_MS if left_context_ms is None else left_context_ms
    return ChunkSizes(frames_50hz(chunk_ms, name="--chunk-ms"), frames_50hz(left_context_ms, name="--left-context-ms"))


def wanted_graphs(model: AsrModel, sizes: ChunkSizes | None) -> dict[str, Graph]:
    """What to trace of a model, by the field of `ExportedFiles`: graphs that hear such chunks, or whole utterances.

    Raises:
        ConfigError: the model cannot be exported, or cannot hear such chunks.
    """
    if sizes is None:
        return offline_graphs(model)
    return online_graphs(model, chunk_frames_50hz=sizes.chunk, left_context_frames_50hz=sizes.left_context)


def make_graphs(
    wanted: Mapping[str, Graph], *, precision: Precision = "float32", tolerance: float | None = None
) -> tuple[dict[str, Any], dict[str, float]]:
    """ONNX models by the field of `ExportedFiles`, compared with PyTorch, and their differences; see `export_model`."""
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    made, differences = {}, {}
    for part, graph in wanted.items():
        traced = trace(graph)
        if "ctc_head" in wanted and part == "encoder":
            _name_hidden_frames(traced)
        if precision == "float16":
            _halve_weights(traced)
        differences[part] = check(traced, graph, tolerance=limit)
        made[part] = traced
    return made, differences


def check_target(out: str | os.PathLike[str]) -> None:
    """Refuse to replace what no export wrote.

    Raises:
        ConfigError: there is something else.
    """
    out = Path(out)
    if out.exists() and not is_exported(out) and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(
            f"--out must be a new folder or one that an export wrote, but {out} holds something else; name another"
        )


def write_graphs(
    source: Path,
    out: str | os.PathLike[str],
    tokenizer: Tokenizer,
    config: ExportedConfig,
    graphs: Mapping[str, Any],
    differences: dict[str, float],
    *,
    documents: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write graphs with all that running them needs: tokenizer, description, calibrations; the folder appears whole."""
    names: dict[str, str] = vars(config.files)
    blobs = {names[part]: graph.SerializeToString() for part, graph in graphs.items()}
    num_bytes = sum(map(len, blobs.values()))
    default = read_default_search(source)
    limits = sherpa_onnx_limits(config, default) if default is not None else None
    blobs |= tokenizer.to_files() | {"README.md": describe(config, limits=limits).encode()}
    blobs |= {name: (source / name).read_bytes() for name in (CALIBRATION_FILE, SEARCH_FILE) if (source / name).is_file()}
    path = checkpoint.write_folder(
        out, documents={EXPORT_FILE: to_json(config), **(documents or {})}, tensors={}, blobs=blobs
    )
    return ExportReport(path, config, differences, num_bytes, limits)


def exported_config(
    model: AsrModel, graphs: Mapping[str, Any], precision: Precision, sizes: ChunkSizes | None = None
) -> ExportedConfig:
    """How an exported folder describes itself. In int8 only graphs with quantised products are called so."""
    chunk = "" if sizes is None else f"-chunk-{sizes.chunk}-left-{sizes.left_context}"
    stems = {
        "encoder": f"encoder{chunk}",
        "decoder": "decoder",
        "joiner": "joiner",
        "ctc": f"model{chunk}",
        "ctc_head": "ctc_head",
    }
    head = model.config.transducer
    return ExportedConfig(
        files=ExportedFiles(**{part: f"{stems[part]}{_ending(graph, precision)}.onnx" for part, graph in graphs.items()}),
        precision=precision,
        context_size=head.context_size if head is not None else 0,
        joiner_dim=head.joiner_dim if head is not None else 0,
        features=model.config.features,
        chunk_frames_50hz=None if sizes is None else sizes.chunk,
        left_context_frames_50hz=None if sizes is None else sizes.left_context,
    )


def _ending(graph: Any, precision: Precision) -> str:
    if precision == "int8":
        return ".int8" if any(node.op_type == "MatMulInteger" for node in graph.graph.node) else ""
    return {"float32": "", "float16": ".fp16"}[precision]


def _name_hidden_frames(model: Any) -> None:
    """Name what goes into the joiner's projection, the last product of an encoder, for `OnnxModel`."""
    nodes = {output: node for node in model.graph.node for output in node.output}
    node = nodes[model.graph.output[0].name]
    while node.op_type != "MatMul":
        node = next(nodes[name] for name in node.input if name in nodes)
    old = node.input[0]
    for node in model.graph.node:
        node.input[:] = [HIDDEN_FRAMES if name == old else name for name in node.input]
        node.output[:] = [HIDDEN_FRAMES if name == old else name for name in node.output]


def _halve_weights(model: Any) -> None:
    """Store weights in float16 and have the runtime widen them when it loads the graph; arithmetic stays in float32.

    Onnxruntime has a converter that computes in float16 as well, but onnxruntime 1.32 crashes when it opens what that makes
    of a Zipformer.
    """
    onnx = import_onnx()
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < _FEWEST_HALVED:
            continue
        wide, name = onnx.numpy_helper.to_array(tensor), tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT, name=f"{name}.cast"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
