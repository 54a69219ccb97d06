"""Sources of speech: `open_source` detects the kind of a source and yields its `Utterance` and `Rejected` entries.

Sources are a folder of recordings with texts, manifests of several kinds, a Kaldi data directory, Lhotse cuts, or the word
`prompts`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from zipasr.audio import AUDIO_SUFFIXES
from zipasr.errors import DataError
from zipasr.prepare.folders import EXPECTED, read_folder
from zipasr.prepare.kaldi import read_kaldi
from zipasr.prepare.lhotse_cuts import read_cuts
from zipasr.prepare.manifests import Manifest, read_manifest, recognize, split_in, split_of_folder
from zipasr.prepare.prompts import read_prompts
from zipasr.prepare.recording_files import expanded
from zipasr.prepare.utterance import Rejected, Utterance

Entry = Utterance | Rejected
_ROWS_NAME = re.compile(r".*\.(?:jsonl|json|ndjson|tsv|csv|list)(?:\.gz)?", re.IGNORECASE)
"""Names of files in a folder that may be manifests. A file that is named alone may have any name."""


class OpenSource(NamedTuple):
    """A source of a known kind, and its entries."""

    kind: str
    """folder, manifest, kaldi, cuts or prompts."""
    entries: Iterator[Entry]
    """Read lazily."""
    name: str
    """What was recognized, in words."""


def _distinct(parts: Sequence[tuple[str, Iterable[Entry]]]) -> Iterator[Entry]:
    """The entries of the parts of a source. If their ids restart in each part, the name of the part goes before them.

    An id that comes again with the same part of the same recording is not a restart: it stays, and is a duplicate.

    Args:
        parts: name and entries of each file or folder.
    """
    if len(parts) == 1:
        yield from parts[0][1]
        return
    listed = [(name, list(entries)) for name, entries in parts]
    meanings: dict[str, dict[str, set[object]]] = defaultdict(lambda: defaultdict(set))
    for name, entries in listed:
        for entry in entries:
            if isinstance(entry, Utterance):
                meanings[entry.id][name].add(entry.part)
    has_restarts = any(_is_restart(by_name) for by_name in meanings.values())
    for name, entries in listed:
        for entry in entries:
            if has_restarts and isinstance(entry, Utterance):
                others = (parts for other, parts in meanings[entry.id].items() if other != name)
                is_repeated = any(entry.part in parts for parts in others)
                yield entry if is_repeated else replace(entry, id=f"{name}/{entry.id}")
            else:
                yield entry


def _is_restart(meanings: Mapping[str, set[object]]) -> bool:
    """Whether an id means different recordings in different parts of a source."""
    return len(meanings) > 1 and len(set.union(*meanings.values())) > 1


def _open_folder(folder: Path, lang: str, skip: Path | None, *, needs_texts: bool) -> OpenSource:
    """Open a folder source of any kind."""
    if (folder / "wav.scp").is_file():
        return OpenSource("kaldi", read_kaldi(folder, lang, needs_texts=needs_texts), "Kaldi directory")
    by_part = _parts_of(folder, skip)
    parts = [part for part in by_part if (part / "wav.scp").is_file()]
    if parts:
        kaldi = [(part.name, read_kaldi(part, lang, split_in(part.name), needs_texts=needs_texts)) for part in parts]
        return OpenSource("kaldi", _distinct(kaldi), f"Kaldi directories {', '.join(part.name for part in parts)}")
    found = _manifests_in(folder) or [manifest for part in by_part for manifest in _manifests_in(part)]
    if found:
        return _open_manifests(folder, found, lang, needs_texts=needs_texts)
    name = "recordings with texts beside them" if needs_texts else "recordings"
    return OpenSource("folder", read_folder(folder, lang, skip, needs_texts=needs_texts), name)


def _parts_of(folder: Path, skip: Path | None) -> list[Path]:
    """The folders in a folder that have the name of a split in theirs, without the output folder."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return [path for path in folders if split_in(path.name) and (skip is None or path.resolve() != skip.resolve())]


def _manifests_in(folder: Path) -> list[Manifest]:
    """The manifests in a folder, or else its files of cuts."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    # A file named like a recording, such as a.json beside a.wav, is about that recording alone.
    recordings = {path.stem for path in files if path.suffix.lower() in AUDIO_SUFFIXES}
    paths = [path for path in files if _ROWS_NAME.fullmatch(path.name) and path.stem not in recordings]
    found = [manifest for path in paths if (manifest := recognize(path)) is not None]
    manifests = [manifest for manifest in found if manifest.kind == "manifest"]
    return manifests or found


def _open_manifests(folder: Path, found: Sequence[Manifest], lang: str, *, needs_texts: bool) -> OpenSource:
    """Open the manifests or cuts of a folder: one, or those whose names contain their splits."""
    paths = [manifest.rows.path.relative_to(folder) for manifest in found]
    splits = [split_in(path.name) or split_of_folder(path) for path in paths]
    if len(found) > 1 and not any(splits):
        raise DataError(
            f"{folder} must contain one manifest, or names with train, dev and test, but has {', '.join(map(str, paths))}; "
            "name one of these files"
        )
    chosen = [row for row in zip(found, paths, splits, strict=True) if len(found) == 1 or row[2]]
    parts = [
        (path.parts[0].split(".")[0], _entries(manifest, lang, split, needs_texts=needs_texts))
        for manifest, path, split in chosen
    ]
    names = ", ".join(dict.fromkeys(manifest.name for manifest, _, _ in chosen))
    return OpenSource(chosen[0][0].kind, _distinct(parts), f"{names}: {', '.join(str(path) for _, path, _ in chosen)}")


def _entries(manifest: Manifest, lang: str, split: str | None = None, *, needs_texts: bool) -> Iterator[Entry]:
    """The entries of a manifest or of Lhotse cuts."""
    if manifest.kind == "cuts":
        return read_cuts(manifest.rows.path, lang, split, needs_texts=needs_texts)
    return read_manifest(manifest, lang, split)


def open_source(source: str | Path, lang: str = "en", *, skip: Path | None = None, needs_texts: bool = True) -> OpenSource:
    """Detect the kind of a source and open it.

    Args:
        source: a path, or the word `prompts` (write `./prompts` for a folder of that name).
        lang: language of entries that name none.
        skip: the output folder, which a folder source may hold; see `read_folder`.
        needs_texts: whether recordings must have texts. In a folder, manifests are recognized by their texts all the same.
    Raises:
        DataError: the kind is unknown, or a file cannot be read; also while the entries are read.
    """
    if source == "prompts":
        return OpenSource("prompts", read_prompts(lang), "telephone prompts")
    path = expanded(source)
    if path.is_dir():
        return _open_folder(path, lang, skip, needs_texts=needs_texts)
    if not path.exists():
        raise DataError(f"{EXPECTED}, but {path} does not exist")
    if not path.is_file():
        raise DataError(
            f"the source must be a file that can be read twice, but {path} is a pipe or a device; save it as a file"
        )
    manifest = recognize(path, needs_texts=needs_texts)
    if manifest is None:
        raise DataError(
            f"the first line of {path} must be a Lhotse cut or have 'audio' and 'text', but is neither; {EXPECTED}"
        )
    return OpenSource(manifest.kind, _entries(manifest, lang, needs_texts=needs_texts), manifest.name)
