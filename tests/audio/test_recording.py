"""Reading audio. Reference: known signals in every format. Law: fuzzed files never crash. Contract: errors and imports.

All audio is synthetic: sines, whose frequency, level and length remain measurable after lossy codecs.
"""

import errno
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio.muxing import mux
from tests.audio.tones import (
    DURATION_S,
    ENCODED,
    LEVEL,
    TONE_HZ,
    encode_by_av,
    encode_by_soundfile,
    tone,
)
from zipasr.audio import SAMPLE_RATE_HZ, audio_duration_s, load_audio, save_flac
from zipasr.errors import AudioError


def assert_is_tone(samples: np.ndarray, duration_s: float = DURATION_S, level: float = LEVEL) -> None:
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) / SAMPLE_RATE_HZ - duration_s) < 0.15  # AAC pads by up to two packets
    middle = samples[4000 : 4000 + 16000].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(16000)))
    assert abs(float(spectrum.argmax()) - TONE_HZ) <= 1
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(level, rel=0.1)


# Reference: known signals in every format


@pytest.mark.parametrize("kind", ENCODED)
def test_every_format_gives_its_tone(kind: str, tmp_path: Path) -> None:
    data = ENCODED[kind]()
    assert_is_tone(load_audio(data))
    path = tmp_path / "recording"  # the content decides, not the file name
    path.write_bytes(data)
    assert_is_tone(load_audio(path))
    assert audio_duration_s(path) == pytest.approx(len(load_audio(path)) / SAMPLE_RATE_HZ, abs=0.1)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_sample_formats_and_rates(subtype: str, rate_hz: int) -> None:
    samples = load_audio(encode_by_soundfile(tone(rate_hz), rate_hz, "WAV", subtype))
    assert abs(len(samples) - DURATION_S * SAMPLE_RATE_HZ) <= 1
    tolerance = {"PCM_U8": 0.02, "ULAW": 0.02}.get(subtype, 1e-4)
    np.testing.assert_allclose(samples[800:23000], tone(16000)[800:23000], atol=tolerance)


@pytest.mark.parametrize(
    ("codec", "name", "arguments"),
    [
        ("pcm_s16le", "s16le", {"format": "s16le", "sample_rate_hz": 8000}),
        ("pcm_f32le", "f32le", {"format": "f32le", "sample_rate_hz": 44100}),
        ("pcm_u8", "u8", {"format": "u8", "sample_rate_hz": 16000}),
        ("pcm_mulaw", "mulaw", {"format": "mulaw", "sample_rate_hz": 8000}),
        ("g722", "g722", {"format": "g722"}),
    ],
)
def test_headerless_formats(codec: str, name: str, arguments: dict[str, int | str]) -> None:
    data = encode_by_av(codec, name, int(arguments.get("sample_rate_hz", 16000)))
    assert_is_tone(load_audio(data, **arguments))


def test_g722_is_known_by_its_file_name(tmp_path: Path) -> None:
    path = tmp_path / "a.G722"
    path.write_bytes(encode_by_av("g722", "g722", 16000))
    assert_is_tone(load_audio(path))
    assert_is_tone(load_audio(str(path)))
    assert audio_duration_s(path) == DURATION_S
    path.write_bytes(ENCODED["wav"]())  # misnamed: the header decides
    assert_is_tone(load_audio(path))


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_16_bit_audio_is_exact(container: str) -> None:
    codes = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    expected = codes.astype(np.float32) / 32768
    np.testing.assert_array_equal(load_audio(encode_by_soundfile(codes, 16000, container)), expected)
    np.testing.assert_array_equal(load_audio(codes), expected)


def test_path_bytes_file_array_and_tensor_agree(tmp_path: Path) -> None:
    data = encode_by_soundfile(tone(8000), 8000, "WAV", "FLOAT")
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    expected = load_audio(path)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load_audio(file), expected)
    for source in (str(path), data, bytearray(data), io.BytesIO(data)):
        np.testing.assert_array_equal(load_audio(source), expected)
    for array in (tone(8000), torch.from_numpy(tone(8000)), tone(8000).astype(np.float64)):
        np.testing.assert_array_equal(load_audio(array, sample_rate_hz=8000), expected)
    half = torch.from_numpy(tone(16000)).to(torch.bfloat16)
    np.testing.assert_allclose(load_audio(half), tone(16000), atol=2e-3)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
def test_stereo_is_averaged_or_one_channel_taken(container: str) -> None:
    left, right = tone(16000), tone(16000, freq_hz=1000)
    data = encode_by_soundfile(np.stack([left, right], axis=1), 16000, container)
    np.testing.assert_allclose(load_audio(data), (left + right) / 2, atol=1e-4)
    np.testing.assert_allclose(load_audio(data, channel=0), left, atol=1e-4)
    np.testing.assert_allclose(load_audio(data, channel=1), right, atol=1e-4)
    with pytest.raises(AudioError, match="the bytes must have a channel 2, but has 2"):
        load_audio(data, channel=2)


