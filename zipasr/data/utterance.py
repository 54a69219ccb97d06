"""One line of a corpus on its way to a cut: `Utterance`, or `Rejected` with the reason why it cannot be used.

Readers (`corpora`, `manifests`, `prompts`) yield either; `prepare` turns the first into audio and cuts, and lists the
second. No tensors; times are seconds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Reason(StrEnum):
    """Why an utterance was dropped."""

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
    """A recording, or a part of one, with what is said in it."""

    id: str
    audio: Path
    text: str
    channel: int | None = None
    """Channel of the recording, 0 first; None takes the recording as a whole."""
    audio_track: int | None = None
    """Audio track of a file with several, 0 first; None takes the default one."""
    start_s: float = 0.0
    duration_s: float | None = None
    """Length from `start_s`; None means to the end."""
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    """train, dev or test where the source says so."""
    custom: Mapping[str, Any] = field(default_factory=dict)
    """Everything else the source holds about it, JSON values."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An utterance that was dropped, and why."""

    id: str
    audio: str
    """Path, or where in the source the entry stands if it names no recording."""
    reason: Reason
    detail: str
    """A sentence: what was expected and what came instead."""

    def to_dict(self) -> dict[str, str]:
        """Give the fields as JSON values."""
        return {name: str(value) for name, value in asdict(self).items()}
