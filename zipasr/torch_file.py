"""Foreign checkpoint files: `torch.save` or safetensors -> Python values, without running code unless trusted.

A file of `torch.save` is a pickle, which is a program. Only tensors and plain values are read from it; a file that needs
more is refused, and the message lists the names it needs. Our own checkpoints contain no pickles: see `checkpoint.py`.
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
from zipasr.lfs import refuse_pointer

logger = logging.getLogger(__name__)

_PATH_MODULES = ("pathlib", "pathlib._local")  # the second since Python 3.13
# Training checkpoints contain paths and the version of torch besides tensors. They become pure paths and text, which
# touch no file and run no code. Nothing else is allowed: numpy's scalars, for example, can wrap any object.
_HARMLESS: list[Any] = [
    *((PurePosixPath, f"{module}.{name}") for module in _PATH_MODULES for name in ("PosixPath", "PurePosixPath")),
    *((PureWindowsPath, f"{module}.{name}") for module in _PATH_MODULES for name in ("WindowsPath", "PureWindowsPath")),
    (str, "torch.torch_version.TorchVersion"),
]
_SAFE_TORCH = (2, 10)  # the first without a known vulnerability in safe loading
_SUFFIXES = (".pt", ".pth", ".safetensors")
# Exceptions of torch for bytes that are not a checkpoint or are damaged.
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
    """Return the content of a file written by `torch.save` or safetensors; tensors are on the CPU.

    Args:
        path: the file.
        trust_pickle: whether a file with more than tensors and plain values may run the code it needs.
    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or needs code and is not trusted.
    """
    try:
        head = _head(path)
        refuse_pointer(head, path, CheckpointError)
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return safetensors.torch.load_file(path)
        if is_archive := head.startswith(b"PK"):
            _check_archive(path)
        return _unpickle(path, is_archive=is_archive, trust_pickle=trust_pickle)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} must be a checkpoint file, but there is no such file") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder; name a file in it, such as pretrained.pt or epoch-30.pt") from error
    except (safetensors.SafetensorError, zipfile.BadZipFile, *_UNREADABLE) as error:
        # torch's own message on a pickle that it cannot read recommends loading it unsafely.
        reason = "not made of tensors" if isinstance(error, pickle.UnpicklingError) else str(error)[:200]
        raise CheckpointError(f"{path} cannot be read ({reason}); it may be cut short or damaged: copy it again") from error


def is_torch_file(path: Path) -> bool:
    """Whether a file is one of `torch.save` or safetensors by its name or its first bytes; the rest of it is not read."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    try:
        head = _head(path)
    except OSError:
        return True  # reading it says what is wrong
    return head.startswith((b"PK", b"\x80")) or head[8:9] == b"{"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _check_archive(path: Path) -> None:
    """Raise for TorchScript, for compressed archives, which may grow without end, and for archives with a record that does
    not match its checksum, which torch does not check."""
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist()):
            raise CheckpointError(
                f"{path} is a TorchScript program, whose names and structure are changed; use the pretrained.pt or "
                "epoch-N.pt that it was exported from"
            )
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise zipfile.BadZipFile("it is compressed, which torch.save never does")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")


def _unpickle(path: Path, *, is_archive: bool, trust_pickle: bool) -> Any:
    """The content of a file; that of an archive is read where it is used, since training checkpoints have much besides the
    model."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE_TORCH:
        logger.warning(
            "torch %s has a vulnerability in its safe loading (CVE-2026-24747); upgrade torch.", torch.__version__
        )
    with torch.serialization.safe_globals(_HARMLESS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
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
    logger.warning("Running the code that %s needs (%s), because it is trusted.", path, names)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path} needs Python code that is not here ({error}); install the package it comes from, or use the "
            "pretrained.pt of the same model"
        ) from error


def _refused_names(path: Path, message: str) -> list[str]:
    """Classes and functions that a file needs and that are not on the list of safe ones."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError):  # not an archive: the format before torch 1.6
        return re.findall(r"GLOBAL ([\w.]+)", message)
