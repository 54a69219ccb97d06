"""Law: recordings may be split into messages anywhere; contract: a header allocates no memory before its data comes."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zipasr.errors import ProtocolError
from zipasr.serve.protocol import RecordingReader, TooLong, to_live_json, write_recording
from zipasr.transcript import Transcript

HEADER_BYTES = 8


@given(
    lens=st.lists(st.integers(0, 30), max_size=5),
    cuts=st.lists(st.integers(0, 700), max_size=10),
)
def test_recordings_split_anywhere(lens: list[int], cuts: list[int]) -> None:
    recordings = [np.arange(length, dtype=np.float32) for length in lens]
    content = b"".join(write_recording(samples, 8000 + i) for i, samples in enumerate(recordings))
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    reader, found = RecordingReader(1.0, 1000), []
    for start, end in itertools.pairwise(places):
        found += list(reader.read(content[start:end]))
    assert [(one.rate_hz, one.samples.tolist()) for one in found] == [
        (8000 + i, samples.tolist()) for i, samples in enumerate(recordings)
    ]
    assert reader.is_between and reader.num_held_bytes == 0


def test_a_million_recordings_in_a_message_are_made_one_by_one() -> None:
    reader = RecordingReader(1.0, 1000)
    recordings = reader.read(write_recording(np.zeros(0, np.float32)) * 1_000_000)
    assert next(iter(recordings)).samples.size == 0
    assert reader.num_held_bytes == 999_999 * HEADER_BYTES


def test_a_recording_that_is_short_and_large() -> None:
    reader = RecordingReader(300.0, 500_000_000)
    with pytest.raises(TooLong, match="lower its rate"):
        list(reader.read(struct.pack("<ii", 768_000, 4 * 768_000 * 200)))
    assert issubclass(TooLong, ProtocolError)


def test_words_are_sent_only_on_request() -> None:
    plain = to_live_json(Transcript(""), segment=0, start_s=0.0, is_final=True, is_eof=True)
    asked = to_live_json(Transcript(""), segment=0, start_s=0.0, is_final=True, is_eof=True, has_words=True)
    assert "timed_" not in plain and asked == plain[:-1] + ', "timed_words": [], "timed_segments": []}'
