"""Paths of recordings in manifests of cuts: relative to the folder of the manifest for audio in it, else absolute.

Manifests that lhotse or others wrote may have paths that are relative to the working directory; they are found, too. What
lhotse would run as a command or fetch from a URL is refused.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zipasr.errors import DataError


def path_in(folder: Path, audio: Path) -> str:
    """The path of a recording as it is written to a manifest in `folder`."""
    folder, audio = Path(os.path.abspath(folder)), Path(os.path.abspath(audio))
    return audio.relative_to(folder).as_posix() if audio.is_relative_to(folder) else str(audio)


def read_located(manifest: Path) -> Iterator[Any]:
    """Yield the cuts of a manifest, with paths from which their recordings can be opened; raises what lhotse raises.

    Raises:
        DataError: the audio of a cut is a command or a URL.
    """
    from lhotse import CutSet

    for cut in CutSet.from_file(manifest) or ():
        refuse_commands(cut.to_dict(), manifest)
        yield located(cut, manifest.parent)


def refuse_commands(fields: Any, manifest: Path) -> None:
    """Refuse audio that is not in a file, wherever the fields of a cut name it: tracks and transforms have recordings too.

    Lhotse runs a source of the type "command" in a shell and opens one of the type "url". A manifest may be a stranger's.
    `fields` are the cut as parsed from JSON.

    Raises:
        DataError: a source has another type than "file" or "memory".
    """
    values = fields.values() if isinstance(fields, dict) else fields if isinstance(fields, list) else ()
    if isinstance(fields, dict) and {"type", "source", "channels"} <= fields.keys():
        if fields["type"] not in ("file", "memory"):
            raise DataError(
                f"audio in {manifest} must be in files, but has a source of the type {fields['type']!r}: "
                f"{str(fields['source'])[:200]!r}; save the audio as files first, then prepare them"
            )
    for value in values:
        refuse_commands(value, manifest)


def located(cut: Any, folder: Path) -> Any:
    """A lhotse cut of a manifest in `folder`, with paths from which its recordings can be opened.

    A relative path is below the folder; if nothing is there, but in the working directory, it is relative to that.
    """
    from lhotse.utils import fastcopy

    if hasattr(cut, "tracks"):
        return fastcopy(cut, tracks=[fastcopy(track, cut=located(track.cut, folder)) for track in cut.tracks])
    recording = getattr(cut, "recording", None)
    if recording is None or not any(_is_relative(source) for source in recording.sources):
        return cut
    sources = [
        fastcopy(source, source=_found(source.source, folder)) if _is_relative(source) else source
        for source in recording.sources
    ]
    return fastcopy(cut, recording=fastcopy(recording, sources=sources))


def missing_recording(cut: Any) -> str | None:
    """The first file of the recordings of a cut that does not exist; None if all do."""
    cuts = [track.cut for track in cut.tracks] if hasattr(cut, "tracks") else [cut]
    recordings = filter(None, (getattr(cut, "recording", None) for cut in cuts))
    files = (source.source for recording in recordings for source in recording.sources if source.type == "file")
    return next((file for file in files if not os.path.isfile(file)), None)


def _is_relative(source: Any) -> bool:
    return source.type == "file" and not os.path.isabs(source.source)


def _found(path: str, folder: Path) -> str:
    below = os.path.join(folder, path)
    return path if not os.path.exists(below) and os.path.exists(path) else below