@pytest.mark.parametrize(
    ("codec", "num_channels"),
    [("aac", 2), ("aac", 8), ("wavpack", 8), ("vorbis", 16), ("pcm_s16le", 16)],
)
def test_many_channels(codec: str, num_channels: int) -> None:
    """Most of these decoders give a plane a channel; from eight planes on, FFmpeg does not mark where they end."""
    freqs_hz = [300 + 100 * i for i in range(num_channels)]
    tones_TC = np.stack([tone(48000, 1.5, freq_hz) for freq_hz in freqs_hz], axis=1)
    data = encode_by_soundfile(tones_TC, 48000, "OGG") if codec == "vorbis" else mux("matroska", codec, 48000, tones_TC)
    for i in (0, 1, num_channels - 1):
        spectrum = np.abs(np.fft.rfft(load_audio(data, channel=i)[4000:20000] * np.hanning(16000)))
        assert abs(int(spectrum.argmax()) - freqs_hz[i]) <= 1
    with pytest.raises(AudioError, match=f"must have a channel {num_channels}, but has {num_channels}"):
        load_audio(data, channel=num_channels)


@pytest.mark.parametrize(
    ("dtype", "zero", "scale"), [("uint8", 128, 128), ("int8", 0, 128), ("int16", 0, 32768), ("int32", 0, 2**31)]
)
def test_integer_arrays_are_scaled(dtype: str, zero: int, scale: int) -> None:
    codes = np.array([zero, zero + scale // 2, zero - scale], dtype)
    np.testing.assert_array_equal(load_audio(codes), np.array([0, 0.5, -1], np.float32))
    np.testing.assert_array_equal(load_audio(torch.from_numpy(codes)), np.array([0, 0.5, -1], np.float32))
    swapped = codes.astype(codes.dtype.newbyteorder())
    np.testing.assert_array_equal(load_audio(swapped), np.array([0, 0.5, -1], np.float32))


def test_the_channel_axis_of_an_array_is_the_shorter_one() -> None:
    stereo = np.stack([tone(16000), np.zeros_like(tone(16000))])
    for array in (stereo, stereo.T):
        np.testing.assert_array_equal(load_audio(array), tone(16000) / 2)
        np.testing.assert_array_equal(load_audio(array, channel=0), tone(16000))
    np.testing.assert_array_equal(load_audio(np.ones((1, 5), np.float32)), np.ones(5, np.float32))
    for shape in [(2, 8), (9, 10), (3, 3), (2, 3, 4), ()]:
        with pytest.raises(ValueError, match="but has shape"):
            load_audio(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="channel must be below 2"):
        load_audio(stereo, channel=2)


def test_loading_does_not_modify_or_alias_the_argument() -> None:
    array = tone(16000)
    load_audio(array)[:] = 7
    np.testing.assert_array_equal(array, tone(16000))


# Short and empty recordings


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
@pytest.mark.parametrize("num_samples", [0, 1, 2, 79, 160])
def test_very_short_recordings(num_samples: int, rate_hz: int) -> None:
    samples = tone(rate_hz)[:num_samples]
    for source, arguments in (
        (samples, {"sample_rate_hz": rate_hz}),
        (encode_by_soundfile(samples, rate_hz, "WAV"), {}),
    ):
        loaded = load_audio(source, **arguments)
        assert loaded.dtype == np.float32
        assert abs(len(loaded) - num_samples * 16000 / rate_hz) <= 1
    assert load_audio(np.zeros((2, 0), np.int16)).shape == (0,)


def test_a_header_without_samples_is_an_empty_recording(tmp_path: Path) -> None:
    flac = ENCODED["flac_of_unknown_length"]()
    flac = flac[: flac.index(b"\xff\xf8")]
    for name, data in {"a.wav": encode_by_soundfile(tone(16000)[:0], 16000, "WAV"), "a.flac": flac}.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert load_audio(path).shape == (0,)
        assert audio_duration_s(path) == 0


# Contract: bad files


def assert_audio_error(source: str | Path | bytes, *words: str, **arguments: int | str) -> None:
    """Check that the message states what was expected, what was found and the cure."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **arguments)
    message = str(caught.value)
    for word in (" must ", ", but ", "; ", *words):
        assert word in message


def test_missing_file(tmp_path: Path) -> None:
    assert_audio_error(tmp_path / "none.wav", "none.wav", "no such file")
    with pytest.raises(AudioError, match="no such file"):
        audio_duration_s(tmp_path / "none.wav")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert_audio_error(tmp_path, "readable file")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.g722", "a.mp3"])
def test_zero_bytes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert_audio_error(tmp_path / name, name, "zero bytes")
    with pytest.raises(AudioError, match="zero bytes"):
        audio_duration_s(tmp_path / name)


def test_zero_bytes_in_memory() -> None:
    assert_audio_error(b"", "zero bytes")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.m4a", "a"])
def test_text_renamed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("This is not audio at all.\n" * 50)
    with pytest.raises(AudioError, match=" must "):
        load_audio(tmp_path / name)
    with pytest.raises(AudioError, match=" must "):
        audio_duration_s(tmp_path / name)


def test_text_renamed_shows_the_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("This is not audio at all.\n" * 50)
    assert_audio_error(tmp_path / "a.wav", "a.wav", "b'This is not '", "g722")


def test_a_picture_or_a_silent_film_has_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        target.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 32), np.uint8), "yuv420p")))
        target.mux(stream.encode(None))
    assert_audio_error(path, "audio track")


@pytest.mark.parametrize(
    ("kind", "keep"),
    [(kind, keep) for kind in ("flac", "flac_of_unknown_length") for keep in (0.01, 0.1, 0.5, 0.9, 0.999)]
    + [(kind, keep) for kind in ("m4a", "wav") for keep in (0.01, 0.1, 0.5, 0.9)]
    # The other formats tolerate up to 0.5 s, which may be rounding and encoder delay.
    + [(kind, keep) for kind in ("webm", "mp3", "aiff") for keep in (0.01, 0.1, 0.6)],
)
def test_a_cut_file_raises(kind: str, keep: float) -> None:
    """In every format that states its length, half a recording is never returned as if it were whole."""
    data = ENCODED[kind]()
    with pytest.raises(AudioError, match=" must "):
        load_audio(data[: int(len(data) * keep)])


def test_a_damaged_flac_raises() -> None:
    data = bytearray(ENCODED["flac"]())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    assert_audio_error(bytes(data), "damaged")


def test_a_flac_cut_after_its_header_raises() -> None:
    data = ENCODED["flac"]()
    assert_audio_error(data[: data.index(b"\xff\xf8")])


def test_wav_header_that_promises_more() -> None:
    data = ENCODED["wav"]()
    assert_audio_error(data[:44], "48000 bytes", "but holds 0")
    huge = data[:40] + struct.pack("<I", 0x7FFFFFF0 - 0x10000) + data[44:]
    assert_audio_error(huge, "header states")
    assert len(load_audio(data[:-100])) == 24000 - 50  # 3 ms: some recorders count the header as audio


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("file_length", [0, 36, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024])
def test_wav_written_into_a_pipe_is_read_to_its_end(length: int, file_length: int) -> None:
    data = ENCODED["wav"]()
    piped = data[:4] + struct.pack("<I", file_length) + data[8:40] + struct.pack("<I", length) + data[44:]
    np.testing.assert_allclose(load_audio(piped), tone(16000), atol=1e-4)


def test_a_wav_without_samples_before_another_chunk_is_empty() -> None:
    data = ENCODED["wav"]()[:40] + bytes(4) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert len(load_audio(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])) == 0


def test_tags_that_are_no_utf_8_do_not_matter() -> None:
    tag = b"TIT2" + bytes([0, 0, 0, 5, 0, 0, 3]) + b"caf\xe9"
    data = mux("mp3", "libmp3lame", 16000, tone(16000, 1.0))
    assert len(load_audio(b"ID3\x04\0\0" + bytes([0, 0, 0, len(tag)]) + tag + data)) == len(load_audio(data)) == 16000


def test_wav_chunks_before_and_after_the_samples_are_passed_over() -> None:
    data = ENCODED["wav"]()
    chunk = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    long = b"RIFF" + struct.pack("<I", len(data) + 2 * len(chunk) - 8)
    np.testing.assert_array_equal(load_audio(long + data[8:36] + chunk + data[36:] + chunk), load_audio(data))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(bad: float, tmp_path: Path) -> None:
    samples = tone(8000)
    samples[1000] = bad
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    assert_audio_error(path, "a.wav", "NaN or infinite", "but 1 are")
    with pytest.raises(AudioError, match="NaN or infinite"):
        load_audio(samples, sample_rate_hz=8000)
    with pytest.raises(AudioError, match="NaN or infinite"):
        load_audio(np.array([1e300, 0.0]))


def test_absurd_rates() -> None:
    data = ENCODED["wav"]()
    assert_audio_error(data[:24] + struct.pack("<II", 1, 2) + data[32:], "sample rate")
    for rate_hz in (0, -1, 10**9):
        with pytest.raises(ValueError, match="sample_rate_hz"):
            load_audio(tone(16000), sample_rate_hz=rate_hz)


def test_raw_samples_cut_within_a_sample() -> None:
    data = encode_by_av("pcm_s16le", "s16le", 16000)
    assert len(load_audio(data[:-1], format="s16le", sample_rate_hz=16000)) == 23999


def test_a_playlist_named_as_audio_opens_nothing(tmp_path: Path) -> None:
    """FFmpeg would otherwise open the files and URLs in HLS playlists and concat scripts."""
    (tmp_path / "secret.wav").write_bytes(ENCODED["wav"]())
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    script = f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n"
    for name, text in {"a.wav": playlist, "a.m3u8": playlist, "b.wav": script}.items():
        (tmp_path / name).write_text(text)
        assert_audio_error(tmp_path / name, "unknown")


def test_a_path_is_never_taken_for_an_address() -> None:
    assert_audio_error("http://127.0.0.1:9/a.wav", "no such file")


# Contract: arguments


def test_arguments_without_effect_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(ENCODED["wav"]())
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ValueError, match="sample_rate_hz must be None") as caught:
            load_audio(source, sample_rate_hz=16000)
        assert not isinstance(caught.value, AudioError)
        with pytest.raises(ValueError, match="headerless"):
            load_audio(source, format="wav")
        with pytest.raises(AudioError, match="file with a header"):
            load_audio(source, format="g722")
    with pytest.raises(ValueError, match="format must be None for an array"):
        load_audio(tone(16000), format="s16le")
    with pytest.raises(ValueError, match="sample_rate_hz must be None"):
        load_audio(b"1234", format="g722", sample_rate_hz=16000)
    with pytest.raises(ValueError, match="sample_rate_hz must be given with format='s16le'"):
        load_audio(b"1234", format="s16le")
    with pytest.raises(ValueError, match="must be 0 or more"):
        load_audio(tone(16000), channel=-1)


def test_unknown_format_name() -> None:
    with pytest.raises(ValueError, match=r"g722.*but is 'bogus'"):
        load_audio(b"1234", format="bogus")


@pytest.mark.parametrize("source", [5, [0.1, 0.2], None, io.StringIO("text")])
def test_wrong_kind_of_source(source: object) -> None:
    with pytest.raises(ValueError, match="binary mode"):
        load_audio(source)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "complex64"])
def test_arrays_of_unclear_scale(dtype: str) -> None:
    with pytest.raises(ValueError, match=dtype):
        load_audio(np.zeros(100, dtype))


# Law: damaged files raise AudioError or give finite samples, nothing else


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["wav", "flac", "mp3", "m4a", "webm", "vorbis", "aiff"]))
def test_fuzzed_files_never_crash(data: st.DataObject, kind: str) -> None:
    damaged = bytearray(ENCODED_ONCE[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, min(len(damaged), 2000) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(1, len(damaged)))]
    try:
        samples = load_audio(bytes(damaged))
    except AudioError:
        return
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()


ENCODED_ONCE = {kind: ENCODED[kind]() for kind in ["wav", "flac", "mp3", "m4a", "webm", "vorbis", "aiff"]}


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_never_crash(data: bytes) -> None:
    for arguments in ({}, {"format": "g722"}, {"format": "u8", "sample_rate_hz": 8000}):
        try:
            samples = load_audio(data, **arguments)
        except AudioError:
            continue
        assert np.isfinite(samples).all()


# save_flac


def test_saved_flac_is_exact_and_16_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    codes = np.arange(-32768, 32768).astype(np.int16)
    save_flac(path, codes.astype(np.float32) / 32768)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.format, info.subtype) == (16000, 1, "FLAC", "PCM_16")
    np.testing.assert_array_equal(load_audio(path), codes.astype(np.float32) / 32768)
    save_flac(str(path), np.array([2.0, -2.0, 0.25]))
    np.testing.assert_array_equal(load_audio(path), np.array([32767 / 32768, -1, 0.25], np.float32))
    assert os.listdir(tmp_path) == ["a.flac"]


@pytest.mark.parametrize(
    "samples",
    [np.zeros(0, np.float32), np.zeros((2, 100)), np.zeros(100, np.int16), np.array([np.nan]), np.array([np.inf])],
)
def test_save_flac_refuses(samples: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r" must .*, but .*; "):
        save_flac(tmp_path / "a.flac", samples)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    save_flac(path, tone(16000))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(AudioError, match="No space left"):
        save_flac(path, tone(16000)[:100])
    assert os.listdir(tmp_path) == ["a.flac"]
    assert len(load_audio(path)) == 24000
    with pytest.raises(AudioError, match="No such file"):
        save_flac(tmp_path / "none" / "a.flac", tone(16000))


def test_audio_loads_neither_torch_nor_lhotse() -> None:
    code = "import sys, zipasr.audio; print([m for m in ('torch', 'lhotse', 'sentencepiece') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
