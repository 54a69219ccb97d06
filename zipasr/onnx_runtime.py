"""Exported folders run by onnxruntime: `OnnxModel`, a `Scorer` as `AsrModel` is, so that the same searches run on it.

Features (N, T, F) at 100 Hz in, frames at 25 Hz out, all on the CPU. A folder is what `zipasr export` writes: ONNX graphs,
the tokenizer and `export.json`, which says what they are. Where a model has both heads, the frames that its CTC head takes
are read inside of the encoder's graph, so that one run of the encoder serves both.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zipasr.checkpoint import CHECKSUMS, CheckpointFolder
from zipasr.config import from_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.nn.encoded import Encoded, check_input
from zipasr.tokenizer import MODEL_FILE, Tokenizer

EXPORT_FILE = "export.json"
"""Document of an exported folder: an `ExportedConfig`."""
HIDDEN_FRAMES = "frames"
"""Name, inside of an encoder's graph, of the encoder frames before the joiner's projection."""
MIN_FEATURES = 9
"""Fewest features of which an encoder makes a frame."""
INSTALL = 'install it with: pip install "zipasr[onnx]"'

Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ExportedFiles:
    """Names of the graphs of an exported folder; None for a head that the model lacks."""

    encoder: str | None = None
    """x (N, T, F), x_lens -> encoder_out (N, T', J), already projected for the joiner, encoder_out_lens."""
    decoder: str | None = None
    """y (N, C) -> decoder_out (N, J)."""
    joiner: str | None = None
    """encoder_out, decoder_out (N, J) -> logit (N, V)."""
    ctc: str | None = None
    """x, x_lens -> log_probs (N, T', V), log_probs_len."""
    ctc_head: str | None = None
    """frames (N, T', D) -> log_probs; beside a transducer only."""


@dataclass(frozen=True, kw_only=True)
class ExportedConfig:
    """What an exported folder holds."""

    files: ExportedFiles
    """The graphs."""
    precision: Precision = "float32"
    """Of the encoder's weights."""
    context_size: int = 0
    """Labels that the decoder sees; 0 without a transducer."""
    joiner_dim: int = 0
    """Width J of the joiner; 0 without a transducer."""
    features: FbankConfig = field(default_factory=FbankConfig)
    """What the model listens to."""
    chunk_frames_50hz: int | None = None
    """Frames of a chunk at 50 Hz of streaming graphs; None for graphs of whole utterances."""
    left_context_frames_50hz: int | None = None
    """Frames before the chunk that are seen, likewise."""


class Exported(NamedTuple):
    """An exported folder, opened."""

    scorer: "OnnxModel"
    tokenizer: Tokenizer
    features: FbankConfig


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that `zipasr export` wrote."""
    return (Path(folder) / EXPORT_FILE).is_file() and (Path(folder) / CHECKSUMS).is_file()


def load(folder: str | os.PathLike[str], *, num_threads: int | None = None) -> Exported:
    """Open an exported folder.

    Args:
        folder: what `zipasr export` wrote.
        num_threads: threads of onnxruntime; None: as many as PyTorch uses.
    Raises:
        CheckpointError: the folder is missing, incomplete or damaged.
        ConfigError: onnxruntime is not installed, or the graphs hear chunks.
    """
    files = CheckpointFolder(folder)
    try:
        config = from_json(ExportedConfig, files.document(EXPORT_FILE), where=f"{files.path / EXPORT_FILE}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if config.chunk_frames_50hz is not None:
        raise ConfigError(
            f"{files.path} must hold graphs of whole utterances, but they hear chunks; run them in sherpa-onnx as its "
            "README.md says, or export without --chunk-ms"
        )
    names = config.files
    graphs = {name: files.blob(name) for name in vars(names).values() if name is not None and name != names.ctc}
    if names.encoder is None and names.ctc is not None:
        graphs[names.ctc] = files.blob(names.ctc)
    try:
        scorer = OnnxModel(config, graphs, num_threads=num_threads)
    except CheckpointError as error:
        raise CheckpointError(f"{files.path}: {error}") from error
    return Exported(scorer, Tokenizer.from_bytes(files.blob(MODEL_FILE)), config.features)


def load_exported(folder: str | os.PathLike[str], *, num_threads: int | None = None) -> "OnnxModel":
    """The model of an exported folder; see `load`."""
    return load(folder, num_threads=num_threads).scorer


class OnnxModel:
    """Graphs of onnxruntime as a `Scorer`. The attention decoder is not exported."""

    def __init__(self, config: ExportedConfig, graphs: Mapping[str, bytes], *, num_threads: int | None = None) -> None:
        """Open the graphs.

        Args:
            config: what they are.
            graphs: their bytes by file name; with an encoder the whole CTC graph is not needed.
            num_threads: see `load`.
        Raises:
            CheckpointError: there are neither an encoder, a decoder and a joiner nor a CTC graph, or one is damaged.
            ConfigError: onnxruntime is not installed.
        """
        self.config = config
        files, threads = config.files, torch.get_num_threads() if num_threads is None else num_threads
        has_parts = None not in (files.encoder, files.decoder, files.joiner)
        if not has_parts and (files.ctc is None or files.encoder is not None):
            raise CheckpointError(
                f"{EXPORT_FILE} must name an encoder, a decoder and a joiner, or a CTC graph, but names {files}"
            )
        self._has_hidden_frames = has_parts and files.ctc_head is not None
        self._sessions: dict[str, Any] = {}
        wanted = ("encoder", "decoder", "joiner", "ctc_head") if has_parts else ("ctc",)
        for part in wanted:
            name = getattr(files, part)
            if name is None:
                continue
            graph = graphs[name]
            if part == "encoder" and self._has_hidden_frames:
                graph = _with_hidden_frames(graph, name)
            self._sessions[part] = open_session(graph, name=name, num_threads=threads)

    @property
    def blank_id(self) -> int:
        """Id of the blank."""
        return Tokenizer.blank_id

    @property
    def context_size(self) -> int:
        """Labels that the decoder sees; 0 without a transducer."""
        return self.config.context_size

    @property
    def has_transducer(self) -> bool:
        """Whether `project_frames`, `predict` and `join` work."""
        return "joiner" in self._sessions

    @property
    def has_ctc(self) -> bool:
        """Whether `ctc_log_probs` works."""
        return "ctc" in self._sessions or "ctc_head" in self._sessions

    @property
    def has_attention(self) -> bool:
        """False: the attention decoder is not exported."""
        return False

    def output_length(self, num_frames: int) -> int:
        """Frames at 25 Hz that come from `num_frames` features at 100 Hz; 0 if there are too few."""
        return (max(0, (num_frames - 7) // 2) + 1) // 2

    def encode(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
    ) -> Encoded:
        """Encode a padded batch of features (N, T, F); see `AsrModel.encode`.

        Returns:
            Frames of whatever the graphs give, for the other methods only, and their lengths.
        Raises:
            ValueError: shapes disagree, or chunks are asked for.
        """
        for name, frames in (("chunk", chunk_frames_50hz), ("left_context", left_context_frames_50hz)):
            if frames not in (None, -1):
                raise ValueError(f"{name}_frames_50hz must be -1 for a graph without chunks, but is {frames}")
        check_input(features, lens, num_features=self.config.features.num_mel_bins, min_frames=MIN_FEATURES)
        graph = "encoder" if self.has_transducer else "ctc"
        frames_NTD, lens_N, *hidden = self._run(graph, features.float(), lens.long())
        return Encoded(torch.cat([frames_NTD, *(tensor.float() for tensor in hidden)], dim=-1), lens_N)

    def project_frames(self, frames_NTD: Tensor) -> Tensor:
        """Frames of `encode` as the joiner takes them, (N, T, J)."""
        self._check_transducer()
        return frames_NTD[..., : self.config.joiner_dim]

    def predict(self, contexts_MC: Tensor) -> Tensor:
        """Projected contexts (M, J) of the last `context_size` ids (M, C); -1 stands for nothing."""
        self._check_transducer()
        if not len(contexts_MC):
            return torch.zeros(0, self.config.joiner_dim)
        (contexts_MJ,) = self._run("decoder", contexts_MC.long())
        return contexts_MJ

    def join(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        """Logits (..., V) of projected frames and contexts that broadcast against each other."""
        self._check_transducer()
        frames, contexts = torch.broadcast_tensors(frames_MJ, contexts_MJ)
        width = self.config.joiner_dim
        (logits,) = self._run("joiner", frames.reshape(-1, width), contexts.reshape(-1, width))
        return logits.view(*frames.shape[:-1], -1)

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        """Log-probabilities (N, T, V) of the CTC head for frames of `encode`."""
        if not self.has_ctc:
            raise ValueError("this model has no CTC head; use a transducer search")
        if "ctc" in self._sessions:
            return frames_NTD
        (log_probs,) = self._run("ctc_head", frames_NTD[..., self.config.joiner_dim :])
        return log_probs

    def attention_log_probs(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        """Raises ValueError: the attention decoder is not exported."""
        raise ValueError("exported models have no attention decoder; use a search without rescoring")

    def _check_transducer(self) -> None:
        if not self.has_transducer:
            raise ValueError("this model has no transducer head; use a CTC search")

    def _run(self, part: str, *inputs: Tensor) -> list[Tensor]:
        """Run a graph; tensors are passed and given by position."""
        session = self._sessions[part]
        names = [given.name for given in session.get_inputs()]
        arrays = [np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in inputs]
        return [torch.from_numpy(output) for output in session.run(None, dict(zip(names, arrays, strict=True)))]


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


def _with_hidden_frames(graph: bytes, name: str) -> bytes:
    """The encoder's graph with its frames before the joiner's projection as one more output."""
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
