"""Recordings read in blocks. Law: joined, the blocks are the whole recording. Reference: soxr on the whole. Contract:
errors, memory, channels."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio.tones import ENCODED, encode_by_av, encode_by_soundfile, tone, without_flac_length
from zipasr.audio import SAMPLE_RATE_HZ, load_audio, num_channels, read_blocks
from zipasr.errors import AudioError

NOISE = (np.random.default_rng(0).standard_normal(60_000) * 0.1).astype(np.float32)


class Pipe(io.RawIOBase):
    """A file object that cannot seek, like an upload or a subprocess pipe."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(min(size, 1000) if size >= 0 else size)


# Law: joined blocks are the whole recording


@pytest.mark.parametrize("kind", ENCODED)
def test_joined_blocks_are_the_whole_in_every_format(kind: str) -> None:
    data = ENCODED[kind]()
    whole = load_audio(data)
    for block_s in (0.01, 0.25, 100.0):
        blocks = list(read_blocks(data, block_s=block_s))
        assert {len(block) for block in blocks[:-1]} <= {round(block_s * SAMPLE_RATE_HZ)}
        assert 0 < len(blocks[-1]) <= round(block_s * SAMPLE_RATE_HZ)
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


@settings(max_examples=50, deadline=None)
@given(
    num_samples=st.integers(0, len(NOISE)),
    rate_hz=st.sampled_from([8000, 11025, 16000, 44100, 48000, 96000]),
    block_s=st.floats(0.001, 3.0),
)
def test_resampling_in_blocks_equals_resampling_at_once(num_samples: int, rate_hz: int, block_s: float) -> None:
    """Resampling in blocks equals soxr on the whole recording bit for bit, without gaps, clicks or delays."""
    samples = NOISE[:num_samples]
    blocks = list(read_blocks(samples, sample_rate_hz=rate_hz, block_s=block_s))
    joined = np.concatenate([*blocks, np.zeros(0, np.float32)])
    expected = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="VHQ") if rate_hz != 16000 else samples
    np.testing.assert_array_equal(joined, expected)
    np.testing.assert_array_equal(joined, load_audio(samples, sample_rate_hz=rate_hz))


@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_long_recordings_go_through_many_native_blocks(rate_hz: int) -> None:
    samples = np.tile(NOISE, 6)
    data = encode_by_soundfile(samples, rate_hz, "WAV", "FLOAT")
    expected = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(data, block_s=1.3))), expected)
    np.testing.assert_array_equal(load_audio(data), expected)


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = encode_by_soundfile(tone(8000), 8000, "WAV", "FLOAT")
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    expected = load_audio(path)
    after_a_header = io.BytesIO(b"header" + data)
    after_a_header.seek(6)
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data), Pipe(data), after_a_header):
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(source, block_s=0.3))), expected)
    for array in (tone(8000), torch.from_numpy(tone(8000)), np.stack([tone(8000)] * 2), np.stack([tone(8000)] * 2, axis=1)):
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(array, sample_rate_hz=8000))), expected)
    raw = encode_by_av("pcm_s16le", "s16le", 8000)
    joined = np.concatenate(list(read_blocks(raw, format="s16le", sample_rate_hz=8000, block_s=0.2)))
    np.testing.assert_array_equal(joined, load_audio(raw, format="s16le", sample_rate_hz=8000))


@pytest.mark.parametrize("kind", ["m4a", "mp3", "opus"])
def test_files_for_ffmpeg_from_objects_that_cannot_seek(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ENCODED[kind]()
    monkeypatch.setattr("zipasr.audio.file._MAX_BYTES_IN_MEMORY", 5000)  # so that the copy is written to disk
    np.testing.assert_array_equal(load_audio(Pipe(data)), load_audio(data))
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(Pipe(data)))), load_audio(data))


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
def test_one_channel_in_blocks(container: str) -> None:
    data = encode_by_soundfile(np.stack([tone(16000), tone(16000, freq_hz=1000)], axis=1), 16000, container)
    for channel in (None, 0, 1):
        joined = np.concatenate(list(read_blocks(data, channel=channel, block_s=0.4)))
        np.testing.assert_array_equal(joined, load_audio(data, channel=channel))
    with pytest.raises(AudioError, match="the bytes must have a channel 2, but has 2"):
        next(read_blocks(data, channel=2))


