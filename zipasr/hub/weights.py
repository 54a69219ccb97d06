"""Checkpoint files of others -> `AsrModel`: the tensors in a file, the vocabulary that fits them, and the model of both.

Nothing of a file is executed, and nothing in it may take more memory than the file itself has bytes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zipasr.checkpoint import first_few, mismatches
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.checkpoint_files import best_vocabularies
from zipasr.hub.names import original_key, rename_key, rename_state_dict
from zipasr.hub.other_models import refuse_other_models
from zipasr.hub.refusals import errors_about
from zipasr.hub.settings import ModelSettings
from zipasr.hub.shapes import EXPECTED, infer_config
from zipasr.model import AsrConfig, AsrModel
from zipasr.tokenizer import Tokenizer
from zipasr.torch_file import read_torch_file

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_checkpoint(
    path: Path,
    vocabulary: Tokenizer | Sequence[Path],
    settings: ModelSettings,
    *,
    which: str = "model",
    trust_pickle: bool = False,
    check: Callable[[AsrConfig], None] | None = None,
) -> tuple[AsrModel, Tokenizer]:
    """Read a checkpoint of icefall's form (see `load_icefall`): a model in eval mode on the CPU, and its vocabulary.

    Of files with vocabularies, one must fit the number of the model's outputs. `check` raises for a configuration that is
    not the expected one.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, unsafe, or lacks tensors.
        ConfigError: a setting is missing or contradicts the shapes, or the vocabulary is another model's.
    """
    content = read_torch_file(path, trust_pickle=trust_pickle)
    with errors_about(path):
        tensors = checked_tensors(_state_dict(content, which))
        config = infer_config(tensors, settings)
        if check is not None:
            check(config)
    if isinstance(vocabulary, Tokenizer):
        tokenizer = _fitted(vocabulary, config.vocab_size)
    else:
        tokenizer = _fitting(vocabulary, config.vocab_size)
    with errors_about(path):
        for key, tensor in tensors.items():
            if tensor.is_meta:
                raise CheckpointError(f"{key} has a shape, but no numbers; save the weights themselves")
            if not tensor.isfinite().all():
                raise CheckpointError(f"{key} has numbers that are not finite; use an earlier checkpoint of the training")
        return build_model(config.for_vocabulary(tokenizer), tensors), tokenizer


def _fitted(tokenizer: Tokenizer, num_outputs: int) -> Tokenizer:
    """A vocabulary in the size of a model, which may lack an output for `<unk>`."""
    try:
        return tokenizer.fitted(num_outputs)
    except CheckpointError as error:  # here it is an argument that is wrong
        raise ConfigError(
            f"the tokenizer must have as many entries as the model, {num_outputs}, but has {tokenizer.vocab_size}; give the "
            "bpe.model, bbpe.model, NAME.vocab or tokens.txt that the model was trained with"
        ) from error


def _open_fitting(path: Path, num_outputs: int) -> Tokenizer:
    try:
        return open_tokenizer(path, num_outputs=num_outputs)
    except CheckpointError:
        tokenizer = open_tokenizer(path)
        with errors_about(path):
            _fitted(tokenizer, num_outputs)  # raises, as it is whole, but another model's
        raise


def _fitting(paths: Sequence[Path], num_outputs: int) -> Tokenizer:
    """The one vocabulary among files that fits the outputs of a model."""
    fitting: dict[Path, Tokenizer] = {}
    errors = []
    for path in paths:
        try:
            fitting[path] = _open_fitting(path, num_outputs)
        except (CheckpointError, ConfigError) as error:
            errors.append(error)
    if not fitting:
        raise errors[0]
    first, *others = fitting.values()
    if any(other.pieces != first.pieces for other in others):
        raise ConfigError(
            f"one vocabulary must have the {num_outputs} entries of the model, but {', '.join(map(str, fitting))} all have "
            "so many; add --tokenizer FILE, or in a training --set finetune.tokenizer=FILE"
        )
    return first


def checked_tensors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors without `module.` in front of their names, each checked to be one of plain numbers.

    Raises:
        CheckpointError: one is not, or the tensors are those of another kind of model.
    """
    refuse_other_models(str(key) for key in state_dict)
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
        if tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
            kind = f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
            raise CheckpointError(f"{key} must be a plain tensor of 16, 32 or 64 bits per number, but is {kind}; {EXPECTED}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{key} must have its numbers in the file, but repeats a few of them {tensor.numel()} times; it is made to "
                "fill the memory, do not use the file"
            )
        tensors[key.removeprefix("module.")] = tensor
    if len(tensors) != len(state_dict):
        raise CheckpointError("the state dict has keys that differ only by `module.` in front; remove one of each pair")
    return tensors


def build_model(config: AsrConfig, tensors: Mapping[str, Tensor]) -> AsrModel:
    """The model of a configuration with the tensors of a checkpoint under the original's names, in eval mode.

    Raises:
        CheckpointError: tensors are missing, unknown or of other shapes.
    """
    try:
        with torch.device("meta"):
            shapes = AsrModel(config)  # first without memory: a few tensors can ask for far more than the file has
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint has impossible shapes ({error}); {EXPECTED}") from error
    own, renamed = shapes.state_dict(), rename_state_dict(tensors)
    theirs = {rename_key(key): key for key in tensors}
    wrong = mismatches(shapes, renamed, shown=lambda name: theirs.get(name) or original_key(name))
    for key in tensors:
        name = rename_key(key)
        is_ours_or_repeated = name == key or theirs[name] != key
        if name in own and is_ours_or_repeated:
            wrong.append(f"{key} is unknown")
    if wrong:
        raise CheckpointError(f"the checkpoint is not a complete Zipformer: {first_few(wrong)}; {EXPECTED}")
    model = AsrModel(config)
    model.load_state_dict(renamed)
    return model.eval()


def open_tokenizer(path: str | os.PathLike[str], *, num_outputs: int | None = None) -> Tokenizer:
    """Open the vocabulary of a published model: `bbpe.model`, `bpe.model`, `NAME.vocab`, `tokens.txt`, or a folder with one.

    Args:
        path: the file or folder.
        num_outputs: outputs of the model, if known. A vocabulary whose last piece, `<unk>`, has none is then one shorter.
    Raises:
        CheckpointError: there is no vocabulary, or it is of another kind.
        ConfigError: it is not that of a model with so many outputs.
    """
    path = Path(path)
    if path.is_dir():
        found = best_vocabularies(name for name in os.listdir(path) if (path / name).is_file())
        path = path / (found or ["bpe.model"])[0]
    if not path.is_file():
        raise CheckpointError(
            f"{path} must be the vocabulary that the recipe made, data/lang_bpe_*/bpe.model, data/lang_bbpe_*/bbpe.model or "
            "data/lang_char/tokens.txt, but there is no such file; give its path"
        )
    return Tokenizer.from_file(path, num_outputs=num_outputs)


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
