"""The result of recognition: text, tokens and words with times and confidence, n-best hypotheses, and the writers for
JSON, subtitles (SRT, VTT), tables (TSV, CTM) and Praat's TextGrid.

Pure data: no audio, no model. Times are seconds from the start of the recording.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_WORD_START = "\u2581"
_MAX_CUE_S, _MAX_LINE_CHARACTERS = 7.0, 42
# Broadcasters and streaming services require subtitles of at most two lines of 42 characters, for at most 7 s.
_CUE_PAUSE_S = 0.8
"""A longer silence between two words starts a new cue, so that no subtitle stays on screen while nothing is said."""


@dataclass(frozen=True)
class Token:
    """One recognized piece of the vocabulary, with time and probability."""

    text: str
    """The piece as in the vocabulary: a leading ▁ (U+2581) starts a word."""
    start_s: float
    """Time of the frame that emitted it."""
    end_s: float
    """End of that frame (40 ms later at 25 Hz), or of its interval in an alignment."""
    log_prob: float
    """Natural logarithm of its probability."""


@dataclass(frozen=True)
class Word:
    """One word with its times and confidence, from its first token to its last."""

    text: str
    start_s: float
    end_s: float
    confidence: float
    """Geometric mean of the probabilities of its tokens, in [0, 1]."""


@dataclass(frozen=True)
class Transcript:
    """Recognition result of one recording: text, tokens, words and score."""

    text: str
    tokens: tuple[Token, ...] = ()
    words: tuple[Word, ...] = ()
    duration_s: float = 0.0
    """Length of the recording in seconds."""
    score: float = 0.0
    """Log-probability of the hypothesis in its search, plus scores of language models and hotwords; comparable within one
    recording only."""
    alternatives: "tuple[Transcript, ...]" = ()
    """The other n-best hypotheses, best first, if the search was configured to return several."""
    channel: int | None = None
    """Transcribed channel of the recording, from 0; None: all channels, mixed."""

    @property
    def word_joiner(self) -> str:
        """Separator of words in `text`: a space, or nothing in languages written without spaces."""
        return "" if len(self.words) > 1 and " " not in self.text else " "

    def to_dict(self) -> dict[str, object]:
        """Return the fields for JSON: times rounded to 1 ms, other numbers to 6 digits, non-finite numbers as null."""
        optional: dict[str, object] = {} if self.channel is None else {"channel": self.channel}
        if self.alternatives:
            optional["alternatives"] = [hypothesis.to_dict() for hypothesis in self.alternatives]
        return {
            "text": self.text,
            "duration_s": _rounded(self.duration_s, 3),
            "score": _rounded(self.score, 6),
            "words": [{**_text_and_times(word), "confidence": _rounded(word.confidence, 6)} for word in self.words],
            "tokens": [{**_text_and_times(token), "log_prob": _rounded(token.log_prob, 6)} for token in self.tokens],
            **optional,
        }


def words_from_tokens(tokens: Sequence[Token], *, is_each_a_word: bool = False) -> tuple[Word, ...]:
    """Group tokens into words: a token with a leading ▁ starts a word, and so does the first token.

    The times of a word are the start of its first token and the end of its last. A lone ▁ (the space of a character
    vocabulary) belongs to the next word; without one it is dropped.

    Args:
        tokens: in order of time.
        is_each_a_word: for languages written without spaces, each token is a word, except a lone ▁.
    """
    groups: list[list[Token]] = []
    for token in tokens:
        if not groups or is_each_a_word or token.text.startswith(_WORD_START):
            groups.append([])
        groups[-1].append(token)
    words = []
    for group in groups:
        text = "".join(token.text for token in group).replace(_WORD_START, "")
        if text:
            mean_log_prob = sum(token.log_prob for token in group) / len(group)
            words.append(Word(text, group[0].start_s, group[-1].end_s, math.exp(min(mean_log_prob, 0.0))))
    return tuple(words)


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


def to_json(transcript: Transcript, name: str) -> str:
    """One line of JSON: the name of the recording as `audio`, then `Transcript.to_dict`."""
    return json.dumps({"audio": name, **transcript.to_dict()}, ensure_ascii=False) + "\n"


def to_text(transcript: Transcript, name: str) -> str:
    """The text alone, on one line."""
    return transcript.text + "\n"


def to_srt(transcript: Transcript, name: str) -> str:
    """SubRip subtitles: a number, `HH:MM:SS,mmm --> HH:MM:SS,mmm`, the text, an empty line."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(to_cues(transcript), start=1)
    )


