"""A `Transcript` as the text of a file: JSON, subtitles (SRT, VTT), tables (TSV, CTM) and Praat's TextGrid."""

import json
from collections.abc import Callable, Iterator, Sequence

from zipasr.transcript.cues import to_cues
from zipasr.transcript.result import Transcript


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
