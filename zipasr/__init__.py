"""Speech recognition with Zipformer: `zipasr.load(folder).transcribe(audio).text`.

The root exports what an application needs. It is lazy (PEP 562): importing `zipasr` loads no other module, and each name
loads its own part of the package when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zipasr.device import Precision
    from zipasr.errors import (
        AudioError,
        CheckpointError,
        ConfigError,
        DataError,
        ExportError,
        ProtocolError,
        ZipasrError,
    )
    from zipasr.recognizer import (
        ChunkConfig,
        EndpointConfig,
        EndpointRule,
        FileResult,
        Hotword,
        Keyword,
        KeywordEvent,
        KeywordSpotter,
        LongRecordingConfig,
        Recognizer,
        SearchConfig,
        SpotterConfig,
        Stream,
        load,
    )
    from zipasr.transcript import CueConfig, Token, Transcript, Word, merge_channels

__version__ = "0.2.0"
"""The version of the package."""

__all__ = [
    "AudioError",
    "CheckpointError",
    "ChunkConfig",
    "ConfigError",
    "CueConfig",
    "DataError",
    "EndpointConfig",
    "EndpointRule",
    "ExportError",
    "FileResult",
    "Hotword",
    "Keyword",
    "KeywordEvent",
    "KeywordSpotter",
    "LongRecordingConfig",
    "Precision",
    "ProtocolError",
    "Recognizer",
    "SearchConfig",
    "SpotterConfig",
    "Stream",
    "Token",
    "Transcript",
    "Word",
    "ZipasrError",
    "__version__",
    "load",
    "merge_channels",
]

_HOMES = {
    "zipasr.device": ("Precision",),
    "zipasr.errors": (
        "AudioError",
        "CheckpointError",
        "ConfigError",
        "DataError",
        "ExportError",
        "ProtocolError",
        "ZipasrError",
    ),
    "zipasr.recognizer": (
        "ChunkConfig",
        "EndpointConfig",
        "EndpointRule",
        "FileResult",
        "Hotword",
        "Keyword",
        "KeywordEvent",
        "KeywordSpotter",
        "LongRecordingConfig",
        "Recognizer",
        "SearchConfig",
        "SpotterConfig",
        "Stream",
        "load",
    ),
    "zipasr.transcript": ("CueConfig", "Token", "Transcript", "Word", "merge_channels"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'zipasr' has no attribute {name!r}; it offers {', '.join(__all__)} and its submodules")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
