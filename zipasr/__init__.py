"""Speech recognition with Zipformer: `zipasr.load(folder).transcribe(audio).text`.

The root is lazy (PEP 562): importing a part of the package loads that part and no other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zipasr.recognizer import Hotword, Recognizer, SearchConfig, load

    __version__: str

__all__ = ["Hotword", "Recognizer", "SearchConfig", "__version__", "load"]

_HOMES = dict.fromkeys(("Hotword", "Recognizer", "SearchConfig", "load"), "zipasr.recognizer")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("zipasr")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zipasr' has no attribute {name!r}; it offers {', '.join(__all__)} and its submodules")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
