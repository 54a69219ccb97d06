"""Reference: Opus is decoded as libopus does it. FFmpeg's own decoder differs, in some files of speech by a factor of
thousands for an instant."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from tests.train.tones import RATE_HZ, say
from zipasr.audio import load_audio
from zipasr.audio.decoder import decoder_of


def speech(num_channels: int, rate_hz: int = 48_000) -> np.ndarray:
    """(samples, channels) of words in noise."""
    channels = []
    for i in range(num_channels):
        rng = np.random.default_rng(i)
        words = say(["LO", "HI", "LO"], rng)
        channels.append(words + 0.01 * rng.standard_normal(len(words)))
    length = min(map(len, channels))
    return soxr.resample(np.stack([channel[:length] for channel in channels], 1), RATE_HZ, rate_hz).astype(np.float32)


def write(path: Path, samples: np.ndarray, bit_rate: int) -> Path:
    """An Opus file of (samples, channels) at 48 kHz."""
    with av.open(path, "w", format="ogg") as container:
        stream = container.add_stream("libopus", 48_000, layout="mono" if samples.shape[1] == 1 else "stereo")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.reshape(1, -1)), "flt", "mono" if samples.shape[1] == 1 else "stereo"
        )
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("bit_rate", [8_000, 24_000, 32_000, 96_000])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_opus_is_decoded_by_the_reference_decoder(tmp_path: Path, bit_rate: int, num_channels: int) -> None:
    """soundfile contains libopus; both decode at 48 kHz and resample, so that next to nothing differs."""
    path = write(tmp_path / "a.ogg", speech(num_channels), bit_rate)
    expected, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate_hz == 48_000
    expected = soxr.resample(expected.mean(1), 48_000, RATE_HZ)
    found = load_audio(path)
    length = min(len(found), len(expected))
    assert abs(len(found) - len(expected)) <= RATE_HZ // 50, "the padding of the last packet"
    error = np.sum((found[:length] - expected[:length]) ** 2)
    assert 10 * np.log10(np.sum(expected[:length] ** 2) / error) > 60


def test_other_codecs_keep_their_decoder_and_so_does_opus_without_libopus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opus = write(tmp_path / "a.ogg", speech(1), 24_000)
    soundfile.write(tmp_path / "b.ogg", speech(1), 48_000)
    with av.open(tmp_path / "b.ogg") as container:
        stream = container.streams.audio[0]
        assert decoder_of(stream) is stream.codec_context
    reference = load_audio(opus)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libopus"})
    assert len(load_audio(opus)) == len(reference)
