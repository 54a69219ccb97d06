"""What recognition returns, and how it is written: `Transcript`, its subtitles, and the writers of all formats.

Pure data: no audio, no model.
"""

from zipasr.transcript.channels import Turn, channel_label, is_merged, merge_channels, split_channels, to_turns
from zipasr.transcript.cues import Cue, CueConfig, to_cues
from zipasr.transcript.result import Token, Transcript, Word, word_of_tokens, word_starts, words_from_tokens
from zipasr.transcript.writers import (
    CUE_FORMATS,
    FILE_ENDINGS,
    FORMATS,
    to_ctm,
    to_json,
    to_srt,
    to_text,
    to_textgrid,
    to_tsv,
    to_vtt,
    writer,
)

__all__ = [
    "CUE_FORMATS",
    "FILE_ENDINGS",
    "FORMATS",
    "Cue",
    "CueConfig",
    "Token",
    "Transcript",
    "Turn",
    "Word",
    "channel_label",
    "is_merged",
    "merge_channels",
    "split_channels",
    "to_ctm",
    "to_cues",
    "to_json",
    "to_srt",
    "to_text",
    "to_textgrid",
    "to_tsv",
    "to_turns",
    "to_vtt",
    "word_of_tokens",
    "word_starts",
    "words_from_tokens",
    "writer",
]
