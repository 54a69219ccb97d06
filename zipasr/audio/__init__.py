"""Recordings in, samples out: a file, bytes or an array becomes (samples,) float32, mono, 16 kHz, about [-1, 1].

`load_audio` returns the whole recording; `read_blocks` yields the same samples, bit for bit, as blocks in constant memory.
Timestamps of the file are followed: gaps become silence. A recording that is shorter than its header states raises instead
of being returned truncated, unless damage is allowed. Formats whose header states no length (ogg, raw AAC, mp3 without a
Xing frame, G.722, raw samples) are read as far as they go. No other part of zipasr opens audio.
"""

from zipasr.audio.ffmpeg import HEADERLESS_FORMATS, PCM_FORMATS
from zipasr.audio.file import audio_duration_s, rereadable, standard_input
from zipasr.audio.folder import files_below
from zipasr.audio.recording import AUDIO_SUFFIXES, load_audio, num_channels, read_blocks, save_flac
from zipasr.audio.samples import SAMPLE_RATE_HZ

__all__ = [
    "AUDIO_SUFFIXES",
    "HEADERLESS_FORMATS",
    "PCM_FORMATS",
    "SAMPLE_RATE_HZ",
    "audio_duration_s",
    "files_below",
    "load_audio",
    "num_channels",
    "read_blocks",
    "rereadable",
    "save_flac",
    "standard_input",
]
