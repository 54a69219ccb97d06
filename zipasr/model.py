"""The complete model: `AsrModel` = encoder + heads, its configuration, the presets, and its folder on disk.

Input are features (N, T, 80) at 100 Hz; `encode` returns frames at 25 Hz, `loss` a dict. The model is a `Scorer`.
"""

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zipasr import checkpoint
from zipasr.baselines import (
    Branchformer,
    BranchformerConfig,
    Conformer,
    ConformerConfig,
    EBranchformer,
    EBranchformerConfig,
    Squeezeformer,
    SqueezeformerConfig,
)
from zipasr.config import to_json
from zipasr.encoder.state import StreamState
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.heads.attention import AttentionConfig, AttentionHead
from zipasr.heads.ctc import CtcConfig, CtcHead
from zipasr.heads.transducer import TransducerConfig, TransducerHead
from zipasr.nn.encoded import Encoded
from zipasr.nn.lora import merged_state_dict
from zipasr.tokenizer import MODEL_FILE, Tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MODEL_SUBFOLDER = "model"
"""Folder of the model inside the folder of a training run."""
logger = logging.getLogger(__name__)

EncoderConfig = ZipformerConfig | ConformerConfig | SqueezeformerConfig | BranchformerConfig | EBranchformerConfig


@dataclass(frozen=True, kw_only=True)
class AsrConfig:
    """Complete shape of a model: features, encoder and heads. The defaults are the published Zipformer-M transducer."""

    vocab_size: int = 500
    """Vocabulary size V, including the blank."""
    blank_id: int = 0
    """Id of the blank."""
    sos_eos_id: int = 1
    """Id of the start and the end of a sentence, for the attention decoder."""
    features: FbankConfig = field(default_factory=FbankConfig)
    """Feature configuration."""
    encoder: EncoderConfig = field(default_factory=ZipformerConfig)
    """The encoder: Zipformer or a baseline."""
    transducer: TransducerConfig | None = field(default_factory=TransducerConfig)
    """The transducer head, or None."""
    ctc: CtcConfig | None = None
    """The CTC head, or None."""
    attention: AttentionConfig | None = None
    """The attention decoder, in addition to another head, or None."""

    def __post_init__(self) -> None:
        if self.transducer is None and self.ctc is None:
            note = "" if self.attention is None else " (the attention decoder only rescores their hypotheses)"
            raise ConfigError(f"a model must have a head, but transducer and ctc are both None; set one of them{note}")
        if not 0 <= self.blank_id < self.vocab_size or self.vocab_size < 2:
            raise ConfigError(f"vocab_size must be at least 2 and above blank_id, {self.blank_id}, but is {self.vocab_size}")
        if self.encoder.num_features != self.features.num_mel_bins:
            raise ConfigError(
                f"encoder.num_features must equal features.num_mel_bins, {self.features.num_mel_bins}, "
                f"but is {self.encoder.num_features}"
            )

    def for_vocabulary(self, tokenizer: Tokenizer) -> "AsrConfig":
        """The same for a vocabulary: its size and special ids; only an attention decoder needs sos/eos."""
        sos_eos_id = tokenizer.sos_eos_id if self.attention is not None else self.sos_eos_id
        return replace(self, vocab_size=tokenizer.vocab_size, blank_id=tokenizer.blank_id, sos_eos_id=sos_eos_id)


def make_encoder(config: EncoderConfig) -> Zipformer | Conformer | Squeezeformer | Branchformer | EBranchformer:
    """The encoder of a configuration, with random weights."""
    if isinstance(config, ZipformerConfig):
        return Zipformer(config)
    if isinstance(config, ConformerConfig):
        return Conformer(config)
    if isinstance(config, SqueezeformerConfig):
        return Squeezeformer(config)
    if isinstance(config, BranchformerConfig):
        return Branchformer(config)
    return EBranchformer(config)


