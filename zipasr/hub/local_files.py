"""A path on this machine -> the checkpoint of others there, with the files that belong to it."""

import os
from collections.abc import Iterator
from pathlib import Path

from zipasr.checkpoint import CHECKSUMS
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.checkpoint_files import CheckpointFiles, find_checkpoint

_MAX_FILES = 20_000
_MAX_DEPTH = 5


def find_local(path: Path, *, needs_vocabulary: bool = True) -> tuple[Path, CheckpointFiles]:
    """The folder and the files of a model, given its folder or its checkpoint.

    Args:
        path: folder in one of the published layouts, or a checkpoint file. The vocabulary may be beside the checkpoint, or
        in
            `data/` up to two folders above, where recipes have it.
        needs_vocabulary: whether there must be one.
    Raises:
        CheckpointError: there is no checkpoint, or there are several, or no vocabulary.
        ConfigError: there is something that needs no conversion.
    """
    if path.is_file():
        return _around(path, needs_vocabulary=needs_vocabulary)
    if not path.is_dir():
        raise CheckpointError(f"{path} must be a checkpoint or the folder of one, but there is no such file or folder")
    if (path / CHECKSUMS).is_file():
        raise ConfigError(f"{path} must hold a checkpoint of others, but is a model folder of zipasr; use it as it is")
    names = list(_names_below(path))
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
    if files.vocabulary or not needs_vocabulary:
        return path, files
    return _around(path / files.checkpoint, needs_vocabulary=needs_vocabulary)


def _names_below(root: Path) -> Iterator[str]:
    """Names of files in a folder and its subfolders; hidden ones are left out, and links to folders are not followed."""
    count = 0
    for folder, subfolders, names in os.walk(root):
        relative = Path(folder).relative_to(root)
        is_deep = len(relative.parts) >= _MAX_DEPTH
        subfolders[:] = [] if is_deep else sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            count += 1
            if count > _MAX_FILES:
                raise CheckpointError(f"{root} must be the folder of a model, but has more than {_MAX_FILES} files")
            yield (relative / name).as_posix()


def _around(checkpoint: Path, *, needs_vocabulary: bool) -> tuple[Path, CheckpointFiles]:
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
    files = find_checkpoint(names | {name}, name, needs_vocabulary=needs_vocabulary)
    assert files is not None, "a file was named"
    return root, files
