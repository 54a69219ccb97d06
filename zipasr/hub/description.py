"""What a model folder of ours holds, read from its configuration and vocabulary: `describe_folder`. No weights are loaded.

An exported folder is described by its `export.json`, which does not say how many layers the graphs have.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zipasr.checkpoint import CheckpointFolder, build
from zipasr.config import to_json
from zipasr.encoder.rates import FRAME_MS_50HZ
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.features import FbankConfig
from zipasr.model import CONFIG_FILE, AsrConfig, AsrModel
from zipasr.onnx_runtime.layout import EXPORT_FILE, ExportedConfig
from zipasr.search.default_search import read_default_search
from zipasr.tokenizer import MODEL_FILE, Tokenizer

_BYTE_PIECES = 256


@dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """The encoder of a model."""

    name: str
    """Such as Zipformer 2 or conformer."""
    kind: str = ZipformerConfig.kind
    """As the configuration names it."""
    num_layers: tuple[int, ...] = ()
    """Layers of each stack; empty if that is not known."""
    channels: tuple[int, ...] = ()
    """Width of each stack."""
    feedforward: tuple[int, ...] = ()
    """Width of the feed-forward modules of each stack."""
    num_heads: tuple[int, ...] = ()
    """Attention heads of each stack."""
    downsample: tuple[int, ...] = ()
    """Time reduction of each stack, relative to 50 Hz."""


@dataclass(frozen=True, kw_only=True)
class VocabularyDescription:
    """The labels of a model."""

    kind: str
    """What they are: characters, pieces, bytes."""
    size: int
    """Number of labels, including the blank."""
    can_encode: bool = True
    """Whether a text can be written in them, as hotwords and training need."""
    case: str = ""
    """upper, lower or mixed; empty for scripts without case, and where the labels do not tell."""
    has_punctuation: bool = False
    """Whether labels write the marks of sentences."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """A model: what it is made of."""

    encoder: EncoderDescription
    heads: tuple[str, ...]
    """Of transducer, ctc, attention."""
    vocabulary: VocabularyDescription
    features: FbankConfig
    num_params: int | None = None
    """Number of parameters; None if the files do not tell."""
    context_size: int = 0
    """Previous labels that the transducer's predictor sees; 0 without a transducer."""
    is_causal: bool = False
    """Whether it can process audio that is still coming in."""
    chunks_ms: tuple[int, ...] = ()
    """Chunk lengths of a causal model: those it was trained with, or the one of its graphs."""
    left_contexts_ms: tuple[int, ...] = ()
    """Left contexts of a causal model, likewise."""
    precision: str = "float32"
    """Precision of the weights, or of each graph."""
    search: str = ""
    """The default search that the folder names; empty if none."""


def describe_folder(folder: str | os.PathLike[str]) -> ModelDescription:
    """The description of a model folder, or of an exported one.

    Raises:
        CheckpointError: it is neither, or incomplete or damaged.
    """
    files = CheckpointFolder(folder)
    tokenizer = Tokenizer.from_bytes(files.blob(MODEL_FILE))
    search = describe_search(files.path)
    if EXPORT_FILE in files.names():
        return describe_export(files.config(ExportedConfig, EXPORT_FILE), tokenizer, search=search)
    precision = "int8" if files.has_eight_bits else "float32"
    return describe_config(files.config(AsrConfig, CONFIG_FILE), tokenizer, search=search, precision=precision)


def describe_config(
    config: AsrConfig, tokenizer: Tokenizer, *, search: str = "", precision: str = "float32"
) -> ModelDescription:
    """The description of a model with this configuration and vocabulary; the precision is that of its stored weights."""
    heads = {"transducer": config.transducer, "ctc": config.ctc, "attention": config.attention}
    encoder = config.encoder if isinstance(config.encoder, ZipformerConfig) and config.encoder.is_causal else None
    return ModelDescription(
        encoder=_describe_encoder(config.encoder),
        heads=tuple(name for name, head in heads.items() if head is not None),
        vocabulary=describe_vocabulary(tokenizer),
        features=config.features,
        num_params=count_params(config),
        context_size=config.transducer.context_size if config.transducer is not None else 0,
        is_causal=encoder is not None,
        chunks_ms=_in_ms(encoder.chunk_frames_50hz) if encoder is not None else (),
        left_contexts_ms=_in_ms(encoder.left_context_frames_50hz) if encoder is not None else (),
        precision=precision,
        search=search,
    )


