"""What the configuration of a run becomes: fields set, architecture and rate of finetuning, and the size of its vocabulary.

A checkpoint to finetune (a model folder, a run, one of its checkpoints, or a .pt file of icefall) determines the
architecture, the recipe everything else; `finetune` loads its weights.
Source: the finetuning recipe published for Zipformer (a tenth of the learning rate, which hardly decays, and schedules at
their end).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zipasr.config import set_fields
from zipasr.data.manifest_index import IndexedCuts
from zipasr.errors import CheckpointError, ConfigError
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import FinetuneConfig, TrainConfig
from zipasr.train.data import make_tokenizer, read_split
from zipasr.train.source import Source, open_source, pin_source, source_of

LR_SHARE = 0.1  # published: 0.0045 where training has 0.045
LR_BATCHES, LR_EPOCHS = 100_000.0, 100.0  # published: so long that the rate hardly decays
_HEADS = ("transducer", "ctc", "attention")


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

    finetune = pin_source(config.finetune, run_folder)
    source = source_of(finetune, run_folder)
    if has_same_vocabulary(finetune):
        cure = "; or learn a new vocabulary with: --set finetune.vocabulary=new"
        source.tokenizer.require_encoding("the texts to train on", cure=cure)
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
    changes: dict[str, Any] = {"lr": LR_SHARE * config.lr, "lr_batches": LR_BATCHES}
    changes |= {"lr_epochs": LR_EPOCHS, "lr_hours": None}
    if config.adam is not None:
        changes["adam"] = dataclasses.replace(config.adam, factor=LR_SHARE * config.adam.factor)
    heads = [head for head in _HEADS if getattr(config.model, head) is not None]
    are_known = all(_is_taken(config.finetune, h) and getattr(source.model.config, h) is not None for h in heads)
    if are_known and has_same_vocabulary(config.finetune):
        changes["loss_warmup_batches"] = 0.0
    return dataclasses.replace(config, **changes)


def with_vocabulary(
    config: TrainConfig, cuts: IndexedCuts, tokenizer_folder: Path | None = None
) -> tuple[TrainConfig, Tokenizer]:
    """The configuration of a run with the size of its vocabulary, and the vocabulary.

    It is that of `tokenizer_folder` if the run has started, that of the model to finetune, or learned from the texts of the
    training cuts and of data to mix in.

    Raises:
        CheckpointError: a vocabulary cannot be read.
        ConfigError: the vocabulary can only be decoded.
        DataError: data to mix in cannot be read.
    """
    if tokenizer_folder is not None:
        tokenizer = Tokenizer.load(tokenizer_folder)
    elif config.finetune is not None and has_same_vocabulary(config.finetune):
        tokenizer = open_source(config.finetune).tokenizer
    else:
        tokenizer = make_tokenizer(cuts, config.tokenizer, [read_split(mix.data, "train") for mix in config.mix])
    tokenizer.require_encoding("the texts to train on")
    return dataclasses.replace(config, model=config.model.for_vocabulary(tokenizer)), tokenizer
