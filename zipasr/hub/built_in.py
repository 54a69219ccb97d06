"""The models that come with the package, each a folder in `zipasr/pretrained`: a name such as `commands` -> its folder."""

import os
from importlib.resources import files
from pathlib import Path

from zipasr.checkpoint import CHECKSUMS
from zipasr.errors import ConfigError

_FOLDER = Path(str(files("zipasr") / "pretrained"))


def built_in_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _FOLDER.glob(f"*/{CHECKSUMS}"))


def is_built_in(model: str | os.PathLike[str]) -> bool:
    """Whether what names a model is the name of one that comes with the package; a file or folder of it takes precedence."""
    return os.fspath(model) in built_in_names() and not os.path.lexists(model)


def built_in_folder(name: str) -> Path:
    """The folder of a model that comes with the package. It belongs to the package and is not to be written to."""
    return _FOLDER / name


def refuse_built_in(folder: Path) -> None:
    """Check that a folder, which is about to be changed, is not one of the package.

    Raises:
        ConfigError: it is.
    """
    if folder.resolve().is_relative_to(_FOLDER.resolve()):
        raise ConfigError(
            f"{folder.name} must be a model of yours to save settings with it, but comes with the package; copy it first: "
            f"zipasr pull {folder.name} --out DIR"
        )
