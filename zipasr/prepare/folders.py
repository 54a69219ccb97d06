"""Folders of recordings with their texts beside them: `read_folder` yields an `Utterance` or a `Rejected` for each.

Times are in seconds. No audio is opened here.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from zipasr.audio import AUDIO_SUFFIXES, files_below
from zipasr.errors import DataError
from zipasr.lines import read_lines
from zipasr.prepare.manifests import split_in
from zipasr.prepare.recording_files import composed
from zipasr.prepare.splits import audio_folders
from zipasr.prepare.timed_texts import READERS, TimedText, join_neighbors, names_of_tiers, read_timed_texts, text_lines
from zipasr.prepare.utterance import Reason, Rejected, Utterance, bad_line, part_id, reject
from zipasr.prepare.validate import check_unwritten_words
from zipasr.text import single_spaced

TEXT_SUFFIXES = (".txt", ".lab", *READERS)
"""Suffixes of files beside a recording that hold its words, the preferred first."""
_LANGUAGE_TAG = re.compile(r"\.([a-z]{2,3}(?:[-_][A-Za-z]{2,4})?)")
"""What players of videos put between the name of a recording and the ending of its subtitles."""

EXPECTED = (
    "the source must be a folder of NAME.wav (or any audio) with NAME.txt beside it or with .trans.txt files, a manifest "
    "with 'audio' and 'text' (.jsonl, .json, .tsv or .csv, also those of NeMo, WeNet, Common Voice, Hugging Face and "
    "LJSpeech), a folder with train.jsonl and dev.jsonl, a Kaldi directory with wav.scp and text, Lhotse cuts (.jsonl.gz), "
    "the word prompts, or NAME:FOLDER for librispeech, aishell, wenetspeech, gigaspeech or musan"
)
_TRANSCRIPTS_NAME = re.compile(r"(?:(.+)\.)?trans(?:cripts?)?\.txt", re.IGNORECASE)
"""Name of a file with an id and its words in every line, as LibriSpeech has it; the prefix is that of the ids."""


def read_folder(
    folder: Path, lang: str, skip: Path | None = None, *, needs_texts: bool = True
) -> Iterator[Utterance | Rejected]:
    """Yield the utterances of recordings with their texts beside them, also in subfolders.

    The words of NAME.wav (or any audio) are in NAME.txt or NAME.lab, or with their times in NAME.srt, NAME.vtt or
    NAME.TextGrid, which give an utterance for each text. NAME.wav.txt counts, too, and without any of these NAME.en.srt, in
    `lang` if there are several. The words may also be in files such as 84-121123.trans.txt, with an id and its words in
    every line. The id is the path below `folder` without its suffix. Top-level subfolders with train, dev or test in their
    names, as dev-clean, are the splits.

    Args:
        lang: language of all entries.
        skip: the output folder, to ignore; of one that holds `folder`, only its audio is ignored.
        needs_texts: whether a recording without a text is rejected; otherwise all texts are empty: their files are not read.
    Raises:
        DataError: there is no recording, or no recording has a text.
    """
    files = files_below(folder)
    if skip is not None:
        is_inside = folder.resolve().is_relative_to(skip.resolve())
        skipped = [path.resolve() for path in (audio_folders(skip) if is_inside else [skip])]
        files = [path for path in files if not any(map(path.resolve().is_relative_to, skipped))]
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        raise DataError(f"{EXPECTED}, but {folder} holds no recording of a known kind")
    texts, unmatched = _texts_beside(recordings, files) if needs_texts else ({}, [])
    lines, rejected = _lines_of_transcripts(recordings, files) if needs_texts else ({}, [])
    if needs_texts and not texts and not lines:
        first = recordings[0]
        raise DataError(
            f"{first.name} must have {first.stem}.txt with its words beside it, but none of the {len(recordings)} "
            f"recordings in {folder} has a text; write NAME.txt for each NAME{first.suffix}, or a manifest with "
            "'audio' and 'text'"
        )
    yield from rejected
    stems = [path.relative_to(folder).with_suffix("") for path in recordings]
    splits = _splits_of({stem.parts[0] for stem in stems if len(stem.parts) > 1})
    for path, stem in zip(recordings, stems, strict=True):
        split = splits.get(stem.parts[0]) if len(stem.parts) > 1 else None
        whole = Utterance(id=composed(stem.as_posix()), audio=path, text="", language=lang, split=split)
        if path in texts:
            try:
                used = _preferred(texts[path], lang)
                yield from _utterances_of(replace(whole, unused_times=_unused_times(texts[path], used)), used)
            except ValueError as error:
                yield reject(whole, Reason.BAD_ENTRY, str(error))
        elif path in lines:
            yield replace(whole, text=lines[path].text, speaker=lines[path].speaker)
        elif not needs_texts:
            yield whole
        else:
            yield reject(whole, Reason.NO_TEXT, f"expected {path.stem}.txt beside it, got none")
    for path in unmatched:
        name = path.relative_to(folder)
        detail = f"expected a recording {path.stem}.wav (or any other audio) beside {path.name}, got none"
        yield Rejected(id=name.with_suffix("").as_posix(), audio=name.as_posix(), reason=Reason.NO_AUDIO, detail=detail)


def _splits_of(names: Set[str]) -> dict[str, str]:
    """The split of each top-level folder whose name is that of one.

    Beside others and without a part for training, Val may be a speaker and hearing_test a task. Then only names in lower
    case count that start with a split, such as test-clean.
    """
    splits = {name: split for name in names if (split := split_in(name))}
    if "train" in splits.values() or len(splits) == len(names):
        return splits
    return {name: split for name, split in splits.items() if split_in(re.split(r"[^a-z]", name)[0])}


class _TextFile(NamedTuple):
    """A text file beside a recording."""

    path: Path
    is_of_file: bool
    """Whether its name is that of the recording with its suffix: NAME.wav.txt."""
    language: str | None
    """What NAME.en.srt has between the name of the recording and its suffix."""


def _texts_beside(recordings: Sequence[Path], files: Sequence[Path]) -> tuple[dict[Path, list[_TextFile]], list[Path]]:
    """The text files of each recording that has any, and the text files of no recording."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in recordings:
        by_stem[composed(str(path.with_suffix("")))].append(path)
    texts: dict[Path, list[_TextFile]] = defaultdict(list)
    unmatched = []
    for path in files:
        if path.suffix.lower() not in TEXT_SUFFIXES:
            continue
        stem = path.with_suffix("")
        found, is_of_file, language = by_stem.get(composed(str(stem)), []), False, None
        if not found and _TRANSCRIPTS_NAME.fullmatch(path.name):
            continue
        tag = _LANGUAGE_TAG.fullmatch(stem.suffix) if path.suffix.lower() in READERS else None
        if not found and stem.suffix.lower() in AUDIO_SUFFIXES:  # NAME.wav.txt
            found, is_of_file = by_stem.get(composed(str(stem.with_suffix(""))), []), True
            found = [recording for recording in found if composed(str(recording)) == composed(str(stem))] or found
        elif not found and tag:  # NAME.en.srt
            found, language = by_stem.get(composed(str(stem.with_suffix(""))), []), tag[1]
        for recording in found:
            texts[recording].append(_TextFile(path, is_of_file, language))
        if not found:
            unmatched.append(path)
    return texts, unmatched


