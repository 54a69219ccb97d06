"""An entry of a source: `Utterance`, or `Rejected` with the reason why it cannot be used.

Readers (`sources`, `manifests`, `prompts`) yield both; `prepare` writes audio and cuts for the first, and a list of the
second. Times are in seconds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

OVERSHOOT_S = 0.5
"""Tolerance for a part that ends after its recording: within it the part is trimmed, beyond it rejected. Kaldi's
extract-segments allows the same."""


class Reason(StrEnum):
    """The reason for rejecting an utterance, as `rejected.jsonl` states it."""

    UNREADABLE = "unreadable"
    EMPTY = "empty"
    NOT_FINITE = "not finite"
    SILENT = "silence"
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    NO_TEXT = "no text"
    NO_AUDIO = "no audio"
    DUPLICATE_ID = "duplicate id"
    TOO_MANY_TOKENS = "more tokens than encoder frames"
    BAD_ENTRY = "bad entry"
    NOT_SPEECH = "not speech"
    TEXT_MISMATCH = "text does not match the recording"
    DIGITS = "digits in the text"


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A recording, or a part of one, with its transcript."""

    id: str
    audio: Path
    text: str
    channel: int | None = None
    """Channel of the recording, 0 first; None: all channels mixed."""
    audio_track: int | None = None
    """Audio track of a file with several, 0 first; None: the default track."""
    start_s: float = 0.0
    duration_s: float | None = None
    """Duration from `start_s`; None: to the end of the recording."""
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    """train, dev or test if the source names the split."""
    unused_times: tuple[str, str] | None = None
    """Names of a file with times for the text, and of the file beside it that is used instead of it."""
    custom: Mapping[str, Any] = field(default_factory=dict)
    """All other fields of the source, as JSON values."""

    @property
    def part(self) -> tuple[object, ...]:
        """What is cut: the recording, and which part of it."""
        return self.audio, self.audio_track, self.channel, self.start_s, self.duration_s


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An entry that cannot be used, and the reason."""

    id: str
    audio: str
    """Path of the recording, or the position of the entry in the source if it names none."""
    reason: Reason
    detail: str
    """What was expected and what was found instead."""

    def to_dict(self) -> dict[str, str]:
        """Return the fields as JSON values."""
        return {name: str(value) for name, value in asdict(self).items()}


def reject(utterance: Utterance, reason: Reason, detail: str) -> Rejected:
    """The `Rejected` entry of an utterance."""
    return Rejected(id=utterance.id, audio=str(utterance.audio), reason=reason, detail=detail)


def part_id(recording: str, start_s: float) -> str:
    """The id of the part of a recording that starts at a time: sorted by id, the parts are in order of time."""
    return f"{recording}-{round(start_s * 1000):07d}"


def bad_line(path: Path, number: int, detail: str = "expected UTF-8, got other bytes") -> Rejected:
    """The `Rejected` entry of a line of a text file; by default for one that is not UTF-8."""
    where = f"{path.name}:{number}"
    return Rejected(id=where, audio=where, reason=Reason.BAD_ENTRY, detail=detail)
