"""Finetuning from the weights of another model: `resolve` returns the configuration of such a run, `begin` sets its weights.

The checkpoint (a model folder, a run, one of its checkpoints, or a .pt file of icefall) determines the architecture and the
weights, the recipe everything else. In layers with one row per entry of the vocabulary, rows follow their pieces.
Source: the finetuning recipe published for Zipformer (a tenth of the learning rate, which hardly decays, and schedules at
their end); adapters: see nn/lora.py.
"""

import dataclasses
import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zipasr.baselines.blocks import MaskedBatchNorm
from zipasr.config import set_fields
from zipasr.errors import CheckpointError, ConfigError
from zipasr.model import AsrConfig, AsrModel
from zipasr.nn.lora import add_lora, lora_layers
from zipasr.optim.groups import parameter_groups
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import FinetuneConfig, TrainConfig
from zipasr.train.source import Source, open_source, source_of

LR_SHARE = 0.1  # published: 0.0045 where training has 0.045
LR_BATCHES, LR_EPOCHS = 100_000.0, 100.0  # published: so long that the rate hardly decays
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
_HEADS = ("transducer", "ctc", "attention")
_MAX_LISTED = 20
logger = logging.getLogger(__name__)


# Configuration


def resolve(
    recipe: TrainConfig, settings: Sequence[str], checkpoint: str | None = None, run_folder: Path | None = None
) -> TrainConfig:
    """The configuration of a run: a recipe with fields set, and finetuning resolved if configured.

    If `checkpoint` is given, or the recipe or a setting configures finetuning, the architecture (features, encoder, and
    every head that is taken over) becomes the checkpoint's; heads that only the recipe has are kept and start at random. If
    the recipe itself does not configure finetuning, the rate becomes a constant tenth of the recipe's, and losses do not
    warm up unless a head is new. Settings are applied last and thus take precedence.

    Args:
        recipe: configuration to start from.
        settings: `name=value` strings, as in `--set`.
        checkpoint: checkpoint to start from, as in `--from`; None: that of the recipe.
        run_folder: folder of the run, if it is resumed: the checkpoint may then be missing.
    Raises:
        ConfigError: a setting is wrong or would have no effect.
        CheckpointError: the checkpoint cannot be used.
    """
    is_made_for_it = recipe.finetune is not None
    if checkpoint is not None and recipe.finetune is not None:
        recipe = dataclasses.replace(recipe, finetune=dataclasses.replace(recipe.finetune, checkpoint=checkpoint))
    elif checkpoint is not None:
        recipe = dataclasses.replace(recipe, finetune=FinetuneConfig(checkpoint=checkpoint))
    about_it = [text for text in settings if text.strip().startswith("finetune")]
    others = [text for text in settings if text not in about_it]
    config = set_fields(recipe, about_it)
    if config.finetune is None:
        return set_fields(config, others)

    finetune, source = config.finetune, source_of(config.finetune, run_folder)
    config = _with_architecture(config, finetune, source)
    if not is_made_for_it:
        config = _with_defaults(config, source)
    idle = [text for text in others if text.strip().startswith("tokenizer.")]
    if idle and has_same_vocabulary(finetune):
        raise ConfigError(
            f"{', '.join(idle)} would have no effect, since the vocabulary stays that of the checkpoint; leave it out, or "
            "add: --set finetune.vocabulary=new"
        )
    return set_fields(config, others)


def has_same_vocabulary(config: FinetuneConfig) -> bool:
    """Whether the run keeps the checkpoint's vocabulary; by default if any head is taken over."""
    if config.vocabulary is not None:
        return config.vocabulary == "same"
    return any(_is_taken(config, head) for head in _HEADS)


def step_offset(config: TrainConfig) -> float:
    """Step at which the schedules inside the model start."""
    return config.finetune.step_offset if config.finetune is not None else 0.0


def _is_taken(config: FinetuneConfig, part: str) -> bool:
    """Whether anything inside `part`, a module of the model's top level, is taken over."""
    return not config.parts or any(name.split(".")[0] == part for name in config.parts)


def _with_architecture(config: TrainConfig, finetune: FinetuneConfig, source: Source) -> TrainConfig:
    known = source.model.config
    taken: dict[str, Any] = {}
    if _is_taken(finetune, "encoder"):
        taken |= {"encoder": known.encoder, "features": known.features}
    for head in _HEADS:
        if _is_taken(finetune, head) and getattr(known, head) is not None:
            taken[head] = getattr(known, head)
    if has_same_vocabulary(finetune):
        taken["vocab_size"] = known.vocab_size
    if finetune.sha256 not in (None, source.sha256):
        raise CheckpointError(
            f"the weights in {source.path} must have the SHA-256 {finetune.sha256}, as the recipe says, but have "
            f"{source.sha256}; they are another model's"
        )
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **taken),
        finetune=dataclasses.replace(finetune, sha256=source.sha256),
    )


def _with_defaults(config: TrainConfig, source: Source) -> TrainConfig:
    """Set a tenth of the recipe's rate with hardly any decay; no warm-up of the losses if no head is new."""
    assert config.finetune is not None
    changes: dict[str, Any] = {"lr": LR_SHARE * config.lr, "lr_batches": LR_BATCHES, "lr_epochs": LR_EPOCHS}
    if config.adam is not None:
        changes["adam"] = dataclasses.replace(config.adam, factor=LR_SHARE * config.adam.factor)
    heads = [head for head in _HEADS if getattr(config.model, head) is not None]
    are_known = all(_is_taken(config.finetune, h) and getattr(source.model.config, h) is not None for h in heads)
    if are_known and has_same_vocabulary(config.finetune):
        changes["loss_warmup_batches"] = 0.0
    return dataclasses.replace(config, **changes)


def kept_tokenizer(config: TrainConfig) -> Tokenizer | None:
    """The vocabulary that a run takes over from its checkpoint, or None if it learns its own."""
    if config.finetune is None or not has_same_vocabulary(config.finetune):
        return None
    return open_source(config.finetune).tokenizer


# Weights


def begin(model: AsrModel, config: TrainConfig, tokenizer: Tokenizer, run_folder: Path | None = None) -> list[str]:
    """Load the checkpoint's weights into a new model, freeze the configured parts, and add adapters.

    Args:
        model: new model of `config.model` on the CPU, modified in place. Without finetuning this does nothing.
        config: configuration of the run.
        tokenizer: vocabulary of the run.
        run_folder: folder of the run if it is resumed and loads its own checkpoint next: the original checkpoint may then
            be missing, and the loaded weights are arbitrary.
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
    pairs = [(i, places[piece]) for i, piece in enumerate(new) if piece in places]
    grown: list[str] = []
    moved: list[str] = []
    wrong: list[str] = []
    for name, tensor in tensors.items():
        layer = name.rpartition(".")[0]
        if name not in own:
            wrong.append(f"{name} has no place in it")
        elif layer in VOCABULARY_LAYERS and old != new and own[name].shape[1:] == tensor.shape[1:]:
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
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"the model must have the shape of {source.path} in {', '.join(parts)}, but {'; '.join(wrong[:3])}{more}; leave "
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
    return f"{rate}, schedules inside the model from step {step_offset(config):g} on"


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