def _preferred(files: Sequence[_TextFile], lang: str) -> Path:
    """The text file to use: without a language in its name if there is one, else the one in `lang`; by `TEXT_SUFFIXES`.

    Raises:
        ValueError: there are several languages, and none of them is `lang`, or more than one.
    """

    def rank(file: _TextFile) -> tuple[int, bool]:
        return TEXT_SUFFIXES.index(file.path.suffix.lower()), file.is_of_file

    plain = [file for file in files if file.language is None]
    if plain:
        return min(plain, key=rank).path
    languages = {file.language: _language_parts(file.language or "") for file in files}
    wanted = _language_parts(lang)
    chosen = (
        [name for name, parts in languages.items() if parts == wanted]
        or [name for name, parts in languages.items() if parts[0] == wanted[0]]
        or list(languages)
    )
    if len(chosen) > 1:
        names = ", ".join(sorted(file.path.name for file in files))
        raise ValueError(
            f"a recording must have one text in {lang}, but beside it are {names}; leave out the language in the name of "
            "the one to use"
        )
    return min((file for file in files if file.language == chosen[0]), key=rank).path


def _unused_times(files: Sequence[_TextFile], used: Path) -> tuple[str, str] | None:
    """See `Utterance.unused_times`."""
    timed = [file.path.name for file in files if file.path.suffix.lower() in READERS]
    return (timed[0], used.name) if timed and used.suffix.lower() not in READERS else None