def test_blocks_do_not_alias_the_argument() -> None:
    array = tone(16000)
    for block in read_blocks(array, block_s=0.1):
        block[:] = 7
    np.testing.assert_array_equal(array, tone(16000))


# Contract: memory


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 44100, 2, "PCM_16") as file:
        for _ in range(30):
            file.write(np.zeros((20 * 44100, 2), np.int16))
    mebibytes = {}
    for use in ("some", "all"):
        tracemalloc.start()
        blocks = read_blocks(path, block_s=5.0)
        for i, block in enumerate(blocks):
            assert len(block) == 5 * SAMPLE_RATE_HZ
            if use == "some" and i == 10:
                break
        mebibytes[use] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    assert mebibytes["all"] < 8  # the whole recording takes 37 MiB at 16 kHz
    assert mebibytes["all"] < 1.2 * mebibytes["some"]


# Contract: bad input


def test_a_missing_or_empty_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        next(read_blocks(tmp_path / "none.wav"))
    (tmp_path / "a.wav").touch()
    for source in (tmp_path / "a.wav", b"", io.BytesIO(b""), Pipe(b"")):
        for function in (lambda source: list(read_blocks(source)), load_audio):
            with pytest.raises(AudioError, match="zero bytes"):
                function(source)
    with pytest.raises(AudioError, match="zero bytes"):
        num_channels(tmp_path / "a.wav")


def test_text_named_as_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("This is not audio at all.\n" * 50)
    with pytest.raises(AudioError, match="unknown or damaged format that starts with"):
        next(read_blocks(tmp_path / "a.wav"))
    with pytest.raises(AudioError, match="unknown or damaged format that starts with"):
        num_channels(tmp_path / "a.wav")


@pytest.mark.parametrize("kind", ["wav", "flac", "flac_of_unknown_length", "m4a", "mp3", "webm"])
def test_a_file_cut_short_raises_when_its_end_is_reached(kind: str) -> None:
    """Like load_audio, a truncated recording never ends as if it were whole; the samples before its end are correct."""
    data = ENCODED[kind]()
    whole = load_audio(data)
    cut = data[: int(len(data) * 0.6)]
    given = [np.zeros(0, np.float32)]
    with pytest.raises(AudioError, match=" must "):
        given.extend(read_blocks(cut, block_s=0.1))
    joined = np.concatenate(given)
    if kind == "flac":  # at 44.1 kHz, the samples that are still in the resampler at the end are lost
        joined = joined[:-2000]
    np.testing.assert_array_equal(joined, whole[: len(joined)])
    with pytest.raises(AudioError, match=" must "):
        load_audio(cut)


def test_a_file_damaged_in_its_middle() -> None:
    data = bytearray(encode_by_soundfile(np.tile(NOISE, 5), 16000, "FLAC"))
    middle = len(data) // 2
    data[middle : middle + 100] = bytes(100)
    blocks: list[np.ndarray] = []
    with pytest.raises(AudioError, match="damaged"):
        blocks.extend(read_blocks(bytes(data), block_s=0.5))
    assert sum(map(len, blocks)) > len(NOISE)
    with pytest.raises(AudioError, match="damaged"):
        load_audio(bytes(data))


