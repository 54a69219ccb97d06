"""Sources of speech: `open_source` detects the kind of a source and yields its `Utterance` and `Rejected` entries.

Sources are a folder of recordings with texts, a JSONL or TSV manifest, a Kaldi data directory, Lhotse cuts, or the
word `prompts`. No audio is opened here.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.audio import AUDIO_SUFFIXES
from zipasr.data.manifest_index import require_lhotse
from zipasr.errors import DataError
from zipasr.lines import read_lines
from zipasr.prepare.manifests import SPLIT_NAMES, kind_of_rows, read_kaldi, read_manifest
from zipasr.prepare.prompts import read_prompts
from zipasr.prepare.timed_texts import READERS, join_neighbors, read_timed_texts
from zipasr.prepare.utterance import Reason, Rejected, Utterance, part_id
from zipasr.text import single_spaced

TEXT_SUFFIXES = (".txt", ".lab", *READERS)
"""Suffixes of files beside a recording that hold its words, the preferred first."""
_LANGUAGE_TAG = re.compile(r"\.[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?")
"""What players of videos put between the name of a recording and the ending of its subtitles."""

_EXPECTED = (
    "the source must be a folder of NAME.wav (or any audio) with NAME.txt beside it, a .jsonl or .tsv manifest with 'audio' "
    "and 'text', a folder with train.jsonl and dev.jsonl, a Kaldi directory with wav.scp and text, Lhotse cuts "
    "(.jsonl.gz), the word prompts, or NAME:FOLDER for librispeech, aishell, wenetspeech, gigaspeech or musan"
)
_ROWS_NAME = re.compile(r".*\.(?:jsonl|tsv)(?:\.gz)?")


class OpenSource(NamedTuple):
    """A source of a known kind, and its entries."""

    kind: str
    """folder, manifest, kaldi, cuts or prompts."""
    entries: Iterator[Utterance | Rejected]
    """Read lazily."""


def _split_of(name: str) -> str | None:
    """The split that a file name such as `librispeech_cuts_dev-clean.jsonl.gz` contains, or None."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def read_folder(folder: Path, lang: str, skip: Path | None = None) -> Iterator[Utterance | Rejected]:
    """Yield the utterances of recordings with their texts beside them, also in subfolders.

    The words of NAME.wav (or any audio) are in NAME.txt or NAME.lab, or with their times in NAME.srt, NAME.vtt or
    NAME.TextGrid, which give an utterance for each text; NAME.wav.txt and NAME.en.srt count, too. The id is the path below
    `folder` without its suffix. A top-level subfolder called train, dev or test is the split.

    Args:
        lang: language of all entries.
        skip: a folder to ignore, such as the output folder.
    Raises:
        DataError: there is no recording, or no recording has a text.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if skip is not None:
        files = [path for path in files if not path.resolve().is_relative_to(skip.resolve())]
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        raise DataError(f"{_EXPECTED}, but {folder} holds no recording of a known kind")
    texts, unmatched = _texts_beside(recordings, files)
    if not texts:
        first = recordings[0]
        raise DataError(
            f"{first.name} must have {first.stem}.txt with its words beside it, but none of the {len(recordings)} "
            f"recordings in {folder} has a text; write NAME.txt for each NAME{first.suffix}, or a manifest with "
            "'audio' and 'text'"
        )
    for path in recordings:
        stem = path.relative_to(folder).with_suffix("")
        if path not in texts:
            detail = f"expected {path.stem}.txt beside it, got none"
            yield Rejected(id=stem.as_posix(), audio=str(path), reason=Reason.NO_TEXT, detail=detail)
            continue
        split = SPLIT_NAMES.get(stem.parts[0]) if len(stem.parts) > 1 else None
        whole = Utterance(id=stem.as_posix(), audio=path, text="", language=lang, split=split)
        try:
            yield from _utterances_of(whole, texts[path])
        except ValueError as error:
            yield Rejected(id=whole.id, audio=str(path), reason=Reason.BAD_ENTRY, detail=str(error))
    for path in unmatched:
        name = path.relative_to(folder)
        detail = f"expected a recording beside {path.name}, got none"
        yield Rejected(id=name.with_suffix("").as_posix(), audio=name.as_posix(), reason=Reason.NO_AUDIO, detail=detail)


def _texts_beside(recordings: Sequence[Path], files: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """The text file of each recording that has one, by `TEXT_SUFFIXES` the first; and the text files of no recording."""
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for path in recordings:
        by_stem[path.with_suffix("")].append(path)
    texts: dict[Path, Path] = {}
    unmatched = []
    for path in sorted(files, key=lambda path: path.suffix.lower()):
        if path.suffix.lower() not in TEXT_SUFFIXES:
            continue
        stem = path.with_suffix("")
        if stem not in by_stem and (stem.suffix.lower() in AUDIO_SUFFIXES or _LANGUAGE_TAG.fullmatch(stem.suffix)):
            stem = stem.with_suffix("")  # NAME.wav.txt, NAME.en.srt
        found = by_stem.get(stem, [])
        for recording in found:
            known = texts.setdefault(recording, path)
            if TEXT_SUFFIXES.index(path.suffix.lower()) < TEXT_SUFFIXES.index(known.suffix.lower()):
                texts[recording] = path
        if not found:
            unmatched.append(path)
    return texts, sorted(unmatched)


def _utterances_of(whole: Utterance, path: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of a recording with a text file: one, or one for each text with times.

    Raises:
        ValueError: the file is not what its ending says.
    """
    if path.suffix.lower() not in READERS:
        lines = [line for _, line in read_lines(path)]
        if None in lines:
            raise ValueError(f"{path.name} must be text in UTF-8 or UTF-16, but has other bytes; save it in UTF-8")
        yield replace(whole, text=single_spaced(" ".join(line for line in lines if line is not None)))
        return
    entries = read_timed_texts(path)
    for entry in entries:
        if entry.end_s <= entry.start_s:
            id = part_id(whole.id, entry.start_s)
            detail = f"expected an end after the start, got {entry.start_s:g} to {entry.end_s:g} s in {path.name}"
            yield Rejected(id=id, audio=str(whole.audio), reason=Reason.BAD_ENTRY, detail=detail)
    for entry in join_neighbors(entry for entry in entries if entry.end_s > entry.start_s):
        name = whole.id if entry.speaker is None else f"{whole.id}-{entry.speaker}"
        yield replace(
            whole,
            id=part_id(name, entry.start_s),
            text=entry.text,
            speaker=entry.speaker,
            start_s=entry.start_s,
            duration_s=entry.end_s - entry.start_s,
        )


