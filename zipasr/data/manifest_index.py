"""Random access to the cuts of a lhotse manifest through an index file; selecting cuts does not open them.

`open_cuts` returns a sequence: `cuts[i]` reads one line of JSON and converts it to a lhotse cut; durations, text lengths and
identities are arrays in a memory-mapped file. Opening takes the same time for ten cuts and for ten million, and no process
keeps cuts in memory. The index is a folder in `.index` beside the manifest (in the user's cache if that is not writable); it
includes the uncompressed lines of a gzipped manifest. It is written when the manifest is first opened, and again when the
manifest has changed.
"""

import gzip
import hashlib
import json
import operator
import os
import shutil
import struct
import unicodedata
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.audio_paths import located, refuse_commands
from zipasr.data.index_folders import locked, possible_folders, writable_folder
from zipasr.errors import DataError
from zipasr.lfs import HEAD_BYTES, refuse_pointer
from zipasr.lines import bounded_lines, parse_json, refuse_device
from zipasr.progress import Progress
from zipasr.text import normalize

RECORD = np.dtype(
    [("start", "<i8"), ("identity", "<u8"), ("duration_s", "<f8"), ("num_bytes", "<i4"), ("num_characters", "<i4")]
)
"""The index record of a cut, 32 bytes."""
_PACKED = struct.Struct("<qQdii")
_VERSION = 2
_RECORDS_FILE, _LINES_FILE, _HEADER_FILE = "records.bin", "cuts.jsonl", "index.json"
_END_BYTES = 65_536
"""Bytes at the start and at the end of a manifest that, with its size and time, show whether it has changed."""


class _Entry(NamedTuple):
    """The indexed fields of one cut."""

    id: str
    duration_s: float
    sampling_rate_hz: int
    text: str


@dataclass(frozen=True)
class _Header:
    """The index fields of a whole manifest."""

    num_cuts: int
    """Number of cuts in the manifest, including unusable ones."""
    num_lines_bytes: int
    """Size of the file that the lines are read from."""
    characters: dict[str, int]
    """The first usable cut with each character of the normalized texts."""


