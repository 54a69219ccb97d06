"""`Recognizer`: recordings in, transcripts out; all that an application needs."""

from zipasr.recognizer.long_recording import LongRecordingConfig
from zipasr.recognizer.recognizer import (
    FRAME_S,
    TAIL_PADDING_FRAMES,
    AudioSource,
    FileResult,
    Hotword,
    Recognizer,
    SearchConfig,
    load,
)

__all__ = [
    "FRAME_S",
    "TAIL_PADDING_FRAMES",
    "AudioSource",
    "FileResult",
    "Hotword",
    "LongRecordingConfig",
    "Recognizer",
    "SearchConfig",
    "load",
]
