"""Subtitles: the words of a `Transcript` -> cues with times in seconds and one or two lines of text."""

from collections.abc import Sequence
from typing import NamedTuple

from zipasr.transcript.result import Transcript, Word

_MAX_CUE_S, _MAX_LINE_CHARACTERS = 7.0, 42
# Broadcasters and streaming services require subtitles of at most two lines of 42 characters, for at most 7 s.
_CUE_PAUSE_S = 0.8
"""A longer silence between two words starts a new cue, so that no subtitle stays on screen while nothing is said."""


class Cue(NamedTuple):
    """Part of a transcript that is shown as one subtitle."""

    start_s: float
    end_s: float
    text: str
    """One line, or two with a line break between them."""


def to_cues(transcript: Transcript) -> list[Cue]:
    """Split a transcript into subtitles: at pauses, and where a cue would be too long to read or to display.

    A transcript without times of words is one cue; one without text has none.
    """
    if not transcript.words:
        return [Cue(0.0, transcript.duration_s, transcript.text)] if transcript.text else []
    joiner = transcript.word_joiner
    groups: list[list[Word]] = []
    for word in transcript.words:
        if groups:
            group = groups[-1]
            is_near = word.start_s - group[-1].end_s <= _CUE_PAUSE_S and word.end_s - group[0].start_s <= _MAX_CUE_S
            lines = _lines([*(w.text for w in group), word.text], joiner)
            if is_near and max(map(len, lines)) <= _MAX_LINE_CHARACTERS:
                group.append(word)
                continue
        groups.append([word])
    return [Cue(group[0].start_s, group[-1].end_s, "\n".join(_lines([w.text for w in group], joiner))) for group in groups]


def _lines(words: Sequence[str], joiner: str) -> list[str]:
    """The words on one line, or on two of similar length if one would be too long."""
    text = joiner.join(words)
    if len(text) <= _MAX_LINE_CHARACTERS or len(words) == 1:
        return [text]
    breaks = ([joiner.join(words[:i]), joiner.join(words[i:])] for i in range(1, len(words)))
    return min(breaks, key=lambda lines: max(map(len, lines)))
