"""Readers of corpora that text files describe: JSONL and TSV manifests.

They yield an `Utterance` for each entry, or a `Rejected` for a line that cannot be used. Times are in seconds.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zipasr.lines import read_lines
from zipasr.prepare.utterance import Rejected, Utterance, bad_line, part_id

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
    "eval": "test",
}
"""The split for each name that corpora use for their parts."""

_FIELD_NAMES = {
    "id": ("id", "key"),
    "audio": ("audio", "audio_filepath", "wav"),
    "text": ("text", "txt"),
    "start": ("start", "offset"),
    "duration": ("duration",),
    "channel": ("channel",),
    "audio_track": ("audio_track",),
    "speaker": ("speaker",),
    "lang": ("lang", "language"),
    "split": ("split",),
}
"""Names that our, NeMo and WeNet manifests use for each field."""


def kind_of_rows(path: Path) -> str | None:
    """manifest if the first line of a JSONL or TSV file names a recording and its text, cuts if it is a Lhotse cut.

    Returns:
        manifest, cuts, or None for a file of another kind.
    """
    first = next((line for _, line in read_lines(path) if line and line.strip()), "")
    try:
        row = dict.fromkeys(first.split("\t")) if _is_tsv(path) else json.loads(first)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    if all(row.keys() & _FIELD_NAMES[field] for field in ("audio", "text")):
        return "manifest"
    return "cuts" if str(row.get("type")).endswith("Cut") else None


def _is_tsv(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".tsv")


def _field(row: Mapping[str, Any], field: str) -> Any:
    """The value of a field under any of its names; None if absent or empty."""
    return next((row[name] for name in _FIELD_NAMES[field] if row.get(name) not in (None, "")), None)


def _seconds(row: Mapping[str, Any], field: str) -> float | None:
    """Parse a time in seconds.

    Raises:
        ValueError: it is not a finite number from 0 up.
    """
    value = _field(row, field)
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{field} must be seconds from 0 up, but is {value!r} instead")
    return seconds


def _number(row: Mapping[str, Any], field: str) -> int | None:
    """Parse a number that counts from 0.

    Raises:
        ValueError: it is not a whole number from 0 up.
    """
    value = _field(row, field)
    if value is not None and (isinstance(value, bool) or not str(value).isdecimal()):
        raise ValueError(f"{field} must be a whole number from 0 up, but is {value!r} instead")
    return None if value is None else int(value)


def _utterance(row: Mapping[str, Any], *, folder: Path, lang: str, split: str | None) -> Utterance:
    """The utterance of one row of a manifest.

    Raises:
        ValueError: a field is missing or invalid.
    """
    audio = _field(row, "audio")
    if not isinstance(audio, str):
        raise ValueError(f"audio must be a path, but is {audio!r} instead")
    start_s = _seconds(row, "start")
    named_split = _field(row, "split")
    if named_split is not None and named_split not in SPLIT_NAMES:
        raise ValueError(f"split must be train, dev or test, but is {named_split!r} instead")
    text, speaker = _field(row, "text"), _field(row, "speaker")
    made_id = Path(audio).with_suffix("").as_posix().lstrip("/")
    made_id = made_id if start_s is None else part_id(made_id, start_s)
    known = {name for names in _FIELD_NAMES.values() for name in names}
    return Utterance(
        id=str(_field(row, "id") or made_id),
        audio=folder / audio,
        text="" if text is None else str(text),
        channel=_number(row, "channel"),
        audio_track=_number(row, "audio_track"),
        start_s=start_s or 0.0,
        duration_s=_seconds(row, "duration"),
        speaker=None if speaker is None else str(speaker),
        language=str(_field(row, "lang") or lang),
        split=SPLIT_NAMES[named_split] if named_split else split,
        custom={name: value for name, value in row.items() if name not in known and name is not None},
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Rejected]]:
    """Yield the rows of a JSONL or TSV file with their line numbers."""
    header: list[str] = []
    for number, line in read_lines(path):
        if line is None:
            yield number, bad_line(path, number)
        elif not line.strip():
            continue
        elif _is_tsv(path):
            cells = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE))
            if not header:
                header = cells
            elif len(cells) != len(header):
                yield number, bad_line(path, number, f"expected {len(header)} columns, got {len(cells)}")
            else:
                yield number, dict(zip(header, cells, strict=True))
        else:
            try:
                row = json.loads(line)
                detail = f"expected a JSON object, got {type(row).__name__}"
            except ValueError as error:
                row, detail = None, f"expected one JSON object per line, got {error}"
            yield number, row if isinstance(row, dict) else bad_line(path, number, detail)


def read_manifest(path: Path, lang: str, split: str | None = None) -> Iterator[Utterance | Rejected]:
    """Yield the entries of a JSONL or TSV manifest; recordings are relative to its folder.

    Required fields: `audio` and `text`. Optional fields: `id`, `start` and `duration` (a part of the recording), `channel`,
    `audio_track`, `speaker`, `lang` and `split`. All other fields are kept in `custom`.

    Args:
        lang: language of rows that name none.
        split: split of rows that name none.
    """
    for number, row in _rows(path):
        try:
            yield row if isinstance(row, Rejected) else _utterance(row, folder=path.parent, lang=lang, split=split)
        except ValueError as error:
            yield bad_line(path, number, str(error))
