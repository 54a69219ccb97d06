"""The fields of a row under any of the names that manifests use for them: which recording, which part of it, which text.

A field that would change what is cut is read or refused, never left out: a time under an unknown name, times that disagree,
a text that is no string. Times are in seconds.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

FIELD_NAMES = {
    "id": ("id", "key", "utt_id", "utterance_id", "uttid", "utt"),
    "audio": (
        *("audio", "audio_filepath", "audio_path", "audio_file", "wav", "wav_path", "wav_filename", "file_name", "filename"),
        *("file", "filepath", "file_path", "path"),
    ),
    "text": ("text", "txt", "sentence", "transcription", "transcript", "normalized_text", "words", "wrd"),
    "audio_track": ("audio_track",),
    "speaker": ("speaker", "speaker_id", "spk_id", "spk", "client_id"),
    "lang": ("lang", "language", "locale"),
    "split": ("split",),
}
"""Names of the fields in our own manifests and those of NeMo, WeNet, Common Voice, Hugging Face, Coqui, SpeechBrain, and
DeepSpeech, the preferred first; lower case, words joined by underscores."""
_START_NAMES = frozenset("start begin onset offset from start_time begin_time xmin tmin".split())
_END_NAMES = frozenset("end stop until to finish end_time stop_time finish_time xmax tmax".split())
_DURATION_NAMES = frozenset(("duration", "dur"))
_CHANNEL_NAMES = frozenset("channel channels channel_id channel_index ch".split())
_COUNT_WORDS = frozenset(("num", "n", "count", "number"))
_WORDS_TOO = frozenset("from until to finish".split())
"""Names that are times if their values are numbers; other values of theirs are none."""
_TIME_WORDS = frozenset("start starts begin begins onset offset end ends stop finish xmin xmax tmin tmax".split())
"""A number in a field with one of these words in its name is a place in a recording."""
_TIME_NAMES = frozenset("time times timestamp timestamps segment interval range span t0 t1".split())
_LENGTH_WORDS = frozenset("duration dur length len seconds samples frames".split())
_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
_WITH_UNIT = re.compile(rf"(.+?)(?:_in)?_({'|'.join(_UNITS)})")
_AGREEMENT_S = 0.1
"""Difference up to which times count as rounded and not as contradictory."""


def canonical(name: str) -> str:
    """A name in lower case with underscores between its words: start_time for startTime and "Start time"."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).strip("_").lower()


