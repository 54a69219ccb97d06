"""Readers of corpora that text files describe: JSONL and TSV manifests and Kaldi data directories.

They yield an `Utterance` for each entry, or a `Rejected` for a line that cannot be used. Times are in seconds.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zipasr.errors import DataError
from zipasr.lines import read_lines
from zipasr.prepare.utterance import Reason, Rejected, Utterance, bad_line

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
    part = "" if start_s is None else f"-{round(start_s * 1000):07d}"
    text, speaker = _field(row, "text"), _field(row, "speaker")
    known = {name for names in _FIELD_NAMES.values() for name in names}
    return Utterance(
        id=str(_field(row, "id") or Path(audio).with_suffix("").as_posix().lstrip("/") + part),
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


def _kaldi_table(path: Path) -> Iterator[tuple[str, str] | Rejected]:
    """Yield key and value of each line of a Kaldi table."""
    for number, line in read_lines(path):
        if line is None:
            yield bad_line(path, number)
        elif line.strip():
            key, *value = line.split(maxsplit=1)
            yield key, value[0].strip() if value else ""


def _kaldi_audio(value: str, folder: Path) -> Path | str:
    """The path of a recording in wav.scp, or an error message."""
    if value.endswith("|") or value.startswith("|"):
        return f"expected a path, got the command {value!r}: run it once, write files, and list those in wav.scp"
    direct, beside = Path(value), folder / value
    path = direct if direct.is_absolute() or direct.exists() else beside
    if not path.exists() and re.search(r"\.ark:\d+$", value):
        return f"expected an audio file, got an offset in an archive, {value!r}: extract the archive to files first"
    return path


def _kaldi_segments(path: Path) -> Iterator[tuple[str, str, float, float | None] | Rejected]:
    """Yield utterance, recording, start and duration of each line of `segments`."""
    for entry in _kaldi_table(path):
        if isinstance(entry, Rejected):
            yield entry
            continue
        key, value = entry
        fields = value.split()
        try:
            start_s, end_s = float(fields[1]), float(fields[2])
            if start_s < 0 or (end_s >= 0 and end_s <= start_s):
                raise ValueError("no length")
            yield key, fields[0], start_s, None if end_s < 0 else end_s - start_s
        except (IndexError, ValueError):
            detail = f"expected 'utterance recording start end' with start < end in segments, got {key} {value!r}"
            yield Rejected(id=key, audio=path.name, reason=Reason.BAD_ENTRY, detail=detail)


def read_kaldi(folder: Path, lang: str, split: str | None = None) -> Iterator[Utterance | Rejected]:
    """Yield the entries of a Kaldi data directory: `wav.scp`, `text`, and optionally `segments` and `utt2spk`.

    Paths in wav.scp are relative to the working directory, as in Kaldi, or else to `folder`. Commands are rejected.

    Raises:
        DataError: the file `text` is missing.
    """
    # Differs: lhotse.kaldi opens every recording while reading and stops if more than a few fail.
    if not (folder / "text").is_file():
        raise DataError(f"the Kaldi directory {folder} must contain wav.scp and text, but has no file 'text'")
    tables: dict[str, dict[str, str]] = {}
    for name in ("wav.scp", "text", "utt2spk"):
        tables[name] = {}
        for entry in _kaldi_table(folder / name) if (folder / name).exists() else ():
            if isinstance(entry, Rejected):
                yield entry
            elif entry[0] in tables[name]:
                detail = f"expected every id once in {name}, got {entry[0]!r} again"
                yield Rejected(id=entry[0], audio=name, reason=Reason.DUPLICATE_ID, detail=detail)
            else:
                tables[name][entry[0]] = entry[1]
    recordings, texts, speakers = tables["wav.scp"], tables["text"], tables["utt2spk"]
    has_segments = (folder / "segments").exists()
    segments = _kaldi_segments(folder / "segments") if has_segments else ((r, r, 0.0, None) for r in recordings)
    seen = set()
    for segment in segments:
        if isinstance(segment, Rejected):
            seen.add(segment.id)
            yield segment
            continue
        key, recording, start_s, duration_s = segment
        seen.add(key)
        audio = _kaldi_audio(recordings[recording], folder) if recording in recordings else None
        if not isinstance(audio, Path):
            detail = audio or f"expected recording {recording!r} in wav.scp, got no such line"
            yield Rejected(id=key, audio=recordings.get(recording, recording), reason=Reason.BAD_ENTRY, detail=detail)
            continue
        yield Utterance(
            id=key,
            audio=audio,
            text=texts.get(key, ""),
            start_s=start_s,
            duration_s=duration_s,
            speaker=speakers.get(key),
            language=lang,
            split=split,
        )
    for key in texts.keys() - seen:
        detail = f"expected a line for {key!r} in {'segments' if has_segments else 'wav.scp'}, got none"
        yield Rejected(id=key, audio="text", reason=Reason.NO_AUDIO, detail=detail)
