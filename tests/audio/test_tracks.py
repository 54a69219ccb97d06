"""Contract: files with several audio tracks give the default track or the requested one; a missing track is an error."""

import numpy as np
import pytest

from tests.audio.muxing import mux
from tests.audio.tones import ENCODED, encode_by_av, tone
from zipasr.audio import load_audio, num_channels, read_blocks
from zipasr.errors import AudioError

TRACKS = [np.rint(np.random.default_rng(seed).standard_normal(16_000) * 3000) / 32767 for seed in range(3)]


def expected(number: int) -> np.ndarray:
    return (TRACKS[number] * 32767 / 32768).astype(np.float32)


@pytest.mark.parametrize("container", ["matroska", "mov"])
def test_every_track(container: str) -> None:
    data = mux(container, "pcm_s16le", 16000, *TRACKS)
    for number in range(3):
        np.testing.assert_array_equal(load_audio(data, audio_track=number), expected(number))
        blocks = read_blocks(data, audio_track=number, block_s=0.1)
        np.testing.assert_array_equal(np.concatenate(list(blocks)), expected(number))
    np.testing.assert_array_equal(load_audio(data), expected(0))


def test_the_default_track_is_the_one_that_the_file_marks() -> None:
    data = mux("matroska", "pcm_s16le", 16000, *TRACKS, default_track=1, video_s=1.0)
    np.testing.assert_array_equal(load_audio(data), expected(1))
    np.testing.assert_array_equal(load_audio(data, audio_track=0), expected(0))


def test_tracks_of_different_channels() -> None:
    data = mux("matroska", "flac", 16000, tone(16000), np.stack([tone(16000), tone(16000)], axis=1))
    assert [num_channels(data, audio_track=number) for number in range(2)] == [1, 2]


def test_a_track_that_is_not_there() -> None:
    data = mux("matroska", "flac", 16000, tone(16000), np.stack([tone(16000), tone(16000)], axis=1), default_track=1)
    message = r"the bytes must have an audio track 2, but has only these: 0 \(flac, mono\), 1 \(flac, 2 channels, default\);"
    for function in (load_audio, num_channels):
        with pytest.raises(AudioError, match=message):
            function(data, audio_track=2)
    for kind in ("wav", "flac", "mp3", "m4a"):
        np.testing.assert_array_equal(load_audio(ENCODED[kind](), audio_track=0), load_audio(ENCODED[kind]()))
        with pytest.raises(AudioError, match=r"the bytes must have an audio track 1, but has only these: 0 \("):
            load_audio(ENCODED[kind](), audio_track=1)
    with pytest.raises(AudioError, match="audio track 1"):
        load_audio(encode_by_av("g722", "g722", 16000), format="g722", audio_track=1)


def test_invalid_track_numbers() -> None:
    with pytest.raises(ValueError, match="audio_track must be 0 or more, but is -1"):
        load_audio(b"1234", audio_track=-1)
    with pytest.raises(ValueError, match="audio_track must be None for an array, but is 0"):
        load_audio(tone(16000), audio_track=0)
