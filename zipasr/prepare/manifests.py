"""Manifests, files with a row for each utterance: our own and those of NeMo, WeNet, Common Voice, Hugging Face, LJSpeech.

`recognize` says what a file is by its content; `read_manifest` yields an `Utterance` for each row, or a `Rejected` for one
that cannot be used. Times are in seconds. No audio is opened here.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.prepare.fields import FIELD_NAMES, Fields, canonical
from zipasr.prepare.recording_files import composed, find_recording
from zipasr.prepare.tables import RowFile, possible_formats
from zipasr.prepare.utterance import Rejected, Utterance, bad_line, part_id

SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "development", "val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The names that corpora use for each split."""
_NUM_EXAMINED = 50
"""Rows of a table without names of columns that must look like LJSpeech."""


class Manifest(NamedTuple):
    """A file whose rows are utterances."""

    kind: str
    """manifest, or cuts for Lhotse cuts."""
    name: str
    """In words, such as NeMo manifest (JSON lines)."""
    rows: RowFile
    subfolder: str = ""
    """Where recordings are, below the folder of the file; they may also be in the folder itself."""
    has_splits_in_paths: bool = False
    """Whether the first folder of the path of a recording may be its split."""


class _Layout(NamedTuple):
    """A kind of manifest that others publish."""

    name: str
    columns: frozenset[str]
    """Names that tell it from other kinds."""
    subfolder: str = ""
    has_splits_in_paths: bool = False


_LAYOUTS = (
    _Layout("NeMo manifest", frozenset(("audio_filepath", "text"))),
    _Layout("WeNet data.list", frozenset(("key", "wav", "txt"))),
    _Layout("Common Voice table", frozenset(("path", "sentence")), "clips"),
    _Layout("Hugging Face metadata", frozenset(("file_name",)), has_splits_in_paths=True),
    _Layout("manifest", frozenset()),
)
"""The first whose columns a file has is its kind."""


def split_in(name: str) -> str | None:
    """The split that the name of a file or folder such as `librispeech_cuts_dev-clean.jsonl.gz` contains, or None.

    A split's own name counts before other names for it: Common Voice 1 has cv-valid-train.csv, of its valid recordings.
    """
    words = re.split(r"[^a-z]+", name.lower())
    named = (split for word in words for split, names in SPLIT_NAMES.items() if word in names)
    return next((word for word in words if word in SPLIT_NAMES), None) or next(named, None)


def split_of_folder(path: Path) -> str | None:
    """The split that the first folder of a relative path contains, or None."""
    return split_in(path.parts[0]) if len(path.parts) > 1 else None


def recognize(path: Path, *, needs_texts: bool = True) -> Manifest | None:
    """What a file of rows is, by its first row; None for a file of another kind.

    Args:
        needs_texts: whether the rows of a manifest must have texts.
    Raises:
        DataError: the file cannot be read.
    """
    for rows in possible_formats(path):
        names = set(map(canonical, rows.names))
        if rows.separator is None and "type" in names and names & {"supervisions", "tracks", "recording"}:
            return Manifest("cuts", "Lhotse cuts", rows)
        needed = ("audio", "text") if needs_texts else ("audio",)
        if all(names.intersection(FIELD_NAMES[field]) for field in needed):
            layout = next(layout for layout in _LAYOUTS if layout.columns <= names)
            name = f"{layout.name} ({rows.format})"
            return Manifest("manifest", name, rows, layout.subfolder, layout.has_splits_in_paths)
        if rows.separator == "|" and _is_ljspeech(rows):
            columns = ("audio", "raw_text", "text") if len(rows.names) == 3 else ("audio", "text")
            return Manifest("manifest", "LJSpeech metadata", rows._replace(names=columns, has_header=False), "wavs")
    return None


