"""What recognition returns, and how it is written: `Transcript`, its subtitles, and the writers of all formats.

Pure data: no audio, no model.
"""

from zipasr.transcript.cues import Cue, to_cues
from zipasr.transcript.result import Token, Transcript, Word, words_from_tokens
from zipasr.transcript.writers import (
    FILE_ENDINGS,
    FORMATS,
    to_ctm,
    to_json,
    to_srt,
    to_text,
    to_textgrid,
    to_tsv,
    to_vtt,
)

__all__ = [
    "FILE_ENDINGS",
    "FORMATS",
    "Cue",
    "Token",
    "Transcript",
    "Word",
    "to_ctm",
    "to_cues",
    "to_json",
    "to_srt",
    "to_text",
    "to_textgrid",
    "to_tsv",
    "to_vtt",
    "words_from_tokens",
]
