"""Kaldi data directories: `read_kaldi` yields an `Utterance` for each entry, or a `Rejected` for one that cannot be used.
Times are in seconds.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from zipasr.errors import DataError
from zipasr.lines import read_lines
from zipasr.prepare.utterance import Reason, Rejected, Utterance, bad_line


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
