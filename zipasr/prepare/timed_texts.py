"""Texts with times beside a recording: subtitles (SRT, VTT) and Praat's TextGrid -> `TimedText` entries in seconds.

Subtitles are written to be read: formatting, sounds in brackets and lyrics are not speech and are left out, and the rolling
lines of automatic captions are read once. A tag for words that nobody wrote down, such as [inaudible], stays. Neighbors that
touch are joined up to `MAX_JOINED_S`, since a subtitle often ends in the middle of a sentence, and a tier may hold single
words.
"""

import html
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

from zipasr.lines import read_lines
from zipasr.prepare.tags import has_unwritten_words, without_tags
from zipasr.text import single_spaced

MAX_JOINED_S = 15.0
"""Neighbors are joined up to this duration, half of what `Limits` allows."""
MAX_GAP_S = 0.3
"""Longest pause between joined neighbors; sentences are usually further apart."""

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_CUE_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_ARROW = "-->"
"""What only the line of times of a cue may contain."""
_FORMATTING = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_LYRICS = re.compile(r"\N{EIGHTH NOTE}[^\N{EIGHTH NOTE}]*\N{EIGHTH NOTE}?|\N{BEAMED EIGHTH NOTES}")
_DIALOGUE_DASH = re.compile(r"^\s*[-\N{EN DASH}\N{EM DASH}]\s*", re.MULTILINE)
_VOICE = re.compile(r"<v(?:\.[^\s>]+)?\s+([^>]+)>")
_PRAAT_VALUES = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|<(exists|absent)>')
_PARTS_OF_WORDS = frozenset("phones phone phonemes phoneme segments syllables tokens".split())
"""Names of tiers below the level of words, as aligners and `zipasr align` write them."""

Tier = tuple[str, list[tuple[float, float, str]]]
"""Name of a tier of a TextGrid, and start, end and text of its intervals."""


class TimedText(NamedTuple):
    """A text and when it is said.

    If the times of a cue cannot be read, they are NaN, and the text is the line where they should be.
    """

    start_s: float
    end_s: float
    text: str
    speaker: str | None = None


def read_timed_texts(path: Path) -> list[TimedText]:
    """Read the texts of a subtitle file or a TextGrid, as they stand there; a text may end before it starts.

    Raises:
        ValueError: the file is not of the format that its ending names.
        DataError: the file cannot be read.
    """
    return READERS[path.suffix.lower()](text_lines(path))


def names_of_tiers(path: Path) -> list[str]:
    """The names of all interval tiers of a TextGrid, also of those that are not read; none of subtitles.

    Raises:
        ValueError, DataError: as `read_timed_texts`.
    """
    return [name for name, _ in _interval_tiers("\n".join(text_lines(path)))] if path.suffix.lower() == ".textgrid" else []


