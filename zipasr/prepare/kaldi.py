"""Kaldi data directories: `read_kaldi` yields an `Utterance` for each entry, or a `Rejected` for one that cannot be used.
Times are in seconds.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from zipasr.audio import num_channels
from zipasr.errors import AudioError, DataError
from zipasr.lines import read_lines
from zipasr.prepare.recording_files import find_recording
from zipasr.prepare.utterance import Reason, Rejected, Utterance, bad_line


def _kaldi_table(path: Path) -> Iterator[tuple[str, str] | Rejected]:
    """Yield key and value of each line of a Kaldi table."""
    for number, line in read_lines(path):
        if line is None:
            yield bad_line(path, number)
        elif line.strip():
            key, *value = line.split(maxsplit=1)
            yield key, value[0].strip() if value else ""


class _UnusableError(Exception):
    """A recording or its channel cannot be used; the text is the detail of a `Rejected`."""


def _file_and_channel(
    recording: str, folder: Path, paths: Mapping[str, str], sides: Mapping[str, str]
) -> tuple[Path, int | None]:
    """The file and the channel of a recording, by the lines of wav.scp and, if there are any, of reco2file_and_channel."""
    if recording not in paths:
        raise _UnusableError(f"expected recording {recording!r} in wav.scp, got no such line")
    audio = _kaldi_audio(paths[recording], folder)
    side = sides.get(recording, "").split()[-1:]
    return audio, _side(side[0], audio) if side else None


def _kaldi_audio(value: str, folder: Path) -> Path:
    """The path of a recording in wav.scp."""
    if value.endswith("|") or value.startswith("|"):
        raise _UnusableError(
            f"expected a path, got the command {value!r}: run it once, write files, and list those in wav.scp"
        )
    # Path.exists raises for names that are too long, and for folders that cannot be read
    path = find_recording(value, [Path()] if os.path.exists(value) else [folder, Path()])
    if not os.path.exists(path) and re.search(r"\.ark:\d+$", value):
        raise _UnusableError(
            f"expected an audio file, got an offset in an archive, {value!r}: extract the archive to files first"
        )
    return path


def _side(name: str, audio: Path) -> int | None:
    """The channel, from 0, that reco2file_and_channel names; None for a recording with one channel.

    Most Kaldi directories have a file for each side of a call, and the letter says which; others have one file for both.
    """
    try:
        if num_channels(audio) == 1:
            return None
    except (AudioError, ValueError):
        return None  # the conversion says what is wrong
    if name not in ("A", "B"):
        raise _UnusableError(f"expected A or B in reco2file_and_channel for a recording of several channels, got {name!r}")
    return "AB".index(name)


class _Segment(NamedTuple):
    """A line of `segments`."""

    id: str
    recording: str
    start_s: float = 0.0
    duration_s: float | None = None
    channel: int | None = None


def _kaldi_segments(path: Path) -> Iterator[_Segment | Rejected]:
    """Yield the lines of `segments`: utterance, recording, start, end, and perhaps the channel."""
    for entry in _kaldi_table(path):
        if isinstance(entry, Rejected):
            yield entry
            continue
        key, value = entry
        recording, *fields = value.split()
        try:
            start_s, end_s = float(fields[0]), float(fields[1])
            if not start_s >= 0 or not (end_s < 0 or start_s < end_s < math.inf) or len(fields) > 3:
                raise ValueError("no part of a recording")
            channel = _channel(fields[2]) if len(fields) == 3 else None
            yield _Segment(key, recording, start_s, None if end_s < 0 else end_s - start_s, channel)
        except (IndexError, ValueError):
            detail = f"expected 'utterance recording start end [channel]' with start < end in segments, got {key} {value!r}"
            yield Rejected(id=key, audio=path.name, reason=Reason.BAD_ENTRY, detail=detail)


def _channel(name: str) -> int:
    """The channel, from 0, that segments names by its number, or as A or B; ValueError if it is neither."""
    return "AB".index(name) if name in ("A", "B") else int(name)


def read_kaldi(
    folder: Path, lang: str, split: str | None = None, *, needs_texts: bool = True
) -> Iterator[Utterance | Rejected]:
    """Yield the entries of a Kaldi data directory.

    Its files are `wav.scp`, `text`, and optionally `segments`, `utt2spk` and `reco2file_and_channel`. Paths in wav.scp are
    relative to the working directory, as in Kaldi, or else to `folder`. Commands are rejected.

    Args:
        lang: language of all entries.
        split: split of all entries.
        needs_texts: whether there must be a file `text`.
    Raises:
        DataError: the file `text` is missing.
    """
    # Differs: lhotse.kaldi opens every recording while reading and stops if more than a few fail.
    if needs_texts and not (folder / "text").is_file():
        raise DataError(f"the Kaldi directory {folder} must contain wav.scp and text, but has no file 'text'")
    tables: dict[str, dict[str, str]] = {}
    for name in ("wav.scp", "text", "utt2spk", "reco2file_and_channel"):
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
    segments = _kaldi_segments(folder / "segments") if has_segments else (_Segment(id, id) for id in recordings)
    find = cache(partial(_file_and_channel, folder=folder, paths=recordings, sides=tables["reco2file_and_channel"]))
    seen = set()
    for segment in segments:
        seen.add(segment.id)
        if isinstance(segment, Rejected):
            yield segment
            continue
        try:
            audio, side = find(segment.recording)
        except _UnusableError as error:
            path = recordings.get(segment.recording, segment.recording)
            yield Rejected(id=segment.id, audio=path, reason=Reason.BAD_ENTRY, detail=str(error))
            continue
        yield Utterance(
            id=segment.id,
            audio=audio,
            text=texts.get(segment.id, ""),
            channel=side if segment.channel is None else segment.channel,
            start_s=segment.start_s,
            duration_s=segment.duration_s,
            speaker=speakers.get(segment.id),
            language=lang,
            split=split,
        )
    for key in texts.keys() - seen:
        detail = f"expected a line for {key!r} in {'segments' if has_segments else 'wav.scp'}, got none"
        yield Rejected(id=key, audio="text", reason=Reason.NO_AUDIO, detail=detail)