class IndexedCuts(Sequence[Any]):
    """Lhotse cuts that are read on access. After pickling or forking, each process opens the files for itself."""

    def __init__(self, manifest: Path, folder: Path, header: _Header, rows: NDArray[Any] | None = None) -> None:
        """Open the index in `folder`; `rows` are those of the cuts in the sequence, in order (None: all)."""
        self.manifest, self.folder, self.rows = manifest, folder, rows
        self._header = header
        self.num_cuts = header.num_cuts
        """Number of cuts in the manifest, including those without exactly one text."""
        self.characters = header.characters
        """The index row of the first cut with each character of the texts."""
        copy = folder / _LINES_FILE
        self._lines_path = copy if copy.is_file() else manifest
        self._stamp = _stamp(self._lines_path)
        self._open: tuple[int, BinaryIO] | None = None
        path = folder / _RECORDS_FILE
        self._records = np.memmap(path, RECORD, mode="r") if path.stat().st_size else np.empty(0, RECORD)

    @property
    def num_usable(self) -> int:
        """Number of cuts in the index."""
        return len(self._records)

    @property
    def durations_s(self) -> NDArray[np.float64]:
        """Duration of each cut in seconds."""
        return self._column("duration_s")

    @property
    def num_characters(self) -> NDArray[np.int32]:
        """Upper bound on the tokens of each text: see `_most_characters`."""
        return self._column("num_characters")

    @property
    def identities(self) -> NDArray[np.uint64]:
        """Hash of id, duration and text of each cut: the first 8 bytes of a SHA-256."""
        return self._column("identity")

    def take(self, rows: NDArray[Any]) -> "IndexedCuts":
        """The subsequence of cuts at these positions; only the numbers are copied."""
        rows = np.asarray(rows)
        kept = rows if self.rows is None else self.rows[rows]
        return IndexedCuts(self.manifest, self.folder, self._header, kept.astype(np.int32))

    def texts(self) -> Iterator[str]:
        """Yield the normalized text of each cut; reads one line at a time."""
        for i in range(len(self)):
            yield normalize(_describe(json.loads(self._line(i)), self.manifest).text)

    def __len__(self) -> int:
        return len(self._records) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, position: int) -> Any: ...

    @overload
    def __getitem__(self, position: slice) -> "IndexedCuts": ...

    def __getitem__(self, position: int | slice) -> Any:
        """Read a cut, or select a slice.

        Raises:
            IndexError: the position is out of range.
            DataError: the manifest has changed since it was opened, lhotse cannot make a cut of the line, or its audio is a
                command or a URL.
        """
        from lhotse.serialization import deserialize_item

        if isinstance(position, slice):
            return self.take(np.arange(len(self), dtype=np.int32)[position])
        line = self._line(position)
        try:
            fields = json.loads(line)
            refuse_commands(fields, self.manifest)
            return located(deserialize_item(fields), self.manifest.parent)
        except DataError:
            raise
        except Exception as error:  # lhotse raises many types for an invalid cut
            raise DataError(f"{self.manifest} contains a cut that lhotse cannot read ({error!r}): {line[:200]!r}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None, "_records": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["manifest"], state["folder"], state["_header"], state["rows"])  # type: ignore[misc]
        if self._stamp != state["_stamp"]:
            raise _changed(self.manifest)

    def _column(self, name: str) -> NDArray[Any]:
        column = self._records[name]
        return np.ascontiguousarray(column if self.rows is None else column[self.rows])

    def _line(self, position: int) -> bytes:
        if not -len(self) <= position < len(self):
            raise IndexError(f"there must be a cut {position}, but there are {len(self)}")
        position %= len(self)
        record = self._records[position if self.rows is None else self.rows[position]]
        if self._open is None or self._open[0] != os.getpid():  # a file handle inherited by a fork shares its position
            if _stamp(self._lines_path) != self._stamp:
                raise _changed(self.manifest)
            self._open = (os.getpid(), self._lines_path.open("rb", buffering=0))
            weakref.finalize(self, self._open[1].close)
        file = self._open[1]
        file.seek(int(record["start"]))
        return file.read(int(record["num_bytes"]))


def require_lhotse(task: str) -> None:
    """Raise a `DataError` with the cure if Lhotse, which a task such as `training` needs, is not installed."""
    try:
        import lhotse  # noqa: F401
    except ImportError as error:
        raise DataError(f'{task} needs lhotse, but it is not installed; pip install "zipasr[train]"') from error


def open_cuts(manifest: Path) -> IndexedCuts:
    """Open the cuts of a manifest that have exactly one supervision with a text; write a missing or outdated index.

    Args:
        manifest: lhotse cuts, `.jsonl` or `.jsonl.gz`, with audio at 16 kHz.
    Raises:
        DataError: it cannot be read, is not a manifest of cuts, has a cut with another sampling rate, or the index cannot be
            written.
    """
    require_lhotse("training")
    name = f"{manifest.name}-{_fingerprint(manifest)}"
    for parent in possible_folders(manifest):
        opened = _open_index(manifest, parent / name)
        if opened is not None:
            return opened
    parent = writable_folder(manifest)
    try:
        with locked(parent):  # one of several processes writes the index, and the others find it
            opened = _open_index(manifest, parent / name)
            return opened if opened is not None else _build(manifest, parent / name)
    except OSError as error:
        raise DataError(
            f"the index of {manifest} must be written to {parent}, but: {error}; free some space, or train on a copy of "
            "the manifest elsewhere"
        ) from error


def _open_index(manifest: Path, folder: Path) -> IndexedCuts | None:
    """The index in `folder`; None if it is missing or damaged."""
    try:
        header = _Header(**parse_json((folder / _HEADER_FILE).read_text(encoding="utf-8")))
        copy = folder / _LINES_FILE
        if (copy if copy.is_file() else manifest).stat().st_size != header.num_lines_bytes:
            return None
        return IndexedCuts(manifest, folder, header)
    except (OSError, ValueError, TypeError):  # missing or damaged: it is written again
        return None


def _build(manifest: Path, folder: Path) -> IndexedCuts:
    """Read a manifest once and write its index, complete or not at all."""
    partial = folder.parent / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        header = _write(manifest, partial)
        if folder.name != f"{manifest.name}-{_fingerprint(manifest)}":
            raise _changed(manifest)
        (partial / _HEADER_FILE).write_text(json.dumps(header.__dict__), encoding="utf-8")
        for outdated in folder.parent.glob(f"{manifest.name}-*"):
            shutil.rmtree(outdated, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return IndexedCuts(manifest, folder, header)


def _write(manifest: Path, folder: Path) -> _Header:
    """Write the records of usable cuts, and all lines if the manifest is compressed."""
    characters: dict[str, int] = {}
    num_cuts = num_usable = end = 0
    is_compressed = manifest.suffix == ".gz"
    with (
        (folder / _RECORDS_FILE).open("wb") as records,
        open(folder / _LINES_FILE if is_compressed else os.devnull, "wb") as lines,
    ):
        for line in _lines(manifest):
            lines.write(line)
            start, end = end, end + len(line)
            if not line.strip():
                continue
            num_cuts += 1
            entry = _entry(line, num_cuts, manifest)
            text = normalize(entry.text)
            if not text.strip():
                continue
            record = (start, _identity(entry), entry.duration_s, len(line), _most_characters(text))
            records.write(_PACKED.pack(*record))
            characters.update(dict.fromkeys(set(text).difference(characters), num_usable))
            num_usable += 1
        for file in (records, lines):
            file.flush()
            if file.name != os.devnull:
                os.fsync(file.fileno())
    return _Header(num_cuts, end, characters)


def _lines(manifest: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest, with progress on stderr if it takes long."""
    try:
        with (
            manifest.open("rb") as file,
            Progress(f"index {manifest.name}", unit="bytes", total=manifest.stat().st_size, delay_s=2.0) as progress,
            gzip.GzipFile(fileobj=file) if manifest.suffix == ".gz" else file as content,
        ):
            for number, line in enumerate(bounded_lines(content)):
                if number % 1000 == 0:
                    progress.set_done(file.tell())
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise _not_cuts(manifest, error) from error


def _entry(line: bytes, number: int, manifest: Path) -> _Entry:
    """The indexed fields of the cut in a line; raises a `DataError` if the line is none or its audio has another rate."""
    try:
        entry = _describe(json.loads(line), manifest)
    except DataError:
        raise
    except Exception as error:  # lhotse raises many types for an invalid cut
        raise _not_cuts(manifest, f"line {number}: {error!r}") from error
    if not isinstance(entry.text, str):
        raise _not_cuts(manifest, f"line {number}: its text must be a string, but is {entry.text!r}")
    if entry.text.strip() and entry.sampling_rate_hz != SAMPLE_RATE_HZ:
        raise DataError(
            f"cuts must have audio at {SAMPLE_RATE_HZ} Hz, but {entry.id} in {manifest} is at "
            f"{entry.sampling_rate_hz} Hz; convert them with: zipasr prepare {manifest} --out DIR"
        )
    return entry


def _describe(data: Any, manifest: Path) -> _Entry:
    """The indexed fields of a cut; the text is empty unless it has exactly one."""
    if not isinstance(data, dict):
        raise _not_cuts(manifest, f"it contains {str(data)[:80]!r}")
    if data.get("type") == "MonoCut" and "recording" in data and "features" not in data:  # the usual case, 10 times as fast
        supervisions = data.get("supervisions", ())
        text = supervisions[0].get("text") if len(supervisions) == 1 else None
        return _Entry(data["id"], data["duration"], data["recording"]["sampling_rate"], text or "")
    from lhotse.serialization import deserialize_item

    cut = deserialize_item(data)
    if not hasattr(cut, "supervisions"):
        raise _not_cuts(manifest, f"it contains a {type(cut).__name__}")
    text = cut.supervisions[0].text if len(cut.supervisions) == 1 else None
    return _Entry(cut.id, cut.duration, cut.sampling_rate, text or "")


def _not_cuts(manifest: Path, reason: object) -> DataError:
    return DataError(f"{manifest} must be a lhotse manifest of cuts, but cannot be read: {reason}")


def _changed(manifest: Path) -> DataError:
    return DataError(f"{manifest} must not change while it is being read, but has changed; run again when it is complete")


def _identity(entry: _Entry) -> int:
    digest = hashlib.sha256(f"{entry.id} {entry.duration_s} {entry.text}\n".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "little")


def _most_characters(text: str) -> int:
    """Number of characters in a text, repeated ones counted twice, in the Unicode normal form with the most.

    An upper bound on the tokens of any tokenizer without the initial ▁, even with a blank between repeated tokens (CTC): a
    token of more than one character accounts for at least two. Some sentencepiece models normalize first, and some have
    letters and accents apart, hence the normal forms.
    """
    forms = [text.lower()] if text.isascii() else [text, *(unicodedata.normalize(form, text) for form in ("NFD", "NFKC"))]
    if not text.isascii():
        forms.append(forms[2].casefold())
    return max(len(form) + sum(map(operator.eq, form, form[1:])) for form in forms)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} must exist while it is being read, but: {error}") from error
    return status.st_size, status.st_mtime_ns


def _fingerprint(manifest: Path) -> str:
    """A hash that changes when the manifest does, at a cost independent of its size."""
    try:
        with manifest.open("rb") as file:
            refuse_device(file)
            refuse_pointer(file.peek(HEAD_BYTES), manifest, DataError)  # whoever opens cuts comes here first
            size, time_ns = _stamp(manifest)
            digest = hashlib.sha256(f"{_VERSION} {size} {time_ns}".encode())
            digest.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    except OSError as error:
        raise _not_cuts(manifest, error) from error
    return digest.hexdigest()[:16]