def _language_parts(name: str) -> list[str]:
    """The language and the region of en-US."""
    return re.split("[-_]", name.lower())


class _Line(NamedTuple):
    """A line of a file of transcripts."""

    text: str
    speaker: str | None


def _lines_of_transcripts(recordings: Sequence[Path], files: Sequence[Path]) -> tuple[dict[Path, _Line], list[Rejected]]:
    """The lines of files of transcripts, by their recordings: of that name in the folder of the file, or below it."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in recordings:
        by_name[composed(path.stem)].append(path)
    beside = {path.with_suffix("") for path in recordings}
    lines: dict[Path, _Line] = {}
    rejected = []
    for path in files:
        match = _TRANSCRIPTS_NAME.fullmatch(path.name) if path.with_suffix("") not in beside else None
        for number, line in read_lines(path) if match else ():
            if line is None:
                rejected.append(bad_line(path, number))
                continue
            id, *words = line.split(maxsplit=1)[:2] or [""]
            below = [found for found in by_name.get(composed(id), []) if found.is_relative_to(path.parent)]
            named = [found for found in below if found.parent == path.parent] or below
            if id and len(named) != 1:
                detail = f"expected a recording {id} in the folder of {path.name}, got {len(named) or 'none'}"
                rejected.append(Rejected(id=id, audio=path.name, reason=Reason.NO_AUDIO, detail=detail))
            elif id and named[0] in lines:
                detail = f"expected one text for {id}, got another in {path.name}:{number}"
                rejected.append(Rejected(id=id, audio=str(named[0]), reason=Reason.DUPLICATE_ID, detail=detail))
            elif id:
                lines[named[0]] = _Line(single_spaced("".join(words)), _speaker(id, match[1] if match else None))
    return lines, rejected


def _speaker(id: str, prefix: str | None) -> str | None:
    """The speaker in ids of LibriSpeech: the first number of speaker-chapter-sentence."""
    match = re.fullmatch(r"(\d+)-\d+", prefix or "")
    return match[1] if match and id.startswith(f"{prefix}-") else None


def _utterances_of(whole: Utterance, path: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of a recording with a text file: one, or one for each text with times.

    Raises:
        ValueError: the file is not what its ending says.
    """
    if path.suffix.lower() not in READERS:
        yield replace(whole, text=single_spaced(" ".join(text_lines(path))))
        return
    entries = read_timed_texts(path)
    if not entries:
        tiers = ", ".join(map(repr, names_of_tiers(path)))
        detail = f"expected texts with times in {path.name}, got none{f' in the tiers {tiers}' if tiers else ''}"
        yield reject(whole, Reason.NO_TEXT, detail)
    faults = [_fault(entry, whole, path) for entry in entries]
    yield from filter(None, faults)
    for entry in join_neighbors(entry for entry, fault in zip(entries, faults, strict=True) if fault is None):
        name = whole.id if entry.speaker is None else f"{whole.id}-{entry.speaker}"
        yield replace(
            whole,
            id=part_id(name, entry.start_s),
            text=entry.text,
            speaker=entry.speaker,
            start_s=entry.start_s,
            duration_s=entry.end_s - entry.start_s,
        )


def _fault(entry: TimedText, whole: Utterance, path: Path) -> Rejected | None:
    """Why a text with times cannot be used; None if it can."""
    if math.isnan(entry.start_s):
        detail = f"expected times such as 00:00:01,000 --> 00:00:04,000 in {path.name}, got {entry.text!r}"
        return reject(whole, Reason.BAD_ENTRY, detail)
    part = replace(whole, id=part_id(whole.id, entry.start_s), text=entry.text)
    if entry.end_s <= entry.start_s:
        detail = f"expected an end after the start, got {entry.start_s:g} to {entry.end_s:g} s in {path.name}"
        return reject(part, Reason.BAD_ENTRY, detail)
    return check_unwritten_words(part)
