"""Subtitles: the words of a `Transcript` -> cues with times in seconds and one or more lines of text."""

import math
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from zipasr.errors import ConfigError
from zipasr.transcript.channels import PAUSE_S, channel_label, split_channels
from zipasr.transcript.result import Transcript, Word

_SENTENCE_ENDS, _CLAUSE_ENDS = ".!?…。！？", ",;:、，；："
_CLOSING_MARKS = "\"'”’»)]」』）"
# Costs in cues: one more cue costs 1.
_ORPHAN, _HASTY, _PAUSE_WITHIN, _MID_SENTENCE, _MID_CLAUSE, _NO_PAUSE = 1.5, 1.0, 1.2, 0.1, 0.1, 0.2
_UNEVEN = 0.1
"""Times the squared share of the longest time: of two cues in place of one, neither is much longer than the other."""
_NOTICED_PAUSE_S = 0.3
"""A pause of this length or more is a good place to end a cue; a shorter one counts in proportion."""
_COLUMNS = {"W": 2, "F": 2}
_NO_WIDTH = ("Mn", "Me", "Cf")
"""Categories of combining and invisible characters."""
_ORPHAN_CHARACTERS = 3
"""In languages written without spaces, up to this many words, which are characters, are an orphan."""


class Cue(NamedTuple):
    """Part of a transcript that is shown as one subtitle."""

    start_s: float
    end_s: float
    text: str
    """One or more lines with line breaks between them."""
    channel: int | None = None
    """Channel of its words, in a transcript merged from several."""


@dataclass(frozen=True, kw_only=True)
class CueConfig:
    """What a subtitle may hold, and for how long it is shown.

    The defaults are what broadcasters and streaming services ask for.
    """

    max_line_chars: int = 42
    """Characters of a line; a full-width character counts as two. A longer word has a line of its own."""
    max_lines: int = 2
    min_cue_s: float = 1.0
    """Least time on screen, as far as the next subtitle and the end of the recording leave it."""
    max_cue_s: float = 7.0
    """Longest time on screen."""

    def __post_init__(self) -> None:
        """Refuse values that no subtitle could satisfy."""
        for name, value in (("max_line_chars", self.max_line_chars), ("max_lines", self.max_lines)):
            if not value >= 1:
                raise ConfigError(f"`{name}` must be 1 or more, but is {value}; the defaults are 42 characters and 2 lines")
        if not (0 <= self.min_cue_s <= self.max_cue_s and self.max_cue_s > 0):
            raise ConfigError(
                "`min_cue_s` must be from 0 to `max_cue_s`, which must be above 0, but they are "
                f"{self.min_cue_s} and {self.max_cue_s}; the defaults are 1 and 7"
            )


def to_cues(transcript: Transcript, config: CueConfig | None = None, *, is_labeled: bool = False) -> list[Cue]:
    """Split a transcript into subtitles: at pauses, and where a cue would be too long to read or to display.

    Of all ways to split it, the one with the fewest cues is chosen, where a cue counts as more than one if it is a single
    word out of a sentence, too short to read, or cut off where there is neither a pause nor punctuation.

    Args:
        transcript: one without times of words is one cue; one without text has none.
        config: limits; None: the defaults.
        is_labeled: whether the text of a cue starts with its channel, in a transcript merged from several.
    Returns:
        The cues in order of their starts. Those of one channel do not overlap; those of people who talk at once do.
    """
    config = config or CueConfig()
    if not transcript.words:
        return [Cue(0.0, transcript.duration_s, transcript.text)] if transcript.text else []
    parts = split_channels(transcript)
    cues = [cue for part in parts for cue in _channel_cues(part, config, is_labeled=is_labeled)]
    return sorted(cues, key=lambda cue: cue.start_s) if len(parts) > 1 else cues


def _channel_cues(transcript: Transcript, config: CueConfig, *, is_labeled: bool) -> Iterator[Cue]:
    """The cues of a transcript with words, of one channel."""
    words, joiner = transcript.words, transcript.word_joiner
    channel = words[0].channel
    label = channel_label(channel) if is_labeled else ""
    end_s = max(transcript.duration_s, words[-1].end_s)
    for first, stop in _best_split(words, end_s, joiner, len(label), config):
        lines = _balanced_lines([word.text for word in words[first:stop]], joiner, len(label), config.max_line_chars)
        start_s = words[first].start_s
        latest_s = min(words[stop].start_s if stop < len(words) else end_s, start_s + config.max_cue_s)
        shown_until_s = min(max(words[stop - 1].end_s, start_s + config.min_cue_s), latest_s)
        yield Cue(start_s, max(shown_until_s, start_s), label + "\n".join(lines), channel)


