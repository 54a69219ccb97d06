"""Conversion of icefall checkpoints: `load_icefall(file, tokenizer)` returns an `AsrModel`.

A checkpoint of icefall holds named tensors and no configuration. Keys and shapes are those of the published Zipformer recipe
(and of the authors' `zipformer` package, which kept them): `names.py` translates the keys, and `shapes.py` infers the
configuration.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from zipasr.checkpoint import first_few, mismatches
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.names import original_key, rename_key, rename_state_dict
from zipasr.hub.shapes import EXPECTED, GivenSizes, infer_config
from zipasr.model import AsrConfig, AsrModel
from zipasr.tokenizer import Tokenizer
from zipasr.torch_file import read_torch_file

VOCABULARY_FILES = ("bbpe.model", "bpe.model", "tokens.txt")
"""Names of vocabularies of recipes; the first one that is there says most."""


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
        tokenizer: the vocabulary that the model was trained with, or the path of its sentencepiece `bpe.model`
            or `bbpe.model`, or of its `tokens.txt` where that holds characters (data/lang_char).
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
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = open_tokenizer(tokenizer)
    given = GivenSizes(num_heads, query_head_dim, value_head_dim, pos_head_dim, unmasked_channels, attention_decoder_heads)
    path = Path(path)
    content = read_torch_file(path, trust_pickle=trust_pickle)
    try:
        tensors = _checked_tensors(_state_dict(content, which))
        config = infer_config(tensors, given)
        if tokenizer.vocab_size != config.vocab_size:
            raise ConfigError(
                f"the tokenizer must have as many entries as the model, {config.vocab_size}, but has "
                f"{tokenizer.vocab_size}; give the bpe.model, bbpe.model or tokens.txt that the model was trained with"
            )
        config = config.for_vocabulary(tokenizer)
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise CheckpointError(f"{key} has numbers that are not finite; use an earlier checkpoint of the training")
        return _build(config, tensors)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error


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
    given = GivenSizes(num_heads, query_head_dim, value_head_dim, pos_head_dim, unmasked_channels, attention_decoder_heads)
    tensors = _checked_tensors(state_dict)
    return _build(infer_config(tensors, given), tensors)


def _checked_tensors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {}
    for key, tensor in state_dict.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            if isinstance(tensor, Mapping):
                raise CheckpointError(
                    f"{key} must be a tensor, but is another dict: give the state dict itself, checkpoint['model'], or let "
                    "load_icefall open the file"
                )
            kind = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{key} must be a tensor of floating-point numbers, but is {kind}; {EXPECTED}")
        tensors[key.removeprefix("module.")] = tensor
    if len(tensors) != len(state_dict):
        raise CheckpointError("the state dict has keys that differ only by `module.` in front; remove one of each pair")
    return tensors


def _build(config: AsrConfig, tensors: Mapping[str, Tensor]) -> AsrModel:
    model = AsrModel(config).eval()
    own, renamed = model.state_dict(), rename_state_dict(tensors)
    theirs = {rename_key(key): key for key in tensors}
    wrong = mismatches(model, renamed, shown=lambda name: theirs.get(name) or original_key(name))
    for key in tensors:
        name = rename_key(key)
        is_ours_or_repeated = name == key or theirs[name] != key
        if name in own and is_ours_or_repeated:
            wrong.append(f"{key} is unknown")
    if wrong:
        raise CheckpointError(f"the checkpoint is not a complete Zipformer: {first_few(wrong)}; {EXPECTED}")
    model.load_state_dict(renamed)
    return model


def open_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Open the vocabulary of an icefall model: `bbpe.model`, `bpe.model`, `tokens.txt` of characters, or a folder with one.

    Raises:
        CheckpointError: there is no vocabulary, or it is of another kind.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in VOCABULARY_FILES if (path / name).is_file()), path / "bpe.model")
    if not path.is_file():
        raise CheckpointError(
            f"{path} must be the vocabulary that the recipe made, data/lang_bpe_*/bpe.model, data/lang_bbpe_*/bbpe.model or "
            "data/lang_char/tokens.txt, but there is no such file; give its path"
        )
    return Tokenizer.from_file(path)


def _state_dict(content: Any, which: str) -> Mapping[str, Tensor]:
    """The state dict in the content of a file: one of its entries, or all of it."""
    if isinstance(content, Mapping) and isinstance(content.get(which), Mapping):
        return content[which]
    is_bare = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if which == "model" and is_bare and content:
        return content
    found = ", ".join(str(key) for key in list(content)[:10]) if isinstance(content, Mapping) else type(content).__name__
    cure = "only epoch-N.pt and checkpoint-N.pt of a training run have model_avg" if which == "model_avg" else EXPECTED
    raise CheckpointError(f"there must be a state dict under {which!r}, but the file holds {found or 'nothing'}; {cure}")
