"""A model folder in, a folder of ONNX graphs out: `export_model`. sherpa-onnx reads the graphs.

The graphs take features (N, T, 80) at 100 Hz; N and T are dynamic. A transducer has three graphs (encoder, decoder, joiner),
a CTC head has one that includes the encoder; a model with both heads has all of them. Each graph is compared with PyTorch
before anything is written, and the folder is written atomically.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zipasr import checkpoint
from zipasr.config import to_json
from zipasr.errors import ConfigError
from zipasr.export.integer import graphs_in
from zipasr.export.keywords import keyword_files
from zipasr.export.offline import offline_graphs
from zipasr.export.online import online_graphs
from zipasr.export.readme import VOCAB_FILE, attention_limits, describe, sherpa_onnx_limits, vocabulary_limits
from zipasr.export.search import search_of_graphs
from zipasr.export.trace import Graph, check, import_onnx, join, trace
from zipasr.folder_swap import require_name
from zipasr.hub import local_model
from zipasr.model import AsrModel, resolve_model_folder
from zipasr.onnx_runtime import EXPORT_FILE, HIDDEN_FRAMES, ExportedConfig, ExportedFiles, Precision, is_exported
from zipasr.recognizer.chunks import ChunkSizes, frames_50hz
from zipasr.search.confidence import CALIBRATION_FILE
from zipasr.search.default_search import SEARCH_FILE, SEARCH_FILES, read_default_search
from zipasr.search.keywords import Keyword
from zipasr.tokenizer import Tokenizer

TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "float16": 1e-2}
"""Largest allowed difference from PyTorch, relative to the largest value. Rounding alone gives 1e-6 to 1e-5 in float32, 1e-3
with weights in float16."""
LEFT_CONTEXT_MS = 2560
"""Left context of the published streaming models, in milliseconds."""
_FEWEST_HALVED = 64
"""Smallest number of values for which storing a weight in float16 pays off."""


@dataclass(frozen=True)
class ExportReport:
    """The result of an export."""

    folder: Path
    """The exported folder."""
    config: ExportedConfig
    """The description of its graphs."""
    differences: dict[str, float]
    """Largest difference of each graph from PyTorch, relative to the largest value; for int8 before quantization."""
    num_bytes: int
    """Total size of the graphs."""
    limits: str | None = None
    """What the graphs, or sherpa-onnx with them, lose compared with the model and its default search, in sentences."""

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return {
            "folder": str(self.folder),
            "precision": self.config.precision,
            "files": self.config.files.named(),
            "differences": self.differences,
            "num_bytes": self.num_bytes,
            "limits": self.limits,
        }

    def table(self) -> str:
        """The report as text."""
        names = self.config.files.named()
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
    keywords: Sequence[str | Keyword] = (),
) -> ExportReport:
    """Export a model to a folder of ONNX graphs and return a report.

    Args:
        folder: the folder of a model or of a training run.
        out: the folder to write; an earlier export there is replaced.
        precision: float32, or float16 for weights of half the size. For int8 see `export.quantize`.
        tolerance: largest allowed difference from PyTorch, relative to the largest value; None: that of `TOLERANCES`.
        chunk_ms: chunk length for streaming with a causal model; None: the graphs process whole utterances.
        left_context_ms: left context that attention sees, a multiple of the chunk; None: `LEFT_CONTEXT_MS`.
        keywords: keywords to write in the form of sherpa-onnx's spotter; they need streaming graphs of a transducer.
    Raises:
        CheckpointError: the model cannot be read, or the folder cannot be written.
        ConfigError: the model cannot be exported, `out` holds something else, or a package is missing.
        ExportError: a graph differs from PyTorch by more than the tolerance.
    """
    opened = open_model(folder, out, chunk_ms=chunk_ms, left_context_ms=left_context_ms, keywords=keywords)
    graphs, differences = make_graphs(opened.graphs(), precision=precision, tolerance=tolerance)
    return write_graphs(opened, out, graphs, precision, differences, {})


@dataclass(frozen=True)
class Opened:
    """A model that is to be exported."""

    source: Path
    """Its folder."""
    model: AsrModel
    tokenizer: Tokenizer
    sizes: ChunkSizes | None
    """Chunk and left context of streaming graphs; None: graphs of whole utterances."""
    keyword_files: Mapping[str, bytes]
    """The file of keywords, if there are any, by name."""

    def graphs(self) -> dict[str, Graph]:
        """The graphs to trace, by the field of `ExportedFiles`; errors as of `export_model`."""
        if self.sizes is None:
            return offline_graphs(self.model)
        sizes = self.sizes
        return online_graphs(self.model, chunk_frames_50hz=sizes.chunk, left_context_frames_50hz=sizes.left_context)


def open_model(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    chunk_ms: int | None,
    left_context_ms: int | None,
    keywords: Sequence[str | Keyword],
) -> Opened:
    """Open the model to export, once what can be checked without it is right; arguments and errors as of `export_model`."""
    source = resolve_model_folder(local_model(folder))
    check_target(out)
    sizes = _sizes_in_frames(chunk_ms, left_context_ms)
    model, tokenizer = AsrModel.load(source)
    files = keyword_files(keywords, tokenizer, has_transducer=model.has_transducer, is_streaming=sizes is not None)
    return Opened(source, model, tokenizer, sizes, files)


def _sizes_in_frames(chunk_ms: int | None, left_context_ms: int | None) -> ChunkSizes | None:
    if chunk_ms is None:
        if left_context_ms is not None:
            raise ConfigError("a left context has no effect without chunks; give --chunk-ms too, or neither")
        return None
    left_context_ms = LEFT_CONTEXT_MS if left_context_ms is None else left_context_ms
    return ChunkSizes(frames_50hz(chunk_ms, name="--chunk-ms"), frames_50hz(left_context_ms, name="--left-context-ms"))


def make_graphs(
    wanted: Mapping[str, Graph], *, precision: Precision = "float32", tolerance: float | None = None
) -> tuple[dict[str, Any], dict[str, float]]:
    """ONNX models by the field of `ExportedFiles`, and their differences from PyTorch; see `export_model`."""
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    has_both_heads = "ctc_head" in wanted
    made = {part: trace(graph) for part, graph in wanted.items() if part != "ctc" or not has_both_heads}
    if has_both_heads:
        _name_hidden_frames(made["encoder"])
        made["ctc"] = join(made["encoder"], made["ctc_head"], wanted["ctc"])
    if precision == "float16":
        for model in made.values():
            _halve_weights(model)
    differences = {part: check(made[part], graph, tolerance=limit) for part, graph in wanted.items()}
    return {part: made[part] for part in wanted}, differences


def check_target(out: str | os.PathLike[str]) -> None:
    """Check that a folder can be written: it is new, empty or from an earlier export.

    Raises:
        ConfigError: it holds something else, or has no name.
    """
    out = Path(out)
    require_name(out)
    if out.exists() and not is_exported(out) and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(
            f"--out must be a new folder or one of an earlier export, but {out} holds something else; choose another"
        )


def write_graphs(
    opened: Opened,
    out: str | os.PathLike[str],
    graphs: Mapping[str, Any],
    precision: Precision,
    differences: dict[str, float],
    documents: Mapping[str, Any],
) -> ExportReport:
    """Write an exported folder atomically: graphs, tokenizer, README, default search, calibrations, keywords, documents."""
    source, tokenizer = opened.source, opened.tokenizer
    config = exported_config(opened, graphs, precision)
    names = config.files.named()
    blobs = {names[part]: graph.SerializeToString() for part, graph in graphs.items()}
    num_bytes = sum(map(len, blobs.values()))
    default = read_default_search(source)
    search = search_of_graphs(default)
    notes = [
        attention_limits(config, default) if opened.model.has_attention else None,
        sherpa_onnx_limits(config, search) if search is not None else None,
        vocabulary_limits(tokenizer, has_transducer=config.files.encoder is not None),
    ]
    limits = " ".join(filter(None, notes)) or None
    readme = describe(
        config,
        limits=limits,
        is_spaceless=tokenizer.is_spaceless,
        is_byte_level=tokenizer.is_byte_level,
        can_encode=tokenizer.can_encode,
        has_keywords=bool(opened.keyword_files),
    )
    blobs |= {**opened.keyword_files, **tokenizer.to_files(), "README.md": readme.encode()}
    if config.files.encoder is not None and tokenizer.can_encode and not tokenizer.is_spaceless:
        blobs[VOCAB_FILE] = tokenizer.to_vocab()
    blobs |= {name: (source / name).read_bytes() for name in (CALIBRATION_FILE, *SEARCH_FILES) if (source / name).is_file()}
    if search is not None and search != default:
        blobs[SEARCH_FILE] = search.to_json().encode()
    path = checkpoint.write_folder(out, documents={EXPORT_FILE: to_json(config), **documents}, tensors={}, blobs=blobs)
    return ExportReport(path, config, differences, num_bytes, limits)


def exported_config(opened: Opened, graphs: Mapping[str, Any], precision: Precision) -> ExportedConfig:
    """The description of an exported folder. For int8, only graphs with quantized products get `.int8` in their names."""
    model, sizes = opened.model, opened.sizes
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
        blank_id=model.blank_id,
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
    """Name the input of the joiner's projection, the last product of an encoder, for `OnnxModel`."""
    nodes = {output: node for node in model.graph.node for output in node.output}
    node = nodes[model.graph.output[0].name]
    while node.op_type != "MatMul":
        node = next(nodes[name] for name in node.input if name in nodes)
    old = node.input[0]
    for node in model.graph.node:
        node.input[:] = [HIDDEN_FRAMES if name == old else name for name in node.input]
        node.output[:] = [HIDDEN_FRAMES if name == old else name for name in node.output]


def _halve_weights(model: Any) -> None:
    """Store weights in float16; the runtime casts them to float32 when it loads the graph, and computes in float32.

    onnxruntime has a converter for computing in float16, but onnxruntime 1.32 crashes when it opens the graph that the
    converter makes of a Zipformer.
    """
    for graph in reversed(graphs_in(model.graph)):
        _halve_own_weights(graph)


def _halve_own_weights(graph: Any) -> None:
    onnx = import_onnx()
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < _FEWEST_HALVED:
            continue
        wide, name = onnx.numpy_helper.to_array(tensor), tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT, name=f"{name}.cast"))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
