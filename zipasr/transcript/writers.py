"""A `Transcript` as the text of a file: JSON, subtitles (SRT, VTT), tables (TSV, CTM) and Praat's TextGrid.

A transcript merged from several channels has the channel of each word, subtitle or tier; see `merge_channels`.
"""

import html
import json
from collections.abc import Callable, Iterator, Sequence

from zipasr.transcript.channels import channel_label, is_merged, split_channels, to_turns
from zipasr.transcript.cues import CueConfig, to_cues
from zipasr.transcript.result import Transcript


def to_json(transcript: Transcript, name: str) -> str:
    """One line of JSON: the name of the recording as `audio`, then `Transcript.to_dict`, and `turns` if it is merged."""
    row = {"audio": name, **transcript.to_dict()}
    if is_merged(transcript):
        turns = to_turns(transcript)
        row["turns"] = [
            turn._replace(start_s=round(turn.start_s, 3), end_s=round(turn.end_s, 3))._asdict() for turn in turns
        ]
    return json.dumps(row, ensure_ascii=False) + "\n"


def to_text(transcript: Transcript, name: str) -> str:
    """The text alone, on one line; if it is merged, a line for each turn, after its channel."""
    if not is_merged(transcript):
        return transcript.text + "\n"
    return "".join(f"{channel_label(turn.channel)}{turn.text}\n" for turn in to_turns(transcript))


def to_srt(transcript: Transcript, name: str, cues: CueConfig | None = None) -> str:
    """SubRip subtitles: a number, `HH:MM:SS,mmm --> HH:MM:SS,mmm`, the text, an empty line."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(to_cues(transcript, cues, is_labeled=True), start=1)
    )


def to_vtt(transcript: Transcript, name: str, cues: CueConfig | None = None) -> str:
    """WebVTT subtitles, as browsers show them; the channel is the voice of a cue."""
    written = "WEBVTT\n"
    for cue in to_cues(transcript, cues):
        voice = "" if cue.channel is None else f"<v channel {cue.channel}>"
        text = html.escape(cue.text, quote=False)
        written += f"\n{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{voice}{text}\n"
    return written


def to_tsv(transcript: Transcript, name: str, cues: CueConfig | None = None) -> str:
    """A table of subtitles under a head line: start and end in whole milliseconds, the channel if it is merged, the text."""
    has_channels = is_merged(transcript)
    lines = ["start\tend\tchannel\ttext" if has_channels else "start\tend\ttext"]
    for cue in to_cues(transcript, cues):
        channel = [str(cue.channel)] if has_channels else []
        text = transcript.word_joiner.join(cue.text.split("\n"))
        lines.append("\t".join([str(_ms(cue.start_s)), str(_ms(cue.end_s)), *channel, text]))
    return "\n".join(lines) + "\n"


def to_ctm(transcript: Transcript, name: str) -> str:
    """NIST's CTM: one line per word with recording, channel (from 1), start and duration in seconds, word, confidence.

    White space in the name becomes `_`, since spaces separate the fields. A merged transcript is sorted by channel.
    """
    name = "_".join(name.split())
    return "".join(
        f"{name} {1 + (part.channel or 0)} {word.start_s:.3f} {max(word.end_s - word.start_s, 0.0):.3f} "
        f"{word.text} {word.confidence:.4f}\n"
        for part in split_channels(transcript)
        for word in part.words
    )


def to_textgrid(transcript: Transcript, name: str) -> str:
    """Praat's TextGrid in its long form, with tiers of words and of tokens, per channel; labels of silence are empty."""
    tiers = []
    for part in split_channels(transcript):
        prefix = f"channel {part.channel} " if is_merged(transcript) else ""
        tiers.append((f"{prefix}words", [(word.start_s, word.end_s, word.text) for word in part.words]))
        tiers.append((f"{prefix}tokens", [(token.start_s, token.end_s, token.text) for token in part.tokens]))
    end_s = max([transcript.duration_s, *(end for _, labels in tiers for _, end, _ in labels)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (tier, labels) in enumerate(tiers, start=1):
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

_CUE_WRITERS = {"srt": to_srt, "vtt": to_vtt, "tsv": to_tsv}
CUE_FORMATS = tuple(_CUE_WRITERS)
"""Formats of subtitles, whose writers take a `CueConfig` too."""


def writer(format: str, cues: CueConfig | None = None) -> Callable[[Transcript, str], str]:
    """The writer of a format, with these limits of its subtitles.

    Raises:
        ValueError: there is no such format, or it has no subtitles.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, but is {format!r}")
    if cues is None:
        return FORMATS[format]
    if format not in CUE_FORMATS:
        raise ValueError(f"cues must be given for {', '.join(CUE_FORMATS)} only, but the format is {format}; leave them out")
    write = _CUE_WRITERS[format]
    return lambda transcript, name: write(transcript, name, cues)


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