def text_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        ValueError: a line is no text.
        DataError: the file cannot be read.
    """
    lines = [line for _, line in read_lines(path)]
    if None in lines:
        raise ValueError(f"{path.name} must be text in UTF-8 or UTF-16, but has other bytes; save it in UTF-8")
    return [line for line in lines if line is not None]


def join_neighbors(entries: Iterable[TimedText]) -> list[TimedText]:
    """Join the texts of a speaker that touch or overlap, and sort all by time; each ends after it starts."""
    joined: list[TimedText] = []
    for entry in sorted(entries, key=lambda entry: (entry.speaker or "", entry.start_s)):
        last = joined[-1] if joined and joined[-1].speaker == entry.speaker else None
        if last and entry.start_s - last.end_s <= MAX_GAP_S and entry.end_s - last.start_s <= MAX_JOINED_S:
            joined[-1] = last._replace(end_s=max(last.end_s, entry.end_s), text=f"{last.text} {entry.text}")
        else:
            joined.append(entry)
    return sorted(joined, key=lambda entry: entry.start_s)


def _read_srt(lines: Sequence[str]) -> list[TimedText]:
    """The cues of SRT. Texts may hold empty lines: they end where the number and the times of the next cue are."""
    return _read_cues(lines, has_empty_lines=not "".join(lines[:1]).startswith("WEBVTT"))


def _read_cues(lines: Sequence[str], *, has_empty_lines: bool = False) -> list[TimedText]:
    """The cues of subtitles without what is not speech; a text ends at an empty line, unless it may hold some."""
    starts = [i for i, line in enumerate(lines) if _ARROW in line]
    times = {start: match for start in starts if (match := _CUE_TIMES.fullmatch(lines[start]))}
    bad = set(starts) - times.keys()
    if not times:
        raise ValueError("subtitles must have lines such as 00:00:01,000 --> 00:00:04,000, but there are none")
    entries: list[TimedText] = []
    shown: list[str] = []
    """The lines of the cue before."""
    shown_until_s = 0.0
    for first, following in pairwise([*starts, len(lines)]):
        if first in bad:
            entries.append(TimedText(math.nan, math.nan, lines[first].strip()))
            continue
        between = lines[first + 1 : following]
        body = list(between) if following == len(lines) else _without_number(between)
        if not has_empty_lines:
            body = list(takewhile(bool, body))
        if following in bad and len(body) == len(between) and body[-1:] != [""]:
            continue  # the arrow is in the text of this cue; the line that has it stands for both
        start_s, end_s = _seconds(times[first].groups()[:4]), _seconds(times[first].groups()[4:])
        voice = _VOICE.search(" ".join(body))
        said = [line for line in map(_spoken, body) if line]
        new = said[_num_repeated(shown, said) :] if start_s <= shown_until_s + 0.1 else said
        if new:
            entries.append(TimedText(start_s, end_s, " ".join(new), voice[1].strip() if voice else None))
        shown, shown_until_s = said, end_s
    return entries


def _without_number(lines: Sequence[str]) -> list[str]:
    """The lines between two lines of times without the number of the second cue, which may be followed by empty lines."""
    end = len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    has_number = end > 0 and lines[end - 1].strip().isdecimal()
    is_apart = end == len(lines) or (end > 1 and not lines[end - 2].strip())
    return list(lines[: end - 1] if has_number and is_apart else lines)


def _spoken(line: str) -> str:
    """A line of a subtitle without formatting, lyrics, dashes before speakers, and tags but those that stand for words."""
    text = _LYRICS.sub(" ", html.unescape(_FORMATTING.sub("", line)))
    return single_spaced(_DIALOGUE_DASH.sub("", text if has_unwritten_words(text) else without_tags(text)))


def _num_repeated(shown: Sequence[str], lines: Sequence[str]) -> int:
    """How many first lines repeat the last ones of the cue before, as rolling captions do."""
    counts = range(min(len(shown), len(lines)), 0, -1)
    return next((count for count in counts if list(shown[-count:]) == list(lines[:count])), 0)


def _seconds(clock: Sequence[str | None]) -> float:
    """Hours (may be absent), minutes, seconds and their decimals as seconds."""
    hours, minutes, seconds, decimals = (part or "0" for part in clock)
    return int(hours) * 3600 + int(minutes) * 60 + float(f"{seconds}.{decimals}")


def _read_textgrid(lines: Sequence[str]) -> list[TimedText]:
    """The texts of the interval tiers of a TextGrid, long or short; the name of a tier is the speaker if there are several.

    Tiers of parts of words are left out, and those of words where a tier of the same speaker has longer texts.
    """
    tiers = _spoken_tiers(list(_interval_tiers("\n".join(lines))))
    is_named = len({_speaker(name) for name, _ in tiers}) > 1
    return [
        TimedText(start_s, end_s, label, _speaker(name) if is_named else None)
        for name, intervals in tiers
        for start_s, end_s, label in intervals
        if label
    ]


def _interval_tiers(text: str) -> Iterator[Tier]:
    """Yield each interval tier.

    Praat ignores everything in a text file but quoted strings, <flags>, and numbers that stand alone; so do we.
    """
    values = _PRAAT_VALUES.finditer(text)

    def string() -> str:
        return next(values)[1].replace('""', '"')

    def number() -> float:
        return float(next(values)[2])

    try:
        if string() not in ("ooTextFile", "ooTextFile short") or string() != "TextGrid":
            raise ValueError("another header")
        _start_s, _end_s, _flag = number(), number(), next(values)
        for _ in range(int(number())):
            is_interval_tier, name, _start_s, _end_s = string() == "IntervalTier", string(), number(), number()
            rows = [(number(), number() if is_interval_tier else 0.0, single_spaced(string())) for _ in range(int(number()))]
            if is_interval_tier:
                yield name, rows
    except (StopIteration, AttributeError, TypeError, ValueError) as error:
        raise ValueError("a TextGrid must be one that Praat saved as text, but this file is not; save it again") from error


def _kind_of_tier(name: str) -> str:
    """The part of a tier's name that says what it holds: "words" in "Ann - words"."""
    return re.split(r"\s+-\s+|[/:]", name)[-1].strip().lower()


def _speaker(name: str) -> str:
    """The part of a tier's name that says who speaks; all of it if there is one part."""
    return re.split(r"\s+-\s+|[/:]", name)[0].strip()


def _spoken_tiers(tiers: list[Tier]) -> list[Tier]:
    """The tiers that hold what was said, once."""
    tiers = [tier for tier in tiers if _kind_of_tier(tier[0]) not in _PARTS_OF_WORDS]
    longer = [tier for tier in tiers if _kind_of_tier(tier[0]) not in ("words", "word")]
    return longer or tiers


READERS: dict[str, Callable[[Sequence[str]], list[TimedText]]] = {
    ".srt": _read_srt,
    ".vtt": _read_cues,
    ".textgrid": _read_textgrid,
}
"""The reader of each kind of file, by its ending in lower case."""
