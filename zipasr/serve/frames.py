"""Frames of a WebSocket (RFC 6455, section 5.2) without a parser's state machine, for the messages that are nearly all of
the traffic: binary ones of a client in, up to 65,535 bytes in one frame, and texts out. No I/O.

A frame: a byte with FIN and the opcode, a byte with MASK and the length (126: in the 2 bytes that follow, 127: in 8), the 4
bytes of the mask of a client, and the content.
"""

import struct
from typing import NamedTuple

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build without C
    from websockets.utils import apply_mask

_WHOLE_BINARY, _WHOLE_TEXT = 0x82, 0x81
_FIN, _OPCODE, _MASK, _LENGTH = 0x80, 0x0F, 0x80, 0x7F
_IN_2_BYTES, _IN_8_BYTES = 126, 127
_FIRST_CONTROL = 8
_USUAL_START, _USUAL_CONTENT = bytes([_WHOLE_BINARY, _MASK | _IN_2_BYTES]), 8


class Piece(NamedTuple):
    """A part of what a client sent."""

    content: bytes
    is_message: bool
    """Whether it is a whole binary message, unmasked; else it is for a full parser, as it came."""


class FrameCutter:
    """Bytes of a client in, pieces out: short binary messages, and everything else for a full parser, in order."""

    def __init__(self) -> None:
        self.held = b""
        """The start of a frame of which more must come before it is known what it is, or before it is a message."""
        self._num_passing = 0  # bytes that are missing of a frame for the parser
        self._is_fragmented = False  # between frames of a message, a whole one is an error, which the parser reports

    def whole(self, data: bytes) -> bytes | None:
        """The content of a message if these bytes are one of 126 bytes or more and nothing else, as most often; the rest is
        for `cut`."""
        is_between = not (self.held or self._num_passing or self._is_fragmented)
        if is_between and data[:2] == _USUAL_START and len(data) == _USUAL_CONTENT + int.from_bytes(data[2:4], "big"):
            return apply_mask(data[_USUAL_CONTENT:], data[4:_USUAL_CONTENT])
        return None

    def cut(self, data: bytes) -> list[Piece]:
        """The pieces that are complete with these bytes."""
        if self.held:
            data, self.held = self.held + data, b""
        start = min(self._num_passing, len(data))
        self._num_passing -= start
        pieces = [Piece(data[:start], False)] if start else []
        while start < len(data):
            head = _read_head(data, start)
            if head is None or (head.is_short and head.end > len(data) and not self._is_fragmented):
                self.held = data[start:]
                break
            if head.is_short and not self._is_fragmented:
                content = apply_mask(data[head.content : head.end], data[head.content - 4 : head.content])
                pieces.append(Piece(content, True))
            else:
                pieces.append(Piece(data[start : head.end], False))
                self._num_passing = max(head.end - len(data), 0)
                if data[start] & _OPCODE < _FIRST_CONTROL:
                    self._is_fragmented = not data[start] & _FIN
            start = head.end
        return pieces


class _Head(NamedTuple):
    """Where the content of a frame starts and ends."""

    content: int
    end: int
    is_short: bool
    """Whether it is a whole binary message of a client with fewer than 65,536 bytes."""


def _read_head(data: bytes, start: int) -> _Head | None:
    """The head of the frame that starts at a byte; None: it is incomplete."""
    if len(data) < start + 2:
        return None
    length, is_masked = data[start + 1] & _LENGTH, data[start + 1] >= _MASK
    content = start + 2
    if length >= _IN_2_BYTES:
        content += 2 if length == _IN_2_BYTES else 8
        if len(data) < content:
            return None
        length = int.from_bytes(data[start + 2 : content], "big")
    is_short = data[start] == _WHOLE_BINARY and is_masked and length < 65_536
    content += 4 * is_masked
    return _Head(content, content + length, is_short)


def text_frame(content: bytes) -> bytes:
    """The frame of a server for a text in UTF-8."""
    num_bytes = len(content)
    if num_bytes < _IN_2_BYTES:
        return struct.pack("!BB", _WHOLE_TEXT, num_bytes) + content
    if num_bytes < 65_536:
        return struct.pack("!BBH", _WHOLE_TEXT, _IN_2_BYTES, num_bytes) + content
    return struct.pack("!BBQ", _WHOLE_TEXT, _IN_8_BYTES, num_bytes) + content
