"""Finetuning: the weights of another model in a new one, what stands still, and adapters (nn/lora.py).

`resolve` has made the architecture that of the checkpoint. In layers with one row per entry of the vocabulary, rows follow
their pieces.
"""

import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zipasr.baselines.blocks import MaskedBatchNorm
from zipasr.checkpoint import first_few
from zipasr.errors import CheckpointError, ConfigError
from zipasr.model import AsrConfig, AsrModel
from zipasr.nn.lora import add_lora, lora_layers
from zipasr.optim.groups import parameter_groups
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import FinetuneConfig, TrainConfig
from zipasr.train.source import Source, source_of

VOCABULARY_LAYERS = (
    "transducer.predictor.embedding",
    "transducer.joiner.output",
    "transducer.simple_am",
    "transducer.simple_lm",
    "ctc.output",
    "attention.embedding",
    "attention.output",
)
"""Layers whose weight and bias have one row per entry of the vocabulary."""
_WORD_START = "\u2581"
_MAX_LISTED = 20
logger = logging.getLogger(__name__)

# Weights


def begin(model: AsrModel, config: TrainConfig, tokenizer: Tokenizer, run_folder: Path | None = None) -> list[str]:
    """Load the checkpoint's weights into a new model on the CPU, in place, freeze the configured parts, and add adapters.

    Without finetuning this does nothing. `run_folder` is that of a resumed run, which loads its own checkpoint next: the
    original checkpoint may then be missing, and the loaded weights are arbitrary.

    Returns:
        Log lines that describe what was done.
    Raises:
        CheckpointError: the checkpoint cannot be read, or differs from that at the start of the run.
        ConfigError: the model has other features or shapes, or a name of a part matches nothing.
    """
    finetune = config.finetune
    if finetune is None:
        return []
    source = source_of(finetune, run_folder)
    if not source.is_there:
        logger.warning(
            "%s, from which this run started, is gone; continuing without it, from the run's own checkpoints", source.path
        )
    if finetune.sha256 not in (None, source.sha256):
        raise CheckpointError(
            f"the weights in {source.path} are no longer those that this run started from; bring those back, or use another "
            "--out"
        )
    parts = finetune.parts or tuple(name for name, _ in source.model.named_children())
    _check_features(config.model, source, parts)
    tensors = {name: tensor for name, tensor in source.model.state_dict().items() if _lies_in(name, parts)}
    _check_parts(parts, source)
    grown, lines = _take_over(model, tensors, source, tokenizer, parts)
    fresh = [name for name in model.state_dict() if not _lies_in(name, parts)]
    lines.insert(0, f"started from {', '.join(parts)} of {source.path}{_about_fresh(fresh, parts)}")
    lines += _freeze(model, finetune, [*fresh, *grown])
    lines.append(_rates(config))
    return lines


def _check_features(config: AsrConfig, source: Source, parts: Sequence[str]) -> None:
    if config.features != source.model.config.features and any(name.split(".")[0] == "encoder" for name in parts):
        raise ConfigError(
            f"the features must be those of the checkpoint, {source.model.config.features}, but are {config.features}; "
            "leave model.features as it is"
        )


def _check_parts(parts: Sequence[str], source: Source) -> None:
    names = list(source.model.state_dict())
    for part in parts:
        if not any(_lies_in(name, (part,)) for name in names):
            modules = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2, 3)})
            near = difflib.get_close_matches(part, modules, n=3, cutoff=0.0)
            raise ConfigError(
                f"finetune.parts must name modules of {source.path}, but {part!r} matches none; the nearest are "
                f"{', '.join(near)}"
            )