class Fields:
    """The fields of one row. Every method raises a `ValueError` for a value that cannot be used."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        """Take the fields of a row that have a value."""
        self._values = {canonical(name): value for name, value in row.items() if value not in (None, "")}
        self._row = row
        self._used: set[str] = set()

    def get(self, field: str) -> Any:
        """The value of a field of `FIELD_NAMES`; None if the row has none."""
        name = next((name for name in FIELD_NAMES[field] if name in self._values), None)
        return None if name is None else self._use(name)

    def text(self) -> str:
        """The transcript; empty if the row has none."""
        value = self.get("text")
        if value is not None and not isinstance(value, str):
            raise ValueError(f"text must be a string, but is {value!r} ({type(value).__name__}) instead")
        return value or ""

    def label(self, field: str) -> str | None:
        """A field that names something: a string or a number; None if the row has none, or has NaN."""
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise ValueError(f"{field} must be a string or a number, but is {value!r} instead")
        return None if value is None or value != value else str(value)

    def part(self) -> tuple[float | None, float | None]:
        """Start and duration of the part of the recording; None for what the row leaves open."""
        start_s, end_s = self._seconds("start", _START_NAMES), self._seconds("end", _END_NAMES)
        duration_s = self._seconds("duration", _DURATION_NAMES)
        self._refuse_unknown_times(is_open=start_s is not None and end_s is None and duration_s is None)
        if end_s is None:
            return start_s, duration_s
        if end_s <= (start_s or 0.0):
            raise ValueError(f"end must be after start, but they are {end_s:g} and {start_s or 0.0:g} instead")
        from_end_s = end_s - (start_s or 0.0)
        if duration_s is not None and abs(duration_s - from_end_s) > _AGREEMENT_S:
            raise ValueError(
                f"duration must be end - start, {from_end_s:g} s, but is {duration_s:g} instead; leave one of the three out"
            )
        return start_s, from_end_s

    def channel(self) -> int | None:
        """The channel of the recording, from 0; None if the row has none."""
        names = [name for name in self._values if name in _CHANNEL_NAMES and not self._is_count_of_channels(name)]
        unknown = [
            name
            for name, value in self._values.items()
            if "channel" in (words := name.split("_"))
            and name not in _CHANNEL_NAMES
            and _is_place(value)
            and not _COUNT_WORDS.intersection(words)
        ]
        if unknown:
            raise ValueError(f"the field of the channel must be called channel, but is {unknown[0]!r} instead; rename it")
        found = {name: self._use(name) for name in names}
        singles = (value[0] if isinstance(value, list) and len(value) == 1 else value for value in found.values())
        values = {_whole("channel", value) for value in singles}
        if len(values) > 1:
            raise ValueError(f"channel must be given once, but the row has {_shown(found)}")
        return next(iter(values), None)

    def whole(self, field: str) -> int | None:
        """A number that counts from 0; None if the row has none."""
        value = self.get(field)
        return None if value is None else _whole(field, value)

    def rest(self) -> dict[str, Any]:
        """What no other method has read, as in the row."""
        return {name: value for name, value in self._row.items() if name and canonical(name) not in self._used}

    def _use(self, name: str) -> Any:
        self._used.add(name)
        return self._values[name]

    def _is_count_of_channels(self, name: str) -> bool:
        """Whether `channels` says how many there are: a number, or all of them in a list."""
        value = self._values[name]
        return name == "channels" and (not isinstance(value, list) or (len(value) > 1 and value == list(range(len(value)))))

    def _seconds(self, field: str, names: frozenset[str]) -> float | None:
        """The time under any of the names, with or without a unit."""
        found: dict[str, float] = {}
        for name in self._values:
            match = _WITH_UNIT.fullmatch(name)
            base, unit_s = (match[1], _UNITS[match[2]]) if match else (name, 1.0)
            if base in names and (base not in _WORDS_TOO or _is_number(self._values[name])):
                found[name] = _seconds(name if match else field, self._use(name)) * unit_s
        if found and max(found.values()) - min(found.values()) > _AGREEMENT_S:
            raise ValueError(f"{field} must be given once, but the row has {_shown(found)}")
        return next(iter(found.values()), None)

    def _refuse_unknown_times(self, *, is_open: bool) -> None:
        """Raise for a number that seems to say which part of the recording is meant, under an unknown name.

        Args:
            is_open: whether the row says where the part starts and not where it ends; then a length counts, too.
        """
        for name, value in self._values.items():
            words = set(name.split("_"))
            is_time = (words & _TIME_WORDS and _is_number(value)) or (name in _TIME_NAMES and _is_place(value))
            if name not in self._used and (is_time or (is_open and words & _LENGTH_WORDS and _is_number(value))):
                raise ValueError(
                    f"times must be called start, end or duration, in seconds, but the row has {name!r}: {value!r}; rename "
                    "it, or leave it out"
                )


def _seconds(field: str, value: Any) -> float:
    """A time in seconds: a finite number from 0 up, or its digits."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{field} must be seconds from 0 up, but is {value!r} instead")
    return seconds


def _whole(field: str, value: Any) -> int:
    """A whole number from 0 up, or its digits; 1.0 counts, as pandas writes it."""
    number = int(value) if isinstance(value, float) and value.is_integer() and value >= 0 else value
    if isinstance(number, bool) or not (isinstance(number, int | str) and re.fullmatch(r"\d+(\.0)?", str(number))):
        raise ValueError(f"{field} must be a whole number from 0 up, but is {value!r} instead")
    return int(float(number))


def _is_number(value: Any) -> bool:
    """Whether a value is a number or its digits."""
    if isinstance(value, str):
        return re.fullmatch(r"\s*[-+]?\d+([.,:]\d+)*\s*", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_place(value: Any) -> bool:
    """Whether a value may say which part of a recording is meant: a number, or a few of them."""
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return 0 < len(values) <= 2 and all(map(_is_number, values))


def _shown(values: Mapping[str, Any]) -> str:
    return " and ".join(f"{name} = {value!r}" for name, value in values.items())
