"""Where the index of a manifest of cuts is kept: beside the manifest, or in the user's cache if that is not writable."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zipasr.errors import DataError


def possible_folders(manifest: Path) -> tuple[Path, Path]:
    """Folders where the index may be: beside the manifest, else in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    of_path = hashlib.sha256(str(manifest.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return manifest.parent / ".index", cache / "zipasr" / "index" / of_path


def writable_folder(manifest: Path) -> Path:
    """The first of `possible_folders` that is writable."""
    errors = []
    for folder in possible_folders(manifest):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
            errors.append(f"{folder} cannot be written")
        except OSError as error:
            errors.append(str(error))
    raise DataError(f"the index of {manifest} must be written somewhere, but {'; '.join(errors)}; make one of them writable")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process writes to it (not on Windows)."""
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
