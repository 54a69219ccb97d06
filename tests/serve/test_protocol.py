"""Law: recordings and live audio may be split into messages anywhere, and results are those of a writer that has written
nothing before; contract: a header allocates no memory before its data comes."""

import itertools
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.instructions import num_instructions
from zipasr.errors import ProtocolError
from zipasr.serve import protocol
from zipasr.serve.protocol import LiveReader, LiveWriter, RecordingReader, TooLong, write_recording
from zipasr.transcript import Token, Transcript, words_from_tokens

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
    plain = LiveWriter().write(Transcript(""), segment=0, start_s=0.0, is_final=True, is_eof=True)
    asked = LiveWriter(has_words=True).write(Transcript(""), segment=0, start_s=0.0, is_final=True, is_eof=True)
    assert "timed_" not in plain and asked == plain[:-1] + ', "timed_words": [], "timed_segments": []}'


@given(num_bytes=st.integers(0, 200), cuts=st.lists(st.integers(0, 200), max_size=10))
def test_live_audio_split_anywhere(num_bytes: int, cuts: list[int]) -> None:
    content = (np.arange(50, dtype="<f4").tobytes())[:num_bytes]
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    reader, found = LiveReader(), []
    for start, end in itertools.pairwise(places):
        samples = reader.read(content[start:end])
        assert (samples.dtype, samples.ndim) == (np.float32, 1)
        found += samples.tolist()
    assert found == list(range(num_bytes // 4))


def utterance(texts: list[str], first_s: float = 0.0, log_prob: float = -0.5) -> Transcript:
    """An utterance of tokens that are equal to those of other calls, but other objects, as a stream makes them."""
    tokens = tuple(
        Token("".join([text]), first_s + 0.04 * i, first_s + 0.04 * (i + 1), log_prob - i, id=i)
        for i, text in enumerate(texts)
    )
    text = "".join(texts).replace("\u2581", " ").strip()
    return Transcript(text, tokens, words_from_tokens(tokens), joiner=" ")


PIECES = st.lists(st.sampled_from(["\u2581a", "b", "\u2581\u65e5", '"', "\u2581"]), max_size=6)


@given(
    steps=st.lists(st.tuples(PIECES, st.sampled_from([-0.5, -0.25, -np.inf]), st.booleans()), max_size=8),
    has_words=st.booleans(),
)
def test_results_do_not_depend_on_those_before(steps: list[tuple[list[str], float, bool]], has_words: bool) -> None:
    """Utterances that grow, shrink, change in the middle, or are followed by another."""
    writer, segment, start_s = LiveWriter(has_words=has_words), 0, 0.0
    for texts, log_prob, is_final in steps:
        said = utterance(texts, start_s, log_prob)
        state = {"segment": segment, "start_s": start_s, "is_final": is_final, "is_eof": len(texts) == 6}
        assert writer.write(said, **state) == LiveWriter(has_words=has_words).write(said, **state)  # type: ignore[arg-type]
        segment, start_s = segment + is_final, start_s + 1.28 * is_final


def test_a_result_in_full() -> None:
    said = utterance(["\u2581a", "b", '\u2581"\u00e9'], first_s=2.0)
    written = LiveWriter(has_words=True).write(said, segment=3, start_s=1.9999, is_final=True, is_eof=False)
    expected = {
        "text": 'ab "\u00e9',
        "tokens": [" a", "b", ' "\u00e9'],
        "timestamps": [0.0, 0.04, 0.08],
        "ys_probs": [-0.5, -1.5, -2.5],
        "lm_probs": [],
        "context_scores": [],
        "segment": 3,
        "words": [],
        "start_time": 2.0,
        "is_final": True,
        "is_eof": False,
        "timed_words": [
            {"word": "ab", "start": 2.0, "end": 2.08, "confidence": 0.3679},
            {"word": '"\u00e9', "start": 2.08, "end": 2.12, "confidence": 0.0821},
        ],
        "timed_segments": [{"start": 2.0, "end": 2.12, "text": 'ab "\u00e9', "lines": ['ab "\u00e9']}],
    }
    assert written == json.dumps(expected, ensure_ascii=False)


def test_the_work_for_a_result_does_not_grow_with_the_utterance() -> None:
    """One token more costs the same after ten and after a thousand."""

    def work(num_tokens: int) -> int:
        before, after = utterance(["\u2581a"] * num_tokens), utterance(["\u2581a"] * (num_tokens + 1))
        writer, state = LiveWriter(has_words=True), {"segment": 0, "start_s": 0.0, "is_final": False, "is_eof": False}
        writer.write(before, **state)  # type: ignore[arg-type]
        return num_instructions(protocol, lambda: writer.write(after, **state))  # type: ignore[arg-type]

    assert work(10) == work(1000)


def test_a_recording_is_copied_only_once() -> None:
    """Its samples stay in the memory that the messages were copied to."""
    reader = RecordingReader(300.0, 10_000_000)
    content = write_recording(np.arange(1_000_000, dtype=np.float32))
    assert not list(reader.read(content[:1_000_000]))
    held = reader._held
    (recording,) = reader.read(content[1_000_000:])
    assert np.shares_memory(recording.samples, np.frombuffer(held, np.uint8))
    assert recording.samples.flags.writeable and recording.samples[-1] == 999_999
