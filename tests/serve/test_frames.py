"""Law: what the cutter takes out and what the parser of `websockets` makes of the rest is what it makes of everything;
reference: frames of texts are those of `websockets`."""

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode, apply_mask
from websockets.protocol import State
from websockets.server import ServerProtocol

from zipasr.serve.frames import FrameCutter, text_frame

MASK = bytes([7, 0, 255, 90])
HEAD = (
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
).encode()


def parser() -> ServerProtocol:
    """A parser after the handshake."""
    found = ServerProtocol(max_size=100_000, logger=logging.getLogger("tests.frames"))
    found.receive_data(HEAD)
    (request,) = found.events_received()
    found.send_response(found.accept(request))  # type: ignore[arg-type]
    return found


def frames_of(parsing: ServerProtocol, data: bytes) -> list[tuple[int, bool, bytes]]:
    parsing.receive_data(data)
    return [(int(one.opcode), one.fin, bytes(one.data)) for one in parsing.events_received() if isinstance(one, Frame)]


def client_frame(first: int, num_bytes: int, mask: bytes) -> bytes:
    """A frame of a client with random first byte; unmasked if `mask` is empty."""
    content = bytes(i % 251 for i in range(num_bytes))
    if num_bytes < 126:
        length, extended = num_bytes, b""
    elif num_bytes < 65_536:
        length, extended = 126, num_bytes.to_bytes(2, "big")
    else:
        length, extended = 127, num_bytes.to_bytes(8, "big")
    return bytes([first, length | 0x80 * bool(mask)]) + extended + mask + (apply_mask(content, mask) if mask else content)


BINARY, TEXT, PART_OF_BINARY, CONTINUED, LAST, PING, CLOSE = 0x82, 0x81, 0x02, 0x00, 0x80, 0x89, 0x88
KINDS = st.sampled_from([BINARY] * 6 + [TEXT, PART_OF_BINARY, CONTINUED, LAST, PING, CLOSE, 0x8A, 0xC2, 0x83])
SIZES = st.sampled_from([0, 1, 5, 100, 125, 126, 127, 5120, 65_535, 65_536, 100_000, 100_001])
FRAMES = st.lists(st.tuples(KINDS, SIZES, st.sampled_from([MASK] * 9 + [b""])), max_size=12)


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 400_000), max_size=20), every=st.sampled_from([0, 0, 0, 999, 5128]))
def test_the_cutter_changes_nothing(frames: list[tuple[int, int, bytes]], cuts: list[int], every: int) -> None:
    data = b"".join(client_frame(*one) for one in frames)
    edges = sorted({0, len(data), *(range(0, len(data), every) if every else cuts)})
    blocks = [data[start:end] for start, end in itertools.pairwise(edges)]
    alone, beside, cutter = parser(), parser(), FrameCutter()
    expected = [one for block in blocks for one in frames_of(alone, block)]
    found = []
    for block in blocks:
        whole = cutter.whole(block) if beside.state is State.OPEN else None
        if whole is not None:
            found.append((int(Opcode.BINARY), True, whole))
            continue
        for content, is_message in cutter.cut(block):
            if not is_message:
                found += frames_of(beside, content)
            elif beside.state is State.OPEN:
                found.append((int(Opcode.BINARY), True, content))
    assert found == expected
    assert (beside.state, beside.close_sent) == (alone.state, alone.close_sent)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 5127, 5128])
def test_short_messages_skip_the_parser(size: int) -> None:
    """In whatever blocks they come."""
    data, cutter, found = client_frame(BINARY, 5120, MASK) * 4, FrameCutter(), []
    for start in range(0, len(data), size):
        found += cutter.cut(data[start : start + size])
    assert [(len(content), is_message) for content, is_message in found] == [(5120, True)] * 4
    assert cutter.held == b""
    assert cutter.whole(data[: len(data) // 4]) == found[0].content
    assert cutter.whole(data) is None


@pytest.mark.parametrize("num_bytes", [0, 1, 125, 126, 65_535, 65_536])
def test_texts(num_bytes: int) -> None:
    content = b"x" * num_bytes
    assert text_frame(content) == Frame(Opcode.TEXT, content).serialize(mask=False)