class AsrModel(nn.Module):
    """Encoder and heads: losses in training, scores for the searches in inference."""

    def __init__(self, config: AsrConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(config.encoder)
        sizes = {"encoder_channels": self.encoder.output_channels, "vocab_size": config.vocab_size}
        self.transducer: TransducerHead | None = None
        self.ctc: CtcHead | None = None
        self.attention: AttentionHead | None = None
        if config.transducer is not None:
            self.transducer = TransducerHead(config.transducer, **sizes, blank=config.blank_id)
        if config.ctc is not None:
            self.ctc = CtcHead(config.ctc, **sizes, blank=config.blank_id)
        if config.attention is not None:
            self.attention = AttentionHead(config.attention, **sizes, sos_eos=config.sos_eos_id)

    def encode(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
    ) -> Encoded:
        """Encode a padded batch of features.

        As in the original, Conv-Embed processes the padding of shorter utterances, so the last frames of an utterance
        depend on what follows it. If every utterance is padded by 24 or more frames of `features.PADDING_VALUE` that
        `lens` does not count, as in the recognizer, results do not depend on the batch.

        Args:
            features: (N, T, F) at 100 Hz.
            lens: (N,) valid frames, int64.
            chunk_frames_50hz: see `Zipformer.forward`.
            left_context_frames_50hz: see `Zipformer.forward`.
        Raises:
            ValueError: shapes disagree, or chunks are requested from a model that is not causal.
        """
        if isinstance(self.encoder, Zipformer):
            return self.encoder(
                features, lens, chunk_frames_50hz=chunk_frames_50hz, left_context_frames_50hz=left_context_frames_50hz
            )
        for name, frames in (("chunk", chunk_frames_50hz), ("left_context", left_context_frames_50hz)):
            if frames not in (None, -1):
                raise ValueError(
                    f"{name}_frames_50hz must be -1 for {type(self.encoder).__name__}, but is {frames}; only a causal "
                    "Zipformer encodes in chunks"
                )
        return self.encoder(features, lens)

    def initial_state(self, batch_size: int, *, chunk_frames_50hz: int, left_context_frames_50hz: int) -> StreamState:
        """The state of `batch_size` new streams; see `Zipformer.initial_state`."""
        return self._streaming_encoder().initial_state(
            batch_size, chunk_frames_50hz=chunk_frames_50hz, left_context_frames_50hz=left_context_frames_50hz
        )

    def encode_chunk(self, features: Tensor, lens: Tensor, state: StreamState) -> tuple[Encoded, StreamState]:
        """Encode the next chunk of N streams; see `Zipformer.encode_chunk`."""
        return self._streaming_encoder().encode_chunk(features, lens, state)

    def encode_chunks(
        self, features: Tensor, lens: Tensor, states: Sequence[StreamState]
    ) -> tuple[Encoded, list[StreamState]]:
        """Encode the next chunk of streams that have a state each, in one batch; see `Zipformer.encode_chunk`.

        Args:
            features: (N, 2 C + 13, F) windows at 100 Hz.
            lens: (N,) valid features of each window.
            states: state of each stream.
        Returns:
            Frames of all streams, and the next state of each; the states share no memory.
        Raises:
            ValueError: states differ in chunk, left context or model, or do not match the windows.
        """
        encoded, after = self.encode_chunk(features, lens, StreamState.stack(states))
        return encoded, after.unstack()

    def _streaming_encoder(self) -> Zipformer:
        if not isinstance(self.encoder, Zipformer):
            raise ValueError(f"only a causal Zipformer can stream, but this encoder is a {type(self.encoder).__name__}")
        return self.encoder

    def forward(self, features: Tensor, lens: Tensor, labels_NS: Tensor, label_lens: Tensor) -> dict[str, Tensor]:
        """`loss` of features: (N, T, F) at 100 Hz and (N,) valid frames, or (2N, T, F) and (2N,) for two views."""
        return self.loss(self.encode(features, lens), labels_NS, label_lens)

    def loss(self, encoded: Encoded, labels_NS: Tensor, label_lens: Tensor) -> dict[str, Tensor]:
        """Losses of the configured heads: "simple" and "pruned", "ctc", "attention", "consistency".

        With 2N rows of frames for N rows of labels, rows n and N + n are two views of one utterance. Every loss is then
        the mean of both views, and "consistency" is half the sum of their divergences from each other (CR-CTC).

        Args:
            encoded: N or 2N rows of frames.
            labels_NS: (N, S) ids without blank.
            label_lens: (N,) valid labels.
        Returns:
            Each loss, summed over the batch, in nats.
        Raises:
            ValueError: there are neither N nor 2N rows of frames, or two views and no CTC head to compare them.
        """
        num_rows, size = encoded.frames.shape[0], labels_NS.shape[0]
        if num_rows not in (size, 2 * size):
            raise ValueError(f"there must be one or two views of {size} labeled utterances, but {num_rows} rows of frames")
        has_two_views = num_rows != size
        if has_two_views and self.ctc is None:
            raise ValueError("two views are compared by the CTC head, but this model has none; give one view")
        if has_two_views:
            labels_NS, label_lens = labels_NS.repeat(2, 1), label_lens.repeat(2)
        losses: dict[str, Tensor] = {}
        if self.transducer is not None:
            losses |= self.transducer.loss(encoded, labels_NS, label_lens)
        if self.ctc is not None:
            losses |= self.ctc.loss(encoded, labels_NS, label_lens, has_two_views=has_two_views)
        if self.attention is not None:
            losses |= self.attention.loss(encoded, labels_NS, label_lens)
        return {name: 0.5 * loss for name, loss in losses.items()} if has_two_views else losses

    # The Scorer protocol of the searches.

    @property
    def blank_id(self) -> int:
        """Id of the blank."""
        return self.config.blank_id

    @property
    def context_size(self) -> int:
        """Number of previous labels that the predictor receives; 0 without a transducer head."""
        return self.transducer.config.context_size if self.transducer is not None else 0

    @property
    def has_transducer(self) -> bool:
        """Whether there is a transducer head."""
        return self.transducer is not None

    @property
    def has_ctc(self) -> bool:
        """Whether there is a CTC head."""
        return self.ctc is not None

    @property
    def has_attention(self) -> bool:
        """Whether there is an attention decoder."""
        return self.attention is not None

    def output_length(self, num_frames: int) -> int:
        """Number of frames at 25 Hz for `num_frames` features at 100 Hz; 0 if there are too few."""
        return self.encoder.output_length(num_frames)

    def project_frames(self, frames_NTD: Tensor) -> Tensor:
        """Project frames (N, T, D) to the joiner's input, (N, T, J)."""
        return self._transducer().joiner.encoder_proj(frames_NTD)

    def predict(self, contexts_MC: Tensor) -> Tensor:
        """Projected contexts (M, J) of the last `context_size` ids (M, C)."""
        head = self._transducer()
        return head.joiner.predictor_proj(head.predictor(contexts_MC)).squeeze(1)

    def join(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        """Logits (..., V) of projected frames and contexts that broadcast against each other."""
        return self._transducer().joiner(frames_MJ, contexts_MJ)

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        """Log-probabilities (N, T, V) of the CTC head."""
        if self.ctc is None:
            raise ValueError("this model has no CTC head; use a transducer search")
        return self.ctc(frames_NTD)

    def attention_log_probs(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        """Log-probability (N, K, S + 1) under the attention decoder of each label, and of eos, of K sequences each."""
        if self.attention is None:
            raise ValueError("this model has no attention decoder; use a search without rescoring")
        return self.attention.log_probs(encoded, labels_NKS, label_lens_NK)

    def _transducer(self) -> TransducerHead:
        if self.transducer is None:
            raise ValueError("this model has no transducer head; use a CTC search")
        return self.transducer

    def save(self, folder: str | os.PathLike[str], tokenizer: Tokenizer) -> Path:
        """Write configuration, weights and tokenizer into a checkpoint folder, atomically."""
        documents, tensors, blobs = self.to_files(tokenizer)
        return checkpoint.write_folder(folder, documents=documents, tensors=tensors, blobs=blobs)

    def to_files(self, tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], dict[str, bytes]]:
        """The documents, tensors and blobs of a model folder, for `checkpoint.write_folder`; adapters are merged."""
        if self.config != (needed := self.config.for_vocabulary(tokenizer)):
            raise ConfigError(
                f"the tokenizer must have the model's {self.config.vocab_size} entries, but has {needed.vocab_size}; the id "
                f"of its blank must be {self.config.blank_id} and is {needed.blank_id}; where the model has no output for a "
                "last piece <unk>, give tokenizer.fitted(model.config.vocab_size)"
            )
        return {CONFIG_FILE: to_json(self.config)}, {WEIGHTS_FILE: merged_state_dict(self)}, tokenizer.to_files()

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> tuple["AsrModel", Tokenizer]:
        """Read a model folder: the model, in eval mode on the CPU, and its tokenizer.

        Raises:
            CheckpointError: the folder is missing, incomplete or damaged.
        """
        files = checkpoint.CheckpointFolder(folder)
        model = checkpoint.build(AsrModel, files.config(AsrConfig, CONFIG_FILE), source=str(files.path / CONFIG_FILE))
        checkpoint.load_weights(model, files.tensors(WEIGHTS_FILE), source=str(files.path / WEIGHTS_FILE))
        return model.eval(), Tokenizer.from_bytes(files.blob(MODEL_FILE))


def resolve_model_folder(path: str | os.PathLike[str]) -> Path:
    """The model folder at `path`: `path` itself, or the model of the training run whose folder it is.

    That is the averaged model of the run's last validation, or before the first one its newest checkpoint (logged once).

    Raises:
        CheckpointError: `path` is neither.
    """
    path = Path(path)
    for folder in (path, path / MODEL_SUBFOLDER):
        if _is_model_folder(folder):
            return folder
    if path.is_file():
        cure = f"if it is icefall's, make a folder of it once: zipasr convert {path} --out converted (docs/icefall.md)"
        if path.suffix == ".onnx" or (path.parent / checkpoint.CHECKSUMS).is_file():
            cure = f"give its folder: {path.parent}"
        raise CheckpointError(f"{path} must be a model folder, but is a file; {cure}")
    saved = [(n, folder) for n, folder in checkpoint.checkpoint_folders(path).items() if _is_model_folder(folder)]
    if saved:
        num_steps, newest = saved[-1]
        _say_once(f"{path} has no averaged model before its first validation; using the checkpoint of batch {num_steps}")
        return newest
    if (path / CONFIG_FILE).is_file() and (path / checkpoint.LOCK_FILE).is_file():
        raise CheckpointError(
            f"{path} must be a training run with a model or a checkpoint, but it has written none yet; go on with the same "
            "train command"
        )
    found = "it is not" if path.is_dir() else "there is no such folder"
    cure = f"train one with: zipasr train DATA --out {path}"
    if any(path.glob("*.onnx")) or any(path.glob("*/*.onnx")):
        found, cure = "it holds ONNX graphs, which can only transcribe", "use the PyTorch checkpoint of the model"
    elif any(path.glob("*.pt")) or any(path.glob("*/*.pt")):
        found, cure = "it holds a checkpoint of another project", f"convert it: zipasr convert {path} --out DIR"
    raise CheckpointError(
        f"{path} must be a model folder ({checkpoint.CHECKSUMS}, {CONFIG_FILE}, {WEIGHTS_FILE}) or the folder of a training "
        f"run with one in its {MODEL_SUBFOLDER}/, but {found}; {cure}"
    )


def _is_model_folder(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and (folder / checkpoint.CHECKSUMS).is_file()


@functools.cache
def _say_once(text: str) -> None:
    """Log a line, though commands look for a model several times."""
    logger.warning("%s", text)


def small() -> AsrConfig:
    """Zipformer-S of the paper: 23,285,615 parameters with a transducer head and 500 labels."""
    encoder = ZipformerConfig(
        channels=(192, 256, 256, 256, 256, 256),
        unmasked_channels=(192,) * 6,
        num_layers=(2,) * 6,
        feedforward=(512, 768, 768, 768, 768, 768),
    )
    return AsrConfig(encoder=encoder)


def medium() -> AsrConfig:
    """Zipformer-M of the paper: 65,549,011 parameters with a transducer head and 500 labels."""
    return AsrConfig()


def large() -> AsrConfig:
    """Zipformer-L of the paper: 148,439,574 parameters with a transducer head and 500 labels."""
    encoder = ZipformerConfig(
        channels=(192, 256, 512, 768, 512, 256),
        unmasked_channels=(192, 192, 256, 320, 256, 192),
        num_layers=(2, 2, 4, 5, 4, 2),
        feedforward=(512, 768, 1536, 2048, 1536, 768),
    )
    return AsrConfig(encoder=encoder)


def tiny() -> AsrConfig:
    """About 2 M parameters for two CPU cores and under an hour of speech; transducer and CTC head.

    Conv-Embed is narrow, and attention at 50 and 25 Hz has two heads: they would dominate the time of such a model.
    """
    encoder = ZipformerConfig(
        conv_channels=(4, 16, 24),
        channels=(64, 96, 128, 128, 128, 96),
        unmasked_channels=(64, 64, 96, 96, 96, 64),
        num_layers=(1, 1, 1, 1, 1, 1),
        feedforward=(128, 192, 256, 256, 256, 192),
        num_heads=(2, 2, 4, 4, 4, 2),
        kernel_sizes=(15, 15, 15, 15, 15, 15),
        query_head_dim=16,
    )
    return AsrConfig(encoder=encoder, transducer=TransducerConfig(predictor_dim=128, joiner_dim=128), ctc=CtcConfig())
