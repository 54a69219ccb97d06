"""The size that the headers of W64, CAF, AVI and VOC files state, in bytes. FFmpeg bounds it by that of the file, and
so reads a truncated one without an error.
"""

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

_W64_START = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_LENGTH_UNKNOWN = 1 << 62
_VOC_START = b"Creative Voice File\x1a"
# Programs that write into a pipe leave 0, 0xFFFFFFFF, or nearly 0x7FFFFFFF.
_RIFF_LENGTH_UNKNOWN = 0x7FFFF000
_MAX_CHUNKS = 10_000
"""Chunks that are looked at: a large file of empty chunks shall not take minutes."""


def stated_bytes(file: BinaryIO) -> int | None:
    """Bytes that a file has to have, at least; None for a format that does not say, or is not known here."""
    file.seek(0)
    head = file.read(24)
    if len(head) < 24:
        return None
    if head.startswith(_W64_START):
        length = int.from_bytes(head[16:], "little")
        return length if length < _W64_LENGTH_UNKNOWN else None
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _end_of_chunks(file, 0, 8, _riff_chunk_bytes)
    if head.startswith(b"caff"):
        return _end_of_chunks(file, 8, 12, _caf_chunk_bytes)
    if head.startswith(_VOC_START):
        return _end_of_chunks(file, int.from_bytes(head[20:22], "little"), 4, _voc_block_bytes)
    return None


def _end_of_chunks(file: BinaryIO, start: int, head_bytes: int, chunk_bytes: Callable[[bytes], tuple[int, bool]]) -> int:
    """The position after the last chunk that is looked at: it may lie behind the end of the file.

    Args:
        start: position of the first chunk.
        head_bytes: size of what precedes the contents of a chunk.
        chunk_bytes: from that, the size of the chunk, and whether others follow that count.
    """
    size, position = file.seek(0, os.SEEK_END), start
    for _ in range(_MAX_CHUNKS):
        if position + head_bytes > size:
            break
        file.seek(position)
        length, goes_on = chunk_bytes(file.read(head_bytes))
        position += length
        if not goes_on:
            break
    return position


def _riff_chunk_bytes(head: bytes) -> tuple[int, bool]:
    """AVI: large files have several chunks RIFF; what follows them is none of the file."""
    name, length = struct.unpack("<4sI", head)
    is_known = name == b"RIFF" and 0 < length < _RIFF_LENGTH_UNKNOWN
    return (8 + length + length % 2, True) if is_known else (0, False)


def _caf_chunk_bytes(head: bytes) -> tuple[int, bool]:
    """CAF: up to the samples, whose length may be -1, unknown."""
    name, length = struct.unpack(">4sq", head)
    return (12 + length, name != b"data") if length >= 0 else (0, False)


def _voc_block_bytes(head: bytes) -> tuple[int, bool]:
    """VOC: blocks of the types 1 to 9; 0 is the end."""
    return (4 + int.from_bytes(head[1:], "little"), True) if 1 <= head[0] <= 9 else (0, False)