def _is_ljspeech(file: RowFile) -> bool:
    """Whether the rows of a table are an id, a text, and perhaps the same text normalized, with wavs/ID.wav beside it.

    Other tables with bars have a speaker in the third column, whose name must not become the text.
    """
    if len(file.names) not in (2, 3):
        return False
    columns = tuple(map(str, range(len(file.names))))
    rows = [row for _, row in islice(file._replace(names=columns, has_header=False).rows(), _NUM_EXAMINED)]
    texts = [tuple(row.values()) for row in rows if isinstance(row, dict)]
    if not texts or not any(os.path.isfile(_find(cells[0], file.path.parent, "wavs")) for cells in texts):
        return False
    pairs = [[set(cell.lower().split()) for cell in cells[1:]] for cells in texts]
    return sum(bool(set.intersection(*words)) for words in pairs) > 0.5 * len(pairs)


def _find(name: str, folder: Path, subfolder: str) -> Path:
    """The recording of a row: below the manifest, or below the working directory."""
    folders = [folder / subfolder, folder] if subfolder else [folder]
    return find_recording(name, [*folders, Path()])


def _utterance(row: Mapping[str, Any], manifest: Manifest, *, lang: str, split: str | None) -> tuple[Utterance, bool]:
    """The utterance of one row, and whether its id is made up; ValueError for a field that is missing or invalid."""
    fields = Fields(row)
    audio = fields.get("audio")
    if not isinstance(audio, str):
        raise ValueError(f"audio must be a path, but is {audio!r} instead")
    start_s, duration_s = fields.part()
    channel, audio_track, id = fields.channel(), fields.whole("audio_track"), fields.label("id")
    named_split = fields.get("split")
    if named_split is not None:
        split = split_in(named_split) if isinstance(named_split, str) else None
        if split is None:
            raise ValueError(f"split must be train, dev or test, but is {named_split!r} instead")
    elif split is None and manifest.has_splits_in_paths:
        split = split_of_folder(Path(audio))
    path = _find(audio, manifest.rows.path.parent, manifest.subfolder)
    utterance = Utterance(
        id=_made_id(audio, path.suffix, channel, audio_track, start_s) if id is None else id,
        audio=path,
        text=fields.text(),
        channel=channel,
        audio_track=audio_track,
        start_s=start_s or 0.0,
        duration_s=duration_s,
        speaker=fields.label("speaker"),
        language=fields.label("lang") or lang,
        split=split,
        custom=fields.rest(),
    )
    return utterance, id is None


def _made_id(audio: str, ending: str, channel: int | None, audio_track: int | None, start_s: float | None) -> str:
    """The id of a part of a recording: its path without the ending of the file, and what tells the part from others."""
    path = Path(composed(audio))
    id = (path.with_suffix("") if path.suffix == ending else path).as_posix().lstrip("/")
    id = id if audio_track is None else f"{id}-track{audio_track}"
    id = id if channel is None else f"{id}-ch{channel}"
    return id if start_s is None else part_id(id, start_s)


class _MadeIds:
    """Keeps ids apart that were made up for different parts."""

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}

    def distinct(self, utterance: Utterance) -> Utterance:
        """The utterance with an id that no other part has: with the end of the part, or the ending of the file."""
        ending = utterance.audio.suffix.lower().removeprefix(".")
        ids = [utterance.id, f"{utterance.id}-{ending}"]
        if utterance.duration_s is not None:
            ids.insert(1, part_id(utterance.id, utterance.start_s + utterance.duration_s))
        part = utterance.part
        id = next((id for id in ids if self._parts.setdefault(id, part) == part), utterance.id)
        return replace(utterance, id=id)


def read_manifest(manifest: Manifest, lang: str, split: str | None = None) -> Iterator[Utterance | Rejected]:
    """Yield the entries of a manifest; recordings are relative to its folder, or else to the working directory.

    Required fields: the recording and its text. Optional: an id, times (a part of the recording), a channel, an audio track,
    the speaker, the language and the split. All other fields are kept in `custom`.

    Args:
        lang: language of rows that name none.
        split: split of rows that name none.
    """
    made_ids = _MadeIds()
    for number, row in manifest.rows.rows():
        try:
            if isinstance(row, Rejected):
                yield row
            else:
                utterance, is_made = _utterance(row, manifest, lang=lang, split=split)
                yield made_ids.distinct(utterance) if is_made else utterance
        except ValueError as error:
            yield bad_line(manifest.rows.path, number, str(error))
