"""Placeholders for packages that a machine lacks, so that the model and the searches can be imported with torch alone.

`zipasr.model` and `zipasr.search` import packages for files and texts at the top, which tensors alone never need. What does
need one raises `NeedsPackage`, and the runner records the case as "not run".
"""

import importlib
import sys
from types import ModuleType
from typing import Any, NoReturn

REPLACEABLE = (
    "av",
    "av.stream",
    "safetensors",
    "safetensors.torch",
    "sentencepiece",
    "soundfile",
    "soxr",
)
"""What `zipasr.model`, `zipasr.presets` and `zipasr.search` import that a benchmark on tensors never calls."""


class NeedsPackage(Exception):
    """A package that is not installed was used."""


class _Unusable:
    """Stands for a name in a package that is absent; whoever calls it is told what is missing."""

    def __init__(self, package: str) -> None:
        self.package = package

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        raise NeedsPackage(f"needs {self.package}")

    def __getattr__(self, name: str) -> "_Unusable":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __or__(self, other: Any) -> "_Unusable":  # in annotations: soundfile.SoundFile | None
        return self


class _AbsentModule(ModuleType):
    """A module whose every name is unusable."""

    def __getattr__(self, name: str) -> _Unusable:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable(self.__name__)


def replace_absent_packages() -> list[str]:
    """Put a placeholder where one of `REPLACEABLE` cannot be imported; return their names."""
    absent = []
    for name in REPLACEABLE:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = _AbsentModule(name)
            absent.append(name)
    return absent