def test_samples_that_are_not_finite_are_found_where_they_are() -> None:
    samples = np.tile(NOISE, 5)
    samples[4 * len(NOISE)] = np.nan
    with pytest.raises(AudioError, match=r"but 1 are NaN or infinite from 15\.00 s on"):
        list(read_blocks(samples))
    with pytest.raises(AudioError, match=r"but 1 are NaN or infinite from 15\.00 s on"):
        load_audio(samples)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(16000, np.float32), id="silence"),
        pytest.param(tone(16000)[:160], id="10 ms"),
        pytest.param(np.clip(50 * tone(16000), -1, 1), id="clipping"),
    ],
)
@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_odd_recordings_are_read_as_they_are(samples: np.ndarray, rate_hz: int) -> None:
    data = encode_by_soundfile(samples, rate_hz, "WAV")
    joined = np.concatenate(list(read_blocks(data, block_s=0.5)))
    assert abs(len(joined) - len(samples) * 16000 // rate_hz) <= 1
    assert np.abs(joined).max(initial=0) <= 1.5  # a resampler overshoots where a clipped wave jumps
    assert np.isfinite(joined).all()


def test_no_samples_give_no_blocks() -> None:
    flac = ENCODED["flac_of_unknown_length"]()
    for source in (encode_by_soundfile(tone(8000)[:0], 8000, "WAV"), flac[: flac.index(b"\xff\xf8")], np.zeros(0)):
        assert list(read_blocks(source)) == []


def test_wrong_arguments_raise_at_once() -> None:
    for block_s in (0.0, -1.0, float("nan"), 1e-6):
        with pytest.raises(ValueError, match="block_s must be at least one sample"):
            read_blocks(NOISE, block_s=block_s)
    with pytest.raises(ValueError, match="must be 0 or more"):
        read_blocks(NOISE, channel=-1)
    with pytest.raises(ValueError, match="below 1"):
        read_blocks(NOISE, channel=1)
    with pytest.raises(ValueError, match="sample_rate_hz must be None"):
        read_blocks(b"1234", sample_rate_hz=16000)
    with pytest.raises(ValueError, match="headerless"):
        read_blocks(b"1234", format="wav")
    with pytest.raises(ValueError, match="but has shape"):
        read_blocks(np.zeros((9, 10)))


# num_channels


@pytest.mark.parametrize(("container", "subtype"), [("WAV", None), ("FLAC", None), ("AIFF", None), ("OGG", "VORBIS")])
def test_number_of_channels_of_files(container: str, subtype: str | None, tmp_path: Path) -> None:
    for count in (1, 2, 3):
        data = encode_by_soundfile(np.stack([tone(16000)] * count, axis=1), 16000, container, subtype)
        path = tmp_path / "recording"
        path.write_bytes(data)
        file = io.BytesIO(b"header" + data)
        file.seek(6)
        for source in (path, str(path), data, file):
            assert num_channels(source) == count
        assert file.tell() == 6
        assert len(load_audio(file)) >= 24000


@pytest.mark.parametrize("kind", ENCODED)
def test_every_mono_format_has_one_channel(kind: str) -> None:
    assert num_channels(ENCODED[kind]()) == 1


def test_number_of_channels_of_arrays_and_raw_samples() -> None:
    for shape, count in {(100,): 1, (100, 2): 2, (2, 100): 2, (1, 5): 1, (0,): 1}.items():
        assert num_channels(np.zeros(shape, np.float32)) == count
        assert num_channels(torch.zeros(shape)) == count
    assert num_channels(encode_by_av("g722", "g722", 16000), format="g722") == 1
    assert num_channels(b"1234", format="s16le", sample_rate_hz=8000) == 1
    assert num_channels(without_flac_length(ENCODED["flac_of_unknown_length"]())) == 1


def test_number_of_channels_refuses() -> None:
    with pytest.raises(ValueError, match="cannot"):
        num_channels(Pipe(ENCODED["wav"]()))
    with pytest.raises(ValueError, match="but has shape"):
        num_channels(np.zeros((9, 10)))
    with pytest.raises(ValueError, match="format must be None for an array"):
        num_channels(NOISE, format="g722")
    with pytest.raises(ValueError, match="binary mode"):
        num_channels(5)