def _best_split(
    words: Sequence[Word], end_s: float, joiner: str, label_width: int, config: CueConfig
) -> list[tuple[int, int]]:
    """First word and stop of each cue of the cheapest split, found by dynamic programming."""
    widths = [_width(word.text) for word in words]
    gaps = _gaps([word.text for word in words], joiner)
    costs, firsts = [0.0], [0]
    for stop in range(1, len(words) + 1):
        best, best_first = math.inf, stop - 1
        for first, num_pauses in _possible_starts(words, widths, gaps, stop, label_width, config):
            is_spaceless = not joiner
            cost = costs[first] + num_pauses * _PAUSE_WITHIN + _cost(words, first, stop, end_s, config, is_spaceless)
            if cost <= best:
                best, best_first = cost, first
        costs.append(best)
        firsts.append(best_first)
    split, stop = [], len(words)
    while stop:
        split.append((firsts[stop], stop))
        stop = firsts[stop]
    return split[::-1]


def _possible_starts(
    words: Sequence[Word], widths: Sequence[int], gaps: Sequence[int], stop: int, label_width: int, config: CueConfig
) -> Iterator[tuple[int, int]]:
    """The first word of each cue that may end before `stop`, the shortest first, and the number of long pauses in it.

    The lines are filled from the last one up, which gives as few as filling them from the first one down. A pause may be in
    a cue if it is shorter than the least time on screen, for otherwise the words around it could not be shown that long.
    """
    longest_pause_s = max(PAUSE_S, config.min_cue_s)
    num_lines, used, num_pauses = 1, widths[stop - 1], 0
    yield stop - 1, 0
    for first in range(stop - 2, -1, -1):
        pause_s = words[first + 1].start_s - words[first].end_s
        num_pauses += pause_s > PAUSE_S
        if used + gaps[first] + widths[first] > config.max_line_chars:
            num_lines, used = num_lines + 1, widths[first]
        else:
            used += gaps[first] + widths[first]
        if (
            pause_s > longest_pause_s
            or words[stop - 1].end_s - words[first].start_s > config.max_cue_s
            or max(widths[first], widths[stop - 1]) > config.max_line_chars
            or num_lines + (used + label_width > config.max_line_chars) > config.max_lines
        ):
            return
        yield first, num_pauses


def _cost(words: Sequence[Word], first: int, stop: int, end_s: float, config: CueConfig, is_spaceless: bool) -> float:
    """What a cue costs, in cues, without the pauses in it."""
    is_last = stop == len(words)
    pause_before_s = words[first].start_s - words[first - 1].end_s if first else math.inf
    pause_after_s = math.inf if is_last else max(words[stop].start_s - words[stop - 1].end_s, 0.0)
    shown_s = (end_s if is_last else words[stop].start_s) - words[first].start_s
    is_few = stop - first <= (_ORPHAN_CHARACTERS if is_spaceless else 1)
    last = words[stop - 1].text.rstrip(_CLOSING_MARKS)[-1:] or "-"
    ends_sentence = is_last or last in _SENTENCE_ENDS
    return (
        1.0
        + _UNEVEN * ((words[stop - 1].end_s - words[first].start_s) / config.max_cue_s) ** 2
        + _ORPHAN * (is_few and min(pause_before_s, pause_after_s) <= PAUSE_S)
        + _HASTY * (shown_s < config.min_cue_s)
        + _MID_SENTENCE * (not ends_sentence)
        + _MID_CLAUSE * (not ends_sentence and last not in _CLAUSE_ENDS)
        + _NO_PAUSE * (1.0 - min(pause_after_s / _NOTICED_PAUSE_S, 1.0))
    )


def _balanced_lines(words: Sequence[str], joiner: str, label_width: int, max_width: int) -> list[str]:
    """The words on as few lines as possible, of similar width; the first leaves room for a label."""
    widths, gaps = [_width(word) for word in words], _gaps(words, joiner)
    widths[0] += label_width
    num_lines = len(_line_stops(widths, gaps, max_width))
    narrowest = bisect_left(
        range(max_width), -num_lines, key=lambda width: -len(_line_stops(widths, gaps, width))
    )  # more lines at any smaller width
    stops = _line_stops(widths, gaps, narrowest)
    return [joiner.join(words[first:stop]) for first, stop in pairwise([0, *stops])]


def _gaps(words: Sequence[str], joiner: str) -> list[int]:
    """Columns between each word and the next one."""
    return [len(joiner.join(pair)) - sum(map(len, pair)) for pair in pairwise(words)]


def _line_stops(widths: Sequence[int], gaps: Sequence[int], max_width: int) -> list[int]:
    """The end of each line, if words of these widths fill line after line; a word that is too wide has a line of its own."""
    stops, used = [], 0
    for i, width in enumerate(widths):
        gap = gaps[i - 1] if i else 0
        if i and used + gap + width > max_width:
            stops.append(i)
            used = width
        else:
            used += gap + width
    return [*stops, len(widths)]


def _width(text: str) -> int:
    """Columns of a text: two for a full-width character, none for a combining or an invisible one."""
    if text.isascii():
        return len(text)
    return sum(_COLUMNS.get(unicodedata.east_asian_width(c), 1) for c in text if unicodedata.category(c) not in _NO_WIDTH)
