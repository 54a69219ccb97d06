"""`Recognizer` and `Stream`: recordings or live audio in, transcripts out; all that an application needs."""

from zipasr.recognizer.chunks import ChunkConfig, ChunkSizes
from zipasr.recognizer.endpoint import EndpointConfig, EndpointRule
from zipasr.recognizer.engine import TAIL_PADDING_FRAMES, Engine
from zipasr.recognizer.file_alignment import align_file, align_text
from zipasr.recognizer.files import AudioSource, FileResult, merge_results
from zipasr.recognizer.jobs import threads_per_job, transcribe_in_processes
from zipasr.recognizer.long_recording import LongRecordingConfig
from zipasr.recognizer.recognizer import Hotword, Keyword, Recognizer, SearchConfig, SpotterConfig, load
from zipasr.recognizer.spotter import KeywordEvent, KeywordSpotter, SpotterStream
from zipasr.recognizer.stream import Stream

__all__ = [
    "TAIL_PADDING_FRAMES",
    "AudioSource",
    "ChunkConfig",
    "ChunkSizes",
    "EndpointConfig",
    "EndpointRule",
    "Engine",
    "FileResult",
    "Hotword",
    "Keyword",
    "KeywordEvent",
    "KeywordSpotter",
    "LongRecordingConfig",
    "Recognizer",
    "SearchConfig",
    "SpotterConfig",
    "SpotterStream",
    "Stream",
    "align_file",
    "align_text",
    "load",
    "merge_results",
    "threads_per_job",
    "transcribe_in_processes",
]
