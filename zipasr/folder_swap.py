"""Replacing a folder as a whole: the name of its successor beside it, and the swap."""

import os
import shutil
from pathlib import Path

from zipasr.errors import ConfigError


def require_name(folder: Path) -> None:
    """Raise ConfigError if a folder to write has no name of its own (`.`, `..`), so that it cannot be replaced."""
    if folder.name in ("", ".."):
        raise ConfigError(
            f"a folder to write must have a name, but is {str(folder)!r}; name a new folder, not this one or one above"
        )


def beside(folder: Path, kind: str) -> Path:
    """A hidden folder of this process beside another one, on the same disk: `.NAME.KIND-PID`.

    Raises:
        ConfigError: the folder has no name of its own.
    """
    require_name(folder)
    return folder.with_name(f".{folder.name}.{kind}-{os.getpid()}")


def replace_folder(new: Path, folder: Path) -> None:
    """Replace `folder` by `new`; at any moment, one of the two is complete on disk."""
    old = beside(folder, "old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(folder)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