def describe_export(
    config: ExportedConfig,
    tokenizer: Tokenizer,
    *,
    search: str = "",
    precision: str | None = None,
    encoder: EncoderDescription = EncoderDescription(name="Zipformer 2"),
) -> ModelDescription:
    """The description of graphs and their vocabulary; `precision` is that of each graph, where `config` has one for all."""
    heads = {"transducer": config.files.encoder, "ctc": config.files.ctc}
    is_streaming = config.chunk_frames_50hz is not None
    return ModelDescription(
        encoder=encoder,
        heads=tuple(name for name, graph in heads.items() if graph is not None),
        vocabulary=describe_vocabulary(tokenizer),
        features=config.features,
        context_size=config.context_size,
        is_causal=is_streaming,
        chunks_ms=_in_ms([config.chunk_frames_50hz]),
        left_contexts_ms=_in_ms([config.left_context_frames_50hz]),
        precision=precision or config.precision,
        search=search,
    )


@functools.lru_cache(maxsize=8)
def count_params(config: AsrConfig) -> int:
    """Number of parameters of a model, counted without memory for them."""
    with torch.device("meta"):
        model = build(AsrModel, config, source="the configuration of the model")
    return sum(parameter.numel() for parameter in model.parameters())


def describe_search(folder: str | os.PathLike[str]) -> str:
    """The default search of a model folder, as flags name it; empty if it names none."""
    default = read_default_search(folder)
    return "" if default is None else str(default.search)


def describe_metadata(metadata: Mapping[str, str]) -> EncoderDescription:
    """The encoder of graphs of others by their metadata; those of whole recordings do not tell its sizes."""
    is_first = metadata.get("model_type") == "zipformer"
    keys = {"num_layers": "num_encoder_layers", "channels": "encoder_dims", "num_heads": "num_heads"}
    sizes: dict[str, Any] = {name: _numbers(metadata.get(key, "")) for name, key in keys.items()}
    return EncoderDescription(name="Zipformer 1" if is_first else "Zipformer 2", **sizes)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    return tuple(map(int, parts)) if all(part.isdecimal() and len(part) < 8 for part in parts) else ()


def describe_vocabulary(tokenizer: Tokenizer) -> VocabularyDescription:
    """What the labels of a vocabulary are."""
    letters = tokenizer.letters
    cased = [c for c in letters if c.lower() != c.upper()]
    case = "" if not cased else "upper" if all(c == c.upper() for c in cased) else "lower"
    if case == "lower" and any(c != c.lower() for c in cased):
        case = "mixed"
    return VocabularyDescription(
        kind=_vocabulary_kind(tokenizer),
        size=tokenizer.vocab_size,
        can_encode=tokenizer.can_encode,
        case=case,
        has_punctuation=bool(letters & set(".,?!。，？！、")),
    )


def _vocabulary_kind(tokenizer: Tokenizer) -> str:
    if tokenizer.is_byte_level:
        return "byte-level pieces"
    if tokenizer.is_spaceless:
        return "characters, without spaces"
    own = [piece for i, piece in enumerate(tokenizer.pieces) if i not in tokenizer.special_ids and i != tokenizer.unk_id]
    num_bytes = sum(piece.startswith("<0x") and piece.endswith(">") for piece in own)
    if max((len(piece.lstrip("▁")) for piece in own if not piece.startswith("<0x")), default=0) <= 1:
        return "characters"
    return "pieces, with bytes for the rest" if num_bytes == _BYTE_PIECES else "pieces"


def _describe_encoder(encoder: Any) -> EncoderDescription:
    if isinstance(encoder, ZipformerConfig):
        names = ("num_layers", "channels", "feedforward", "num_heads", "downsample")
        return EncoderDescription(name="Zipformer 2", **{name: getattr(encoder, name) for name in names})
    facts: Mapping[str, Any] = to_json(encoder)
    sizes: dict[str, Any] = {
        name: (facts[name],) for name in ("num_layers", "channels", "num_heads") if isinstance(facts.get(name), int)
    }
    return EncoderDescription(name=str(facts["kind"]), kind=str(facts["kind"]), **sizes)


def _in_ms(frames_50hz: Any) -> tuple[int, ...]:
    """Lengths in milliseconds; those that mean everything are left out."""
    return tuple(round(frames * FRAME_MS_50HZ) for frames in frames_50hz if frames is not None and frames > 0)
