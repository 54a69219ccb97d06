"""`Recognizer` and `Stream`: recordings or sound as it comes in, transcripts out; all that an application needs."""

from zipasr.recognizer.chunks import ChunkConfig, ChunkSizes
from zipasr.recognizer.files import FileResult
from zipasr.recognizer.long_recording import LongRecordingConfig
from zipasr.recognizer.recognizer import (
    TAIL_PADDING_FRAMES,
    AudioSource,
    Hotword,
    Recognizer,
    SearchConfig,
    load,
)
from zipasr.recognizer.stream import EndpointConfig, EndpointRule, Stream

__all__ = [
    "TAIL_PADDING_FRAMES",
    "AudioSource",
    "ChunkConfig",
    "ChunkSizes",
    "EndpointConfig",
    "EndpointRule",
    "FileResult",
    "Hotword",
    "LongRecordingConfig",
    "Recognizer",
    "SearchConfig",
    "Stream",
    "load",
]
