"""Weights that an ONNX graph keeps in files of their own: where they are, checked before anything opens them.

Only the headers of the graph's messages are read, not its weights, however large it is.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from zipasr.errors import CheckpointError
from zipasr.lfs import HEAD_BYTES, refuse_pointer

_MAX_DEPTH = 60
"""Nested messages; graphs of models have about ten."""
# The messages of onnx.proto that lead to tensors: number of a field -> message that it holds.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_Span = tuple[int, int]


def check_external_data(graph: Path, root: Path) -> None:
    """Check that the files with weights that a graph names are there, complete, and inside the folder of its model.

    Args:
        graph: the file of the graph.
        root: the folder; in a snapshot of the hub's cache, the blobs beside it belong to it.
    Raises:
        CheckpointError: the graph is damaged or a Git LFS pointer, or a file is missing, too short, or elsewhere.
    """
    for location, num_bytes in external_files(graph).items():
        path = _inside(graph, location, root)
        if not path.is_file():
            raise CheckpointError(
                f"{graph} keeps weights in {location}, but there is no such file beside it; download it too"
            )
        with path.open("rb") as file:
            refuse_pointer(file.read(HEAD_BYTES), path, CheckpointError)
        if path.stat().st_size < num_bytes:
            raise CheckpointError(
                f"{path} must have {num_bytes} bytes or more, as {graph.name} says, but has {path.stat().st_size}; "
                "download it again"
            )


def external_files(graph: Path) -> dict[str, int]:
    """The files with weights that a graph names, as written there, with the bytes that each must have at least.

    Raises:
        CheckpointError: the graph cannot be read, is damaged, or is a Git LFS pointer.
    """
    needed: dict[str, int] = {}
    try:
        with graph.open("rb") as file:
            refuse_pointer(file.read(HEAD_BYTES), graph, CheckpointError)
            if file.seek(0, 2) == 0:
                raise CheckpointError(f"{graph} must be an ONNX graph, but is empty; download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for entries in _external_tensors(content, (0, len(content)), "model", 0):
                    location = entries.get("location", "")
                    end = _number(entries, "offset", graph) + _number(entries, "length", graph)
                    needed[location] = max(end, needed.get(location, 0))
    except (OSError, _Damaged) as error:
        raise CheckpointError(f"{graph} must be a complete ONNX graph, but cannot be read: {error}") from error
    return needed


class _Damaged(Exception):
    """Bytes that are no message."""


def _number(entries: dict[str, str], key: str, graph: Path) -> int:
    text = entries.get(key, "0")
    if not text.isdecimal() or len(text) > 18:
        raise CheckpointError(f"{graph} is damaged: the {key} of weights in another file is {text!r}; download it again")
    return int(text)


def _external_tensors(content: mmap.mmap, span: _Span, kind: str, depth: int) -> Iterator[dict[str, str]]:
    """Where each tensor with external data is: location, offset, length."""
    if depth > _MAX_DEPTH:
        raise _Damaged("its messages are nested too deeply")
    entries = {}
    for number, inner in _fields(content, span):
        inside = _MESSAGES[kind].get(number)
        if inside == "entry":
            texts = {n: content[start:end].decode(errors="replace") for n, (start, end) in _fields(content, inner)}
            entries[texts.get(1, "")] = texts.get(2, "")
        elif inside is not None:
            yield from _external_tensors(content, inner, inside, depth + 1)
    if entries:
        yield entries


def _fields(content: Any, span: _Span) -> Iterator[tuple[int, _Span]]:
    """The number and the span of every field of a message that has a length."""
    at, end = span
    while at < end:
        tag, at = _varint(content, at, end)
        size, kind = 0, tag & 7
        if kind == 0:
            _, at = _varint(content, at, end)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        elif kind == 2:
            size, at = _varint(content, at, end)
        else:
            raise _Damaged("it is no message of ONNX")
        if at + size > end:
            raise _Damaged("it ends too early")
        if kind == 2:
            yield tag >> 3, (at, at + size)
        at += size


def _varint(content: Any, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _Damaged("it ends too early" if at >= end else "it is no message of ONNX")


def _inside(graph: Path, location: str, root: Path) -> Path:
    """The file that a location means.

    Raises:
        CheckpointError: it is not inside the folder.
    """
    windows, posix = PureWindowsPath(location), PurePosixPath(location)
    names = windows.parts
    is_relative = bool(names) and not (posix.is_absolute() or windows.drive or windows.root) and ".." not in names
    path = graph.parent / posix
    allowed = [root.resolve(), *_blobs(root)]
    if not is_relative or not any(path.resolve().is_relative_to(folder) for folder in allowed):
        raise CheckpointError(
            f"weights must lie inside {root}, but {graph.name} names {location!r}; do not use this file, or, if you trust "
            "it, copy the weights beside it"
        )
    return path


def _blobs(root: Path) -> list[Path]:
    """The folder of contents if `root` is a snapshot of the hub's cache, or inside one."""
    parts = root.absolute().parts
    for i in range(len(parts) - 1):
        if parts[i].startswith("models--") and parts[i + 1] == "snapshots":
            return [(Path(*parts[: i + 1]) / "blobs").resolve()]
    return []