def to_vtt(transcript: Transcript, name: str) -> str:
    """WebVTT subtitles, as browsers show them."""
    cues = (
        f"\n{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_escaped(cue.text)}\n" for cue in to_cues(transcript)
    )
    return "WEBVTT\n" + "".join(cues)


def to_tsv(transcript: Transcript, name: str) -> str:
    """A table of subtitles: start and end in whole milliseconds and the text, separated by tabs, under a head line."""
    rows = (f"{_ms(cue.start_s)}\t{_ms(cue.end_s)}\t{' '.join(cue.text.split())}\n" for cue in to_cues(transcript))
    return "start\tend\ttext\n" + "".join(rows)


def to_ctm(transcript: Transcript, name: str) -> str:
    """NIST's CTM: one line per word with recording, channel (from 1), start and duration in seconds, word, confidence.

    White space in the name becomes `_`, since spaces separate the fields.
    """
    name = "_".join(name.split())
    channel = 1 if transcript.channel is None else transcript.channel + 1
    return "".join(
        f"{name} {channel} {word.start_s:.3f} {max(word.end_s - word.start_s, 0.0):.3f} {word.text} {word.confidence:.4f}\n"
        for word in transcript.words
    )


def to_textgrid(transcript: Transcript, name: str) -> str:
    """Praat's TextGrid in its long form, with a tier of words and one of tokens; labels of silence are empty."""
    words = [(word.start_s, word.end_s, word.text) for word in transcript.words]
    tokens = [(token.start_s, token.end_s, token.text) for token in transcript.tokens]
    end_s = max([transcript.duration_s, *(end for _, end, _ in words + tokens)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s:.6f}"]
    lines += ["tiers? <exists>", "size = 2", "item []:"]
    for number, (tier, labels) in enumerate((("words", words), ("tokens", tokens)), start=1):
        intervals = list(_without_gaps(labels, end_s))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{tier}"']
        lines += ["        xmin = 0", f"        xmax = {end_s:.6f}", f"        intervals: size = {len(intervals)}"]
        for i, (start, end, label) in enumerate(intervals, start=1):
            lines += [f"        intervals [{i}]:", f"            xmin = {start:.6f}", f"            xmax = {end:.6f}"]
            lines.append('            text = "{}"'.format(label.replace('"', '""')))
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Transcript, str], str]] = {
    "text": to_text,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
    "tsv": to_tsv,
    "ctm": to_ctm,
    "textgrid": to_textgrid,
}
"""Writers by name; each takes the transcript and the name of the recording and returns the text of a file."""

FILE_ENDINGS = {name: {"text": "txt", "textgrid": "TextGrid"}.get(name, name) for name in FORMATS}
"""File name extensions of the formats, without the dot."""


def _without_gaps(labels: Sequence[tuple[float, float, str]], end_s: float) -> Iterator[tuple[float, float, str]]:
    """Intervals that cover 0 to `end_s`, as a tier requires; a label that starts before the previous one ends is cut."""
    now = 0.0
    for i, (start, end, label) in enumerate(labels):
        next_start = labels[i + 1][0] if i + 1 < len(labels) else end_s
        start, end = max(start, now), min(max(end, now), max(next_start, now))
        if end <= start:  # nothing of it is left
            continue
        if start > now:
            yield now, start, ""
        yield start, end, label
        now = end
    if now < end_s or not labels:
        yield now, end_s, ""


def _clock(time_s: float, point: str) -> str:
    """Time as hours, minutes, seconds and milliseconds, as in subtitles."""
    seconds, ms = divmod(_ms(time_s), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{ms:03d}"


def _ms(time_s: float) -> int:
    return max(round(time_s * 1000), 0)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text_and_times(part: Word | Token) -> dict[str, object]:
    return {"text": part.text, "start_s": _rounded(part.start_s, 3), "end_s": _rounded(part.end_s, 3)}


def _rounded(value: float, num_digits: int) -> float | None:
    return round(float(value), num_digits) if math.isfinite(value) else None
