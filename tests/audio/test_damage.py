"""Damaged and truncated files. Contract: they are refused by default, with the position and the cure. If damage is allowed,
everything that can be decoded keeps its position, silence replaces the rest, and a warning gives the position."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.audio.muxing import mux
from tests.audio.tones import ENCODED, encode_by_av, encode_by_soundfile, tone, without_flac_length
from zipasr.audio import load_audio, num_channels, read_blocks
from zipasr.errors import AudioError

NOISE = (np.random.default_rng(0).standard_normal(96_000) * 0.1).astype(np.float32)
TONE = tone(48_000, 2.0)
CASES = [("matroska", "aac"), ("mp4", "aac"), ("mpegts", "aac"), ("adts", "aac"), ("matroska", "flac"), ("mpeg", "mp2")]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("zipasr.audio")]


@pytest.mark.parametrize(("container", "codec"), CASES)
def test_a_damaged_packet(container: str, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = load_audio(mux(container, codec, 48000, TONE))
    data = mux(container, codec, 48000, TONE, damage=[1.0, 1.03])
    with pytest.raises(
        AudioError, match=r"but has damaged data at (0\.9|1\.0)\d s \(.*\); copy it again, or .*--allow-damaged"
    ):
        load_audio(data)
    with caplog.at_level(logging.WARNING, "zipasr.audio"):
        samples = load_audio(data, allow_damaged=True)
    assert abs(len(samples) - len(whole)) <= 16
    (message,) = warnings_of(caplog)
    found = re.fullmatch(r"the bytes is damaged; silence replaces what cannot be decoded: ([\d.]+) to ([\d.]+) s", message)
    assert found is not None
    start_s, end_s = map(float, found.groups())
    assert 0.85 <= start_s <= 1.02 and 1.03 <= end_s <= 1.25
    hole = samples[round(start_s * 16000) : round(end_s * 16000)]
    assert np.count_nonzero(np.abs(hole) < 1e-3) > 0.03 * 16000
    before, after = round((start_s - 0.03) * 16000), round((end_s + 0.1) * 16000)
    np.testing.assert_allclose(samples[:before], whole[:before], atol=0.01)
    shifts = range(-16, 17)  # Matroska rounds to milliseconds
    errors = [np.abs(samples[after:-200] - whole[after + shift :][: len(samples) - after - 200]).max() for shift in shifts]
    assert min(errors) < 0.05
    blocks = read_blocks(data, block_s=0.1, allow_damaged=True)
    np.testing.assert_array_equal(np.concatenate(list(blocks)), samples)
    assert num_channels(data, allow_damaged=True) == 1


def test_damage_in_a_flac_file(caplog: pytest.LogCaptureFixture) -> None:
    """soundfile stops at the damage; FFmpeg continues after it."""
    samples = np.rint(NOISE * 32768) / 32768
    data = bytearray(encode_by_soundfile(samples, 16000, "FLAC"))
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    with pytest.raises(AudioError, match="damaged"):
        load_audio(bytes(data))
    with caplog.at_level(logging.WARNING, "zipasr.audio"):
        loaded = load_audio(bytes(data), allow_damaged=True)
    assert len(loaded) == len(samples)
    (message,) = warnings_of(caplog)
    start_s, end_s = (float(number) for number in re.findall(r"(\d\.\d\d)", message))
    assert start_s < 3 < end_s < start_s + 0.8
    lost = np.flatnonzero(loaded != samples)
    np.testing.assert_allclose(lost[[0, -1]] / 16000, [start_s, end_s], atol=0.01)
    assert not loaded[lost].any()


def test_damage_in_a_flac_of_unknown_length_is_refused_too() -> None:
    data = bytearray(without_flac_length(encode_by_soundfile(NOISE, 16000, "FLAC")))
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    with pytest.raises(AudioError, match=r"damaged data at [23]\.\d\d s"):
        load_audio(bytes(data))
    assert len(load_audio(bytes(data), allow_damaged=True)) == len(NOISE)


def test_damage_in_an_mp3_is_reported_and_filled(caplog: pytest.LogCaptureFixture) -> None:
    whole = load_audio(mux("mp3", "libmp3lame", 48000, TONE))
    data = mux("mp3", "libmp3lame", 48000, TONE, damage=[1.0])
    with caplog.at_level(logging.WARNING, "zipasr.audio"):
        samples = load_audio(data, allow_damaged=True)
    assert abs(len(samples) - len(whole)) <= 0.05 * 16000
    assert re.search(r"decoded: (0\.9|1\.0)\d to 1\.0\d s$", warnings_of(caplog)[0])


def test_noise_that_damage_decodes_to_is_filled(caplog: pytest.LogCaptureFixture) -> None:
    """No lossy file for people to hear is 35 dB above full scale, and 16-bit integers as floats are not the reason."""
    loud = TONE.copy()
    loud[48000:52800] *= 200
    data = encode_by_soundfile(loud, 48000, "OGG")
    with pytest.raises(AudioError, match=r"damaged data at (0\.9|1\.0)\d s \(samples far beyond .* --allow-damaged"):
        load_audio(data)
    with caplog.at_level(logging.WARNING, "zipasr.audio"):
        samples = load_audio(data, allow_damaged=True)
    assert len(samples) == 2 * 16000
    assert np.abs(samples).max() <= 10
    assert np.abs(samples[16500:17200]).max() < 1e-6
    np.testing.assert_allclose(samples[18000:30000], tone(16000, 2.0)[18000:30000], atol=0.03)
    assert re.search(r"cannot be decoded: (0\.9|1\.0)\d to 1\.[01]\d s$", warnings_of(caplog)[0])


def test_a_few_frames_of_another_rate_are_damage(caplog: pytest.LogCaptureFixture) -> None:
    """Damage can imitate the header of an mp3 frame. More than a few are another recording."""

    def joined(other_s: float) -> bytes:
        pieces = [(48000, 4.0), (44100, other_s), (48000, 1.0)]
        return b"".join(encode_by_av("libmp3lame", "mp3", rate_hz, tone(rate_hz, length_s)) for rate_hz, length_s in pieces)

    for data, allow_damaged in [(joined(0.1), False), (joined(1.0), False), (joined(1.0), True)]:
        with pytest.raises(AudioError, match="must have one sample rate, but has 48000 Hz and then 44100 Hz"):
            load_audio(data, allow_damaged=allow_damaged)
    with caplog.at_level(logging.WARNING, "zipasr.audio"):
        samples = load_audio(joined(0.1), allow_damaged=True)
    assert len(samples) / 16000 == pytest.approx(5.1, abs=0.2)
    assert np.abs(samples[round(4.1 * 16000) : round(4.18 * 16000)]).max() < 0.01
    assert np.abs(samples[-8000:]).max() > 0.25
    assert re.search(r"cannot be decoded: 4\.0\d to 4\.[12]\d s$", warnings_of(caplog)[-1])


def test_an_error_in_the_middle_prints_no_leaks(tmp_path: Path) -> None:
    """The traceback of an error may keep a resampler until the program ends, which its library reports."""
    path = tmp_path / "a.mkv"
    path.write_bytes(mux("matroska", "aac", 48000, tone(48000, 6.0), damage=[5.0]))
    command = [sys.executable, "-m", "zipasr", "transcribe", "commands", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"zipasr: error: .*damaged data at .*\n", done.stderr)


def test_damage_at_the_end_keeps_the_length(caplog: pytest.LogCaptureFixture) -> None:
    whole = load_audio(mux("mp4", "aac", 48000, TONE))
    data = mux("mp4", "aac", 48000, TONE, damage=np.arange(1.5, 2.1, 0.02).tolist())
    assert abs(len(load_audio(data, allow_damaged=True)) - len(whole)) <= 0.025 * 16000
    assert warnings_of(caplog)


@pytest.mark.parametrize(("container", "codec"), [("matroska", "aac"), ("mp4", "aac")])
def test_damage_at_the_start_moves_nothing(container: str, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = load_audio(mux(container, codec, 48000, TONE))
    samples = load_audio(mux(container, codec, 48000, TONE, damage=[0.0, 0.03, 0.06]), allow_damaged=True)
    assert abs(len(samples) - len(whole)) <= 16
    assert np.abs(samples[: round(0.04 * 16000)]).max() < 0.05
    assert re.search(r"cannot be decoded: 0\.0\d to 0\.(0|1)\d s$", warnings_of(caplog)[0])


@pytest.mark.parametrize("kind", ["wav", "flac", "webm", "aiff", "sph", "w64", "caf", "voc", "avi"])
def test_a_cut_file(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    data = ENCODED[kind]()
    cut = data[: int(len(data) * 0.6)]
    with pytest.raises(AudioError, match=" must "):
        load_audio(cut)
    samples = load_audio(cut, allow_damaged=True)
    whole = load_audio(data)
    assert 0.4 * len(whole) < len(samples) < 0.7 * len(whole)
    keep = len(samples) - 6000  # the last FLAC frame may be padded, and the resampler flushes its tail
    np.testing.assert_allclose(samples[:keep], whole[:keep], atol=1e-4)
    assert any("is truncated: it" in message for message in warnings_of(caplog))


@pytest.mark.parametrize("kind", ["sph", "w64", "caf", "voc", "avi", "wavpack", "tta"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.6])
def test_a_cut_file_is_refused(kind: str, share: float) -> None:
    data = ENCODED[kind]()
    with pytest.raises(AudioError, match=r"must hold .*: the file is truncated|has damaged data at [01]\.\d\d s"):
        load_audio(data[: int(len(data) * share)])


def test_wavpack_of_unknown_length_is_read_as_far_as_it_goes() -> None:
    data = bytearray(ENCODED["wavpack"]())
    whole, start = load_audio(bytes(data)), 0
    while start < len(data) and data[start : start + 4] == b"wvpk":
        data[start + 12 : start + 16] = b"\xff" * 4
        start += 8 + int.from_bytes(data[start + 4 : start + 8], "little")
    np.testing.assert_array_equal(load_audio(bytes(data)), whole)


@pytest.mark.parametrize("kind", ENCODED)
def test_whole_files_are_the_same_with_and_without(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    data = ENCODED[kind]()
    np.testing.assert_array_equal(load_audio(data, allow_damaged=True), load_audio(data))
    assert not warnings_of(caplog)


def test_a_file_that_is_not_a_recording_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("This is not audio at all.\n" * 50)
    for source in (tmp_path / "a.wav", tmp_path / "none.wav", b"", tone(16000) * 32768):
        with pytest.raises(AudioError, match=" must "):
            load_audio(source, allow_damaged=True)