def _cut_utterances(cut: Any, lang: str, split: str | None) -> Iterator[Utterance]:
    """Yield one utterance per supervision of a Lhotse cut.

    Raises:
        ValueError: the cut is not a part of one recording in a file.
    """
    if type(cut).__name__ not in ("MonoCut", "MultiCut") or not cut.has_recording:
        raise ValueError(f"a cut must be of one recording, but is a {type(cut).__name__} without one")
    if cut.recording.transforms:
        raise ValueError("a cut must be as recorded, but has transforms; save its audio first")
    sources = cut.recording.sources
    if len(sources) != 1 or sources[0].type != "file":
        kinds = ", ".join(source.type for source in sources)
        raise ValueError(f"a recording must be in one file, but has sources of type {kinds}")
    channel = cut.channel if isinstance(cut.channel, int) and cut.recording.num_channels > 1 else None
    is_whole = cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3
    for supervision in cut.supervisions:
        is_only = len(cut.supervisions) == 1
        yield Utterance(
            id=cut.id if is_only else supervision.id,
            audio=Path(sources[0].source),
            text=supervision.text or "",
            channel=channel,
            start_s=cut.start if is_only else cut.start + max(0.0, supervision.start),
            duration_s=(None if is_whole else cut.duration) if is_only else supervision.duration,
            speaker=supervision.speaker,
            language=supervision.language or lang,
            split=split,
            custom=supervision.custom or {},
        )


def read_cuts(path: Path, lang: str, split: str | None = None) -> Iterator[Utterance | Rejected]:
    """Yield the utterances of Lhotse cuts, one for each supervision; reads line by line.

    Raises:
        DataError: Lhotse is not installed.
    """
    require_lhotse("reading Lhotse cuts")
    from lhotse.serialization import deserialize_item

    for number, line in read_lines(path):
        where = f"{path.name}:{number}"
        if line is not None and not line.strip():
            continue
        try:
            if line is None:
                raise ValueError("a line must be UTF-8, but has other bytes")
            cut = deserialize_item(json.loads(line))
            where = str(cut.id)
            utterances = list(_cut_utterances(cut, lang, split))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            yield Rejected(id=where, audio=path.name, reason=Reason.BAD_ENTRY, detail=str(error) or repr(error))
            continue
        if not utterances:
            detail = "expected a supervision with a text, got none"
            yield Rejected(id=where, audio=path.name, reason=Reason.NO_TEXT, detail=detail)
        yield from utterances


_READERS = {"manifest": read_manifest, "cuts": read_cuts}
"""The reader of each kind of file that `kind_of_rows` detects, in the order in which a folder is searched."""


def _open_folder(folder: Path, lang: str, skip: Path | None) -> OpenSource:
    """Open a folder source of any kind."""
    if (folder / "wav.scp").is_file():
        return OpenSource("kaldi", read_kaldi(folder, lang))
    parts = [folder / name for name in SPLIT_NAMES if (folder / name / "wav.scp").is_file()]
    if parts:
        return OpenSource("kaldi", chain.from_iterable(read_kaldi(part, lang, SPLIT_NAMES[part.name]) for part in parts))
    kinds = {path: kind_of_rows(path) for path in sorted(folder.iterdir()) if _ROWS_NAME.fullmatch(path.name)}
    for kind in _READERS:
        found = [path for path, kind_of_path in kinds.items() if kind_of_path == kind]
        named = [path for path in found if _split_of(path.name)]
        if len(found) > 1 and not named:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{folder} must contain one manifest, or names with train, dev and test, but has {names}")
        if found:
            readers = (_READERS[kind](path, lang, _split_of(path.name)) for path in named or found)
            return OpenSource(kind, chain.from_iterable(readers))
    return OpenSource("folder", read_folder(folder, lang, skip))


def open_source(source: str | Path, lang: str = "en", *, skip: Path | None = None) -> OpenSource:
    """Detect the kind of a source and open it.

    Args:
        source: a path, or the word `prompts` (write `./prompts` for a folder of that name).
        lang: language of entries that name none.
        skip: a subfolder of a folder source to ignore.
    Raises:
        DataError: the kind is unknown, or a file cannot be read; also while the entries are read.
    """
    if source == "prompts":
        return OpenSource("prompts", read_prompts(lang))
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, lang, skip)
    if not path.exists():
        raise DataError(f"{_EXPECTED}, but {path} does not exist")
    if not _ROWS_NAME.fullmatch(path.name):
        raise DataError(f"{_EXPECTED}, but is the file {path}")
    kind = kind_of_rows(path)
    if kind is None:
        raise DataError(f"the first line of {path} must be a Lhotse cut or have 'audio' and 'text', but is neither")
    return OpenSource(kind, _READERS[kind](path, lang))
