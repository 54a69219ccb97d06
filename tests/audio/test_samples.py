"""Checks of samples. Contract: floats in the range of 16-bit integers are refused with the cure, loud masters are accepted,
and channels in antiphase do not cancel each other."""

import io
import logging

import numpy as np
import pytest
import soundfile

from tests.audio.muxing import mux
from tests.audio.tones import encode_by_soundfile, tone
from zipasr.audio import load_audio, read_blocks
from zipasr.errors import AudioError

NOISE = (np.random.default_rng(0).standard_normal(200_000) * 0.1).astype(np.float32)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF"])
def test_floats_in_the_range_of_int16_are_refused_in_files(container: str) -> None:
    samples = np.concatenate([np.zeros(16000), np.rint(NOISE * 32768)])
    data = encode_by_soundfile(samples, 16000, container, "FLOAT")
    expected = (
        r"samples of the bytes must be -1 to 1, but one is -?\d+ at 1\.00 s; if it is int16 as floats, divide by 32768$"
    )
    with pytest.raises(AudioError, match=expected):
        load_audio(data)
    with pytest.raises(AudioError, match=expected):
        list(read_blocks(data, block_s=0.1))


def test_floats_in_the_range_of_int16_are_refused_in_arrays() -> None:
    with pytest.raises(AudioError, match=r"of the array must be .*, but one is 3000 at 0\.50 s; if it is int16"):
        load_audio(np.concatenate([np.zeros(4000), np.full(100, 3000.0)]), sample_rate_hz=8000)
    with pytest.raises(AudioError, match="int16"):
        load_audio(np.stack([NOISE, -NOISE]) * 32768)  # a mono mix of zeros


def test_the_largest_level_is_accepted() -> None:
    for level in (1.0, 3.0, 10.0):
        np.testing.assert_array_equal(load_audio(np.full(100, -level)), np.full(100, -level, np.float32))
    with pytest.raises(AudioError, match="divide by 32768"):
        load_audio(np.full(100, 10.001))
    codes = np.array([-32768, 32767] * 100, np.int16)
    np.testing.assert_array_equal(load_audio(codes), codes.astype(np.float32) / 32768)


# Antiphase


@pytest.mark.parametrize("gain", [1.0, 0.8])
@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
def test_channels_in_antiphase_do_not_cancel(container: str, gain: float, caplog: pytest.LogCaptureFixture) -> None:
    hum = 0.002 * np.random.default_rng(1).standard_normal((2, 100_000)).astype(np.float32)
    spoken = tone(16000, 6.25) * np.linspace(0, 1, 100_000, dtype=np.float32)
    left, right = spoken + hum[0], -gain * spoken + hum[1]
    data = encode_by_soundfile(np.stack([left, right], axis=1), 16000, container)
    with caplog.at_level(logging.WARNING, "zipasr.audio"):
        samples = load_audio(data)
    np.testing.assert_array_equal(samples, load_audio(data, channel=0))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "the channels of the bytes cancel each other from 0.00 s on (one is in antiphase); channel 0 is used instead of "
        "their mean"
    )
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(data, block_s=0.3))), samples)


def test_the_channel_that_holds_more_is_taken() -> None:
    quiet = np.stack([-0.65 * NOISE, NOISE])
    np.testing.assert_array_equal(load_audio(quiet), NOISE)


def test_antiphase_from_a_place_on() -> None:
    """The channels are silent first, like a recording that starts with silence."""
    left = np.concatenate([np.zeros(65536, np.float32), NOISE])
    np.testing.assert_array_equal(load_audio(np.stack([left, -left])), left)


def test_antiphase_in_a_file_for_ffmpeg() -> None:
    data = mux("matroska", "flac", 48000, np.stack([tone(48000), -tone(48000)], axis=1))
    samples = load_audio(data)
    np.testing.assert_array_equal(samples, load_audio(data, channel=0))
    assert np.abs(samples).max() > 0.29


@pytest.mark.parametrize(
    "frames_CT",
    [
        pytest.param([NOISE, NOISE], id="the same"),
        pytest.param([NOISE, 0 * NOISE], id="one silent"),
        pytest.param([NOISE, NOISE[::-1]], id="unrelated"),
        pytest.param([NOISE, 0.5 * NOISE[::-1] - 0.5 * NOISE], id="wide stereo"),
        pytest.param([NOISE] + [0 * NOISE] * 7, id="one of eight"),
        pytest.param([0 * NOISE, 0 * NOISE], id="silence"),
    ],
)
def test_other_channels_are_mixed(frames_CT: list[np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.stack(frames_CT, axis=1), 16000, format="WAV", subtype="FLOAT")
    with caplog.at_level(logging.WARNING, "zipasr.audio"):
        samples = load_audio(out.getvalue())
    np.testing.assert_allclose(samples, np.mean(frames_CT, axis=0), atol=1e-6)
    assert not caplog.records
