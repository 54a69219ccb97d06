"""Conversion of icefall checkpoints: `load_icefall(file, tokenizer)` returns an `AsrModel`.

A checkpoint of icefall holds named tensors and no configuration. Keys and shapes are those of the published Zipformer recipe
(and of the authors' `zipformer` package, which kept them): `names.py` translates the keys, `shapes.py` infers the
configuration, and `weights.py` reads the file.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from zipasr.hub.settings import ModelSettings
from zipasr.hub.shapes import infer_config
from zipasr.hub.weights import build_model, checked_tensors, read_checkpoint
from zipasr.model import AsrModel
from zipasr.tokenizer import Tokenizer


# Differs: ten parameters, since each says what the file does not, and a config object would only repeat their names.
def load_icefall(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | str | os.PathLike[str],
    *,
    num_heads: int | Sequence[int] | None = None,
    query_head_dim: int | Sequence[int] | None = None,
    value_head_dim: int | Sequence[int] | None = None,
    pos_head_dim: int | Sequence[int] | None = None,
    unmasked_channels: int | Sequence[int] | None = None,
    attention_decoder_heads: int | None = None,
    which: Literal["model", "model_avg"] = "model",
    trust_pickle: bool = False,
) -> AsrModel:
    """Load a checkpoint file of icefall as a model in eval mode on the CPU.

    Args:
        path: `pretrained.pt`, `epoch-N.pt`, a file with the bare state dict, or the same tensors as safetensors.
        tokenizer: the vocabulary that the model was trained with, or its path; see `open_tokenizer`.
        num_heads: see `model_from_icefall`, also for the next five arguments.
        which: `model` for the weights at that step, `model_avg` for the running average in `epoch-N.pt`.
        trust_pickle: whether loading may run code, which a file needs that holds more than tensors and plain values. Set
            it only for files whose author you would also trust with a program.
    Raises:
        CheckpointError: the file is missing, damaged, of another kind, unsafe, or lacks tensors.
        ConfigError: an argument is missing or contradicts the shapes, or the tokenizer is another model's.
    """
    if which not in ("model", "model_avg"):
        raise ValueError(f"which must be model or model_avg, but is {which!r}")
    settings = ModelSettings(
        num_heads=num_heads,
        query_head_dim=query_head_dim,
        value_head_dim=value_head_dim,
        pos_head_dim=pos_head_dim,
        unmasked_channels=unmasked_channels,
        attention_decoder_heads=attention_decoder_heads,
    )
    vocabulary = tokenizer if isinstance(tokenizer, Tokenizer) else [Path(tokenizer)]
    return read_checkpoint(Path(path), vocabulary, settings, which=which, trust_pickle=trust_pickle)[0]


def model_from_icefall(
    state_dict: Mapping[str, Tensor],
    *,
    num_heads: int | Sequence[int] | None = None,
    query_head_dim: int | Sequence[int] | None = None,
    value_head_dim: int | Sequence[int] | None = None,
    pos_head_dim: int | Sequence[int] | None = None,
    unmasked_channels: int | Sequence[int] | None = None,
    attention_decoder_heads: int | None = None,
) -> AsrModel:
    """Convert a state dict of icefall to a model in eval mode.

    The four sizes of attention heads are needed only if they are not the published ones (32, 12 and 4 per head); then
    any one of them determines the others. They and `unmasked_channels` are a number for all stacks or one entry per stack.

    Args:
        state_dict: tensors under the original's names, of any floating-point type, with or without `module.` in front.
        num_heads: attention heads of the encoder, `--num-heads` of the recipe.
        query_head_dim: width of a query and a key of one head.
        value_head_dim: width of a value of one head.
        pos_head_dim: width of a positional query of one head.
        unmasked_channels: `--encoder-unmasked-dim`, which matters only for further training. Default: the published
            value; for other shapes the width of the narrowest stack, whose channels all stacks have.
        attention_decoder_heads: heads of the attention decoder; default: 64 channels each, as published.
    Raises:
        CheckpointError: a tensor is missing or unknown or has an impossible shape.
        ConfigError: an argument is missing or contradicts the shapes.
    """
    settings = ModelSettings(
        num_heads=num_heads,
        query_head_dim=query_head_dim,
        value_head_dim=value_head_dim,
        pos_head_dim=pos_head_dim,
        unmasked_channels=unmasked_channels,
        attention_decoder_heads=attention_decoder_heads,
    )
    tensors = checked_tensors(state_dict)
    return build_model(infer_config(tensors, settings), tensors)
