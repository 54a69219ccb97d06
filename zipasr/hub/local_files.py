"""A path on this machine -> the checkpoint of others there, with the files that belong to it."""

from pathlib import Path

from zipasr.checkpoint import CHECKSUMS
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.built_in import is_built_in
from zipasr.hub.checkpoint_files import CheckpointFiles, find_checkpoint
from zipasr.hub.layout import listing_of
from zipasr.hub.reference import is_reference
from zipasr.hub.refusals import errors_about
from zipasr.torch_file import is_torch_file


def find_local(path: Path, *, needs_vocabulary: bool = True) -> tuple[Path, CheckpointFiles]:
    """The folder and the files of a model, given its folder or its checkpoint.

    Args:
        path: folder in one of the published layouts, or a checkpoint file. The vocabulary may be beside the checkpoint, or
            in `data/` up to two folders above, where recipes have it.
        needs_vocabulary: whether there must be one.
    Raises:
        CheckpointError: there is no checkpoint, or there are several, or no vocabulary.
        ConfigError: there is something that needs no conversion.
    """
    if path.is_file():
        _check_file(path)
        root, files = _around(path)
    else:
        root, files = _below(path)
        if not files.vocabulary:
            root, files = _around(root / files.checkpoint)
    if needs_vocabulary and not files.vocabulary:
        raise CheckpointError(
            f"{root / files.checkpoint} must have its vocabulary (bpe.model, bbpe.model, NAME.vocab or tokens.txt) beside "
            "it or in data/, as recipes do, but there is none; add --tokenizer FILE. An encoder without heads, such as "
            "AudenAI's, has none, and gives no text"
        )
    return root, files


def _check_file(path: Path) -> None:
    """Raise for a file that is no checkpoint of others."""
    if (path.parent / CHECKSUMS).is_file():
        raise ConfigError(
            f"{path} must be a checkpoint of others, but is a file in a folder of zipasr; give the folder: {path.parent}"
        )
    if path.suffix.lower() == ".onnx":
        raise ConfigError(
            f"{path} must be a PyTorch checkpoint, but is an ONNX graph; graphs need no conversion and are used with their "
            f"vocabulary: give the folder, {path.parent}"
        )
    if not is_torch_file(path):
        raise CheckpointError(
            f"{path} must be a checkpoint (pretrained.pt, epoch-N.pt or model.pt) or the folder of one, but is another file"
        )


def _below(path: Path) -> tuple[Path, CheckpointFiles]:
    """The files of a model in a folder."""
    if not path.is_dir() and is_reference(str(path)):
        raise ConfigError(
            f"{path} must be a file or folder here, but is on the hub: zipasr pull {path} --out DIR converts it"
        )
    if is_built_in(path):
        raise ConfigError(
            f"{path} must be a checkpoint of others, but is a model that comes with zipasr and needs no conversion; use its "
            f"name as it is, or copy it: zipasr pull {path} --out DIR"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path} must be a checkpoint or the folder of one, but there is no such file or folder")
    if (path / CHECKSUMS).is_file():
        raise ConfigError(f"{path} must hold a checkpoint of others, but is a model folder of zipasr; use it as it is")
    names = list(listing_of(path))
    with errors_about(path):
        files = find_checkpoint(names, needs_vocabulary=False)
    if files is None and any(name.endswith(".onnx") for name in names):
        raise ConfigError(
            f"{path} must hold a PyTorch checkpoint, but holds ONNX graphs, which need no conversion: zipasr transcribe "
            f"{path} a.wav"
        )
    if files is None:
        raise CheckpointError(
            f"{path} must hold a checkpoint (pretrained.pt, epoch-N.pt or model.pt) and its vocabulary, but holds "
            f"{', '.join(sorted(names)[:5]) or 'nothing'}"
        )
    return path, files


def _around(checkpoint: Path) -> tuple[Path, CheckpointFiles]:
    """The files near a checkpoint, relative to the folder two levels above its own."""
    checkpoint = checkpoint.parent.resolve() / checkpoint.name
    root = checkpoint.parent.parent.parent
    if not checkpoint.resolve().is_relative_to(root):  # a link that the user has named: what counts is the file itself
        checkpoint = checkpoint.resolve()
        root = checkpoint.parent.parent.parent
    near = [checkpoint.parent.glob("*")]
    for folder in {checkpoint.parent, checkpoint.parent.parent, root}:
        near += [folder.glob(pattern) for pattern in ("*.model", "tokens.txt", "data/*", "data/*/*", "*lang*/*")]
    names = {path.relative_to(root).as_posix() for paths in near for path in paths if path.is_file()}
    name = checkpoint.relative_to(root).as_posix()
    files = find_checkpoint(names | {name}, name, needs_vocabulary=False)
    assert files is not None, "a file was named"
    return root, files
