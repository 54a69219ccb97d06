"""Files of others: what `torch.save` or safetensors wrote -> Python values, without running code unless told to.

A file of `torch.save` is a pickle, that is a program. Only tensors and plain values are read from it here; what needs more
is refused, with the names it asks for. Our own checkpoints hold no pickles: see `checkpoint.py`.
"""

import logging
import pickle
import re
import struct
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import safetensors
import safetensors.torch
import torch

from zipasr.errors import CheckpointError

logger = logging.getLogger(__name__)

_PATH_MODULES = ("pathlib", "pathlib._local")  # the second since Python 3.13
# What a checkpoint of a training holds beside tensors: paths and the version of torch. They become pure paths and text,
# which touch no file and run no code. Nothing else is let in: numpy's scalars, for one, can wrap any object.
_HARMLESS: list[Any] = [
    *((PurePosixPath, f"{module}.{name}") for module in _PATH_MODULES for name in ("PosixPath", "PurePosixPath")),
    *((PureWindowsPath, f"{module}.{name}") for module in _PATH_MODULES for name in ("WindowsPath", "PureWindowsPath")),
    (str, "torch.torch_version.TorchVersion"),
]
_SAFE_TORCH = (2, 10)  # the first whose safe loading has no hole that is known
# What torch raises for bytes that are no checkpoint, or the wrong ones.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    struct.error,
)


def read_torch_file(path: Path, *, trust_pickle: bool = False) -> Any:
    """Return what a file of `torch.save`, or of safetensors, holds; tensors come to the CPU.

    Args:
        path: the file.
        trust_pickle: whether a file with more in it than tensors and plain values may run the code that this takes.
    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or needs code and is not trusted.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path} is only a Git LFS pointer; fetch the file it stands for with: git lfs pull")
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return safetensors.torch.load_file(path)
        if head.startswith(b"PK"):
            _check_archive(path)
        return _unpickle(path, trust_pickle=trust_pickle)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} must be a checkpoint file, but there is no such file") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder; name a file in it, such as pretrained.pt or epoch-30.pt") from error
    except (safetensors.SafetensorError, zipfile.BadZipFile, *_UNREADABLE) as error:
        # torch's own advice on a pickle that it cannot read is to load it unsafely.
        reason = "not made of tensors" if isinstance(error, pickle.UnpicklingError) else str(error)[:200]
        raise CheckpointError(f"{path} cannot be read ({reason}); it may be cut short or damaged: copy it again") from error


def _check_archive(path: Path) -> None:
    """Refuse TorchScript, and archives with a record that does not match its checksum, which torch does not compare."""
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist()):
            raise CheckpointError(
                f"{path} is a TorchScript program, whose names and structure are changed; use the pretrained.pt or "
                "epoch-N.pt that it was exported from"
            )
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")


def _unpickle(path: Path, *, trust_pickle: bool) -> Any:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE_TORCH:
        logger.warning("torch %s has a hole in its safe loading (CVE-2026-24747); upgrade torch.", torch.__version__)
    with torch.serialization.safe_globals(_HARMLESS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            refused = _refused_names(path, str(error))
            if not refused:
                raise
            names = ", ".join(refused[:5])
            if not trust_pickle:
                raise CheckpointError(
                    f"{path} holds more than tensors and plain values ({names}), and loading that can run any program. Use "
                    "the pretrained.pt of the same model, or write one where it was trained: torch.save({'model': "
                    f"torch.load('{path.name}', weights_only=False)['model']}}, 'pretrained.pt'). If you trust its author "
                    "as you would that of a program, load it with trust_pickle=True"
                ) from error
    logger.warning("Running the code that %s asks for (%s), as it is trusted.", path, names)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path} needs Python code that is not here ({error}); install the package it comes from, or use the "
            "pretrained.pt of the same model"
        ) from error


def _refused_names(path: Path, message: str) -> list[str]:
    """Classes and functions that a file asks for and that are not on the list of harmless ones."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError):  # not an archive: the format before torch 1.6
        return re.findall(r"GLOBAL ([\w.]+)", message)