def _lies_in(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@torch.no_grad()
def _take_over(
    model: AsrModel, tensors: Mapping[str, Tensor], source: Source, tokenizer: Tokenizer, parts: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Copy tensors into the model; returns the names of those that have new rows, and lines for the log."""
    own = model.state_dict()
    old, new = source.tokenizer.pieces, tokenizer.pieces
    places = {piece: i for i, piece in enumerate(old)}
    is_of_one_kind = source.tokenizer.is_byte_level == tokenizer.is_byte_level  # letters may look like bytes
    is_same = old == new and is_of_one_kind
    pairs = [
        (i, places[piece])
        for i, piece in enumerate(new)
        if piece in places and (is_of_one_kind or piece.lstrip(_WORD_START).isascii())
    ]
    grown: list[str] = []
    moved: list[str] = []
    wrong: list[str] = []
    for name, tensor in tensors.items():
        layer = name.rpartition(".")[0]
        if name not in own:
            wrong.append(f"{name} has no place in it")
        elif layer in VOCABULARY_LAYERS and not is_same and own[name].shape[1:] == tensor.shape[1:]:
            own[name][[i for i, _ in pairs]] = tensor[[j for _, j in pairs]]
            moved.append(layer)
            if len(pairs) < len(new):
                grown.append(name)
        elif own[name].shape != tensor.shape:
            wrong.append(f"{name} is {tuple(own[name].shape)} in it, but {tuple(tensor.shape)} in the checkpoint")
        else:
            own[name].copy_(tensor)
    wrong += [f"{name} is not in the checkpoint" for name in own if _lies_in(name, parts) and name not in tensors]
    if wrong:
        raise ConfigError(
            f"the model must have the shape of {source.path} in {', '.join(parts)}, but {first_few(wrong, 3)}; leave "
            "out what sets model fields, or take over fewer finetune.parts"
        )
    return grown, [_about_vocabulary(old, new, len(pairs), list(dict.fromkeys(moved)))] if moved else []


def _about_fresh(names: Sequence[str], parts: Sequence[str]) -> str:
    """Names of what starts with random weights; a part of the model if nothing in it was taken over."""
    touched = {part.split(".")[0] for part in parts}
    tops = [name.split(".")[0] for name in names]
    shown = [top if top not in touched else name for top, name in zip(tops, names, strict=True)]
    return f"; new: {', '.join(dict.fromkeys(shown))}" if shown else ""


def _about_vocabulary(old: Sequence[str], new: Sequence[str], num_shared: int, layers: Sequence[str]) -> str:
    known = set(old)
    added = [piece for piece in new if piece not in known]
    listed = " ".join(added[:_MAX_LISTED]) + (" ..." if len(added) > _MAX_LISTED else "")
    return (
        f"vocabulary: {num_shared} of {len(new)} pieces keep their rows of {', '.join(layers)}; {len(added)} are new"
        + (f": {listed}" if added else "")
        + f"; {len(old) - num_shared} of the checkpoint's {len(old)} are gone"
    )


# What trains


def _freeze(model: AsrModel, config: FinetuneConfig, grown: Sequence[str]) -> list[str]:
    """Freeze parameters that are not trained and add adapters; `grown` lists new rows, which are always trained.

    Raises:
        ConfigError: a name matches nothing, or no parameter is left to train.
    """
    try:
        parameter_groups(model, 1.0, frozen=config.frozen)
    except ValueError as error:
        raise ConfigError(f"finetune.frozen: {error}") from error
    whole = {name.rpartition(".")[0] for name in grown}
    for name, parameter in model.named_parameters():
        is_adapted = config.lora is not None and name not in grown
        if is_adapted or _lies_in(name, config.frozen):
            parameter.requires_grad_(False)
    lines = [f"frozen: {', '.join(config.frozen)}"] if config.frozen else []
    if config.lora is not None:
        names = add_lora(model, config.lora, excluded=[*config.frozen, *whole])
        lines.append(
            f"adapters of rank {config.lora.rank} on {len(names)} layers; all else that was taken over stands still"
        )
    for module in model.modules():
        if isinstance(module, MaskedBatchNorm) and not module.weight.requires_grad:
            module.momentum = 0.0  # its running averages are frozen like its weights
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not trained:
        raise ConfigError("some parameter must train, but all are frozen; shorten finetune.frozen")
    if config.frozen or config.lora is not None:
        lines.append(f"{trained / 1e6:.2f} M of {total / 1e6:.2f} M parameters train")
    return lines


def _rates(config: TrainConfig) -> str:
    rate = f"lr {config.lr:g}" if config.adam is None else f"factor {config.adam.factor:g} of the rate"
    return f"{rate}, schedules inside the model from step {config.schedule_progress(0):g} on"


def trained_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Groups for ScaledAdam of (name, parameter) pairs that are trained; two groups if there are adapters.

    The B of an adapter starts at zero and would stay near it, because ScaledAdam's steps are proportional to size. The
    second group holds these parameters, with a minimum rms at which one step changes the product B A as much as it would
    change the weight: sqrt(rank) / alpha, because the entries of A are initially as large as the weight's.
    """
    pairs = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = lora_layers(model)
    if not layers:
        return [{"params": pairs}]
    layer = next(iter(layers.values()))
    size = 1.0 / (layer.scale * math.sqrt(layer.lora_a.shape[0]))
    starting_at_0 = [(name, p) for name, p in pairs if name.endswith(".lora_b")]
    others = [(name, p) for name, p in pairs if not name.endswith(".lora_b")]
    return [{"params": others}, {"params": starting_at_0, "param_min_rms": size}]
