"""Folders of recordings with their texts beside them: `read_folder` yields an `Utterance` or a `Rejected` for each.

Times are in seconds. No audio is opened here.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from zipasr.errors import DataError
from zipasr.lines import read_lines
from zipasr.prepare.manifests import SPLIT_NAMES
from zipasr.prepare.timed_texts import READERS, join_neighbors, read_timed_texts
from zipasr.prepare.utterance import Reason, Rejected, Utterance, part_id
from zipasr.text import single_spaced

AUDIO_SUFFIXES = frozenset(
    ".aac .aif .aiff .amr .au .flac .g722 .m4a .mka .mkv .mp3 .mp4 .oga .ogg .opus .sph .wav .weba .webm .wma".split()
)
"""Suffixes of files in a folder that count as recordings."""
TEXT_SUFFIXES = (".txt", ".lab", *READERS)
"""Suffixes of files beside a recording that hold its words, the preferred first."""
_LANGUAGE_TAG = re.compile(r"\.[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?")
"""What players of videos put between the name of a recording and the ending of its subtitles."""

EXPECTED = (
    "the source must be a folder of NAME.wav (or any audio) with NAME.txt beside it, a .jsonl or .tsv manifest with 'audio' "
    "and 'text', a folder with train.jsonl and dev.jsonl, a Kaldi directory with wav.scp and text, Lhotse cuts "
    "(.jsonl.gz), the word prompts, or NAME:FOLDER for librispeech, aishell, wenetspeech, gigaspeech or musan"
)


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
        raise DataError(f"{EXPECTED}, but {folder} holds no recording of a known kind")
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
