"""The clock of recordings. Reference: known packets at known times, and joined decoded frames. Law: joined blocks are the
whole, and lengths agree. Contract: truncated files, absurd timestamps, memory.

16-bit samples in Matroska at 16 kHz come back exactly, in packets of 64 ms, which its millisecond clock represents exactly.
"""

import io
import re
import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

from tests.audio.muxing import mux
from tests.audio.tones import ENCODED, LEVEL, encode_by_av, tone
from zipasr.audio import SAMPLE_RATE_HZ, audio_duration_s, load_audio, read_blocks
from zipasr.audio.clock import Clock
from zipasr.audio.decoder import decoder_of
from zipasr.audio.samples import scaled
from zipasr.errors import AudioError

PACKET_S = 0.064
NOISE = (np.random.default_rng(0).integers(-8000, 8000, 60 * 1024) / 32768).astype(np.float32)
"""60 packets, 3.84 s."""
ONSET_S, BURST_RATE_HZ = 1.0, 48000
BURST = np.concatenate([np.zeros(48000, np.float32), tone(48000, 2.0)])
"""A tone at 48 kHz that starts after one second."""


def exact(*, container: str = "matroska", samples: np.ndarray = NOISE, **arguments: object) -> bytes:
    # Rounding to 16 bits again would move samples by one quantization step.
    return mux(container, "pcm_s16le", 16000, np.rint(samples * 32768) / 32767, **arguments)  # type: ignore[arg-type]


def silence(num_samples: int) -> np.ndarray:
    return np.zeros(num_samples, np.float32)


def joined(data: bytes, block_s: float = 0.7) -> np.ndarray:
    return np.concatenate([silence(0), *read_blocks(data, block_s=block_s)])


def onset_s(samples: np.ndarray) -> float:
    return float((np.abs(samples) > LEVEL / 2).argmax() / SAMPLE_RATE_HZ)


# Reference: the expected position of samples


def test_audio_that_starts_after_the_video() -> None:
    late = load_audio(exact(video_s=9.0, retime=lambda start_s: start_s + 4))
    np.testing.assert_array_equal(late, np.concatenate([silence(64000), NOISE]))
    np.testing.assert_array_equal(load_audio(exact(video_s=9.0)), NOISE)


def test_an_offset_of_all_streams_is_ignored() -> None:
    """The timeline starts where the container does."""
    np.testing.assert_array_equal(load_audio(exact(retime=lambda start_s: start_s + 5)), NOISE)


def test_a_gap() -> None:
    data = exact(retime=lambda start_s: start_s + (2 if start_s >= 10 * PACKET_S else 0))
    np.testing.assert_array_equal(load_audio(data), np.concatenate([NOISE[:10240], silence(32000), NOISE[10240:]]))


def test_lost_packets() -> None:
    data = exact(retime=lambda start_s: None if 0.6 < start_s < 1.2 else start_s)
    lost = NOISE.copy()
    lost[10 * 1024 : 19 * 1024] = 0
    np.testing.assert_array_equal(load_audio(data), lost)


def test_single_lost_packets_never_add_up() -> None:
    """Each loss is within the tolerance, and the total error never exceeds the tolerance either."""
    numbers = np.repeat(np.arange(1, 61), 1024) / 100
    kept = load_audio(exact(samples=numbers, retime=lambda start_s: None if round(start_s / PACKET_S) % 5 == 3 else start_s))
    assert abs(len(kept) - len(numbers)) <= 1600
    for number in (1, 12, 30, 41, 60):
        place = np.flatnonzero(np.isclose(kept, number / 100, atol=1e-4))
        assert abs(place[0] - 1024 * (number - 1)) <= 1600


def test_an_overlap_is_dropped() -> None:
    """The second half of a broadcast starts half a second before the first half ends."""
    bursts = np.concatenate([np.concatenate([silence(21600), tone(48000, 0.05)])] * 8)  # in every half second
    halves = [
        mux("mpegts", "mp2", 48000, bursts[: 2 * 48000]),
        mux("mpegts", "mp2", 48000, bursts[72000:], retime=lambda start_s: start_s + 1.5),
    ]
    samples = load_audio(b"".join(halves))
    assert abs(len(samples) / SAMPLE_RATE_HZ - 4) < 0.05
    loud = np.abs(samples).reshape(-1)[: 4 * SAMPLE_RATE_HZ]
    starts_s = (
        np.flatnonzero(np.diff(np.convolve(loud > LEVEL / 2, np.ones(160), "same") > 0, prepend=False)) / SAMPLE_RATE_HZ
    )
    np.testing.assert_allclose(starts_s[::2], np.arange(8) / 2 + 0.45, atol=0.04)
    np.testing.assert_array_equal(joined(b"".join(halves)), samples)


def test_late_and_early_packets_of_a_live_recorder_change_nothing() -> None:
    jitter = np.random.default_rng(1).uniform(0, 0.03, 100)
    data = exact(retime=lambda start_s: start_s + round(jitter[round(start_s / PACKET_S)], 3) * (start_s > 0))
    np.testing.assert_array_equal(load_audio(data), NOISE)


CONTAINERS = [
    ("matroska", "aac"),
    ("matroska", "libopus"),
    ("webm", "libopus"),
    ("mp4", "aac"),
    ("mp4", "libopus"),
    ("mov", "pcm_s16le"),
    ("mpegts", "aac"),
    ("mpeg", "mp2"),
]


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_offsets_and_gaps_in_every_container(container: str, codec: str) -> None:
    late = mux(container, codec, 48000, BURST, video_s=8.0, retime=lambda start_s: start_s + 4)
    assert onset_s(load_audio(late)) == pytest.approx(ONSET_S + 4, abs=0.03)
    gap = mux(container, codec, 48000, BURST, retime=lambda start_s: start_s + (2 if start_s > 0.5 else 0))
    samples = load_audio(gap)
    # In MOV, 16-bit samples follow each other sample by sample, and FFmpeg's muxer writes no gap.
    gap_s = 0 if container == "mov" else 2
    assert onset_s(samples) == pytest.approx(ONSET_S + gap_s, abs=0.03)
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(3 + gap_s, abs=0.06)
    np.testing.assert_array_equal(joined(gap), samples)


@pytest.mark.parametrize("late_s", [6, 20, 90])
@pytest.mark.parametrize(("container", "codec"), [*CONTAINERS, ("flv", "aac")])
def test_audio_that_starts_long_after_the_video(container: str, codec: str, late_s: int) -> None:
    """The audio starts after the first seconds, which FFmpeg searches for tracks and their start times."""
    rate_hz = 44100 if container == "flv" else 48000
    late = mux(container, codec, rate_hz, BURST, video_s=late_s + 4.0, retime=lambda start_s: start_s + late_s)
    samples = load_audio(late)
    assert onset_s(samples) == pytest.approx(BURST_RATE_HZ / rate_hz * ONSET_S + late_s, abs=0.03)
    np.testing.assert_array_equal(joined(late), samples)
    assert audio_duration_s(late) == pytest.approx(len(samples) / SAMPLE_RATE_HZ, abs=0.2)


def test_a_video_that_starts_long_after_the_audio() -> None:
    """FFmpeg finds the video while it reads the audio: the header of a live stream states only what it starts with."""
    data = bytearray(mux("flv", "aac", 44100, tone(44100, 60.0), video_s=2.0, video_start_s=50.0))
    assert data[4] == 5  # audio and video
    data[4] = 4
    samples = load_audio(bytes(data))
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(60, abs=0.1)
    np.testing.assert_array_equal(joined(bytes(data)), samples)


def test_a_second_track_that_starts_late_is_found() -> None:
    quiet = silence(10 * 48000)
    both = mux("mpegts", "mp2", 48000, tone(48000, 3.0), quiet, video_s=20.0)
    assert len(load_audio(both, audio_track=1)) == pytest.approx(10 * SAMPLE_RATE_HZ, abs=2000)


def test_a_damaged_page_of_ogg_is_a_gap() -> None:
    samples = np.concatenate([NOISE, tone(16000, 3.0)])
    data = encode_by_av("libopus", "ogg", 48000, np.repeat(samples, 3))
    damaged = bytearray(data)
    damaged[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
    whole, loaded = load_audio(data), load_audio(bytes(damaged))
    assert len(loaded) == len(whole)
    np.testing.assert_allclose(loaded[-16000:], whole[-16000:], atol=0.02)
    assert np.count_nonzero(loaded == 0) > 8000


# Reference: joined decoded frames, without gaps, offsets and damage


def frames_joined(data: bytes) -> np.ndarray:
    """The frames that the decoder gives, joined."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        decoder, rate_hz = decoder_of(stream), stream.rate
        decoded = (frame for packet in container.demux(stream) for frame in decoder.decode(packet))
        frames = [scaled(frame.to_ndarray()).reshape(-1) for frame in decoded]
    return load_audio(np.concatenate(frames), sample_rate_hz=rate_hz)


@pytest.mark.parametrize("kind", [kind for kind in ENCODED if kind != "mp3_with_junk"])
def test_encoder_delay_is_neither_silence_nor_an_offset(kind: str) -> None:
    data = ENCODED[kind]()
    np.testing.assert_array_equal(load_audio(data), frames_joined(data))


@pytest.mark.parametrize(
    ("container", "codec"),
    [("matroska", "libopus"), ("webm", "libopus"), ("mp4", "aac"), ("mp4", "libopus"), ("mpegts", "aac"), ("avi", "mp3")],
)
def test_encoder_delay_beside_a_video(container: str, codec: str) -> None:
    data = mux(container, codec, 48000, tone(48000), video_s=2.0)
    np.testing.assert_array_equal(load_audio(data), frames_joined(data))


@pytest.mark.parametrize(("container", "codec"), [("ogg", "libopus"), ("mpegts", "aac"), ("adts", "aac")])
def test_files_joined_by_their_bytes_are_both_read(container: str, codec: str) -> None:
    """The clock restarts with the second file, and both files are read."""
    first, second = (mux(container, codec, 48000, tone(48000, length_s)) for length_s in (1.5, 0.9))
    joined_s = len(load_audio(first + second)) / SAMPLE_RATE_HZ
    assert joined_s == pytest.approx((len(load_audio(first)) + len(load_audio(second))) / SAMPLE_RATE_HZ, abs=0.03)


def test_flac_in_ogg_joined_by_its_bytes_is_read_whole() -> None:
    """FFmpeg knows the time of each further file only from its second page, which is not at the start of the clock."""
    pieces = [NOISE[:54000], NOISE[:40000], NOISE]
    data = [mux("ogg", "flac", 16000, np.rint(piece * 32768) / 32767) for piece in pieces]
    samples = load_audio(b"".join(data))
    np.testing.assert_array_equal(samples, np.concatenate(pieces))
    np.testing.assert_array_equal(joined(b"".join(data)), samples)


@pytest.mark.parametrize("codec", ["flac", "libopus"])
def test_a_repeated_page_of_ogg_is_dropped(codec: str) -> None:
    data = mux("ogg", codec, 48000, tone(48000, 5.0))
    pages = [found.start() for found in re.finditer(b"OggS", data)]
    repeated = data[: pages[4]] + data[pages[3] :]
    assert len(load_audio(repeated)) == len(load_audio(data))


# Law: all ways of reading agree


@pytest.mark.parametrize("container", ["matroska", "mp4"])
@pytest.mark.parametrize("video_s", [None, 12.0])
def test_blocks_and_stated_lengths_agree_with_the_whole(container: str, video_s: float | None, tmp_path: Path) -> None:
    data = mux(container, "aac", 44100, tone(44100, 3.0), video_s=video_s, retime=lambda s: s + (6 if s > 1 else 3))
    whole = load_audio(data)
    assert len(whole) / SAMPLE_RATE_HZ == pytest.approx(6 if video_s is None else 9, abs=0.06)
    for block_s in (0.01, 0.7, 100.0):
        np.testing.assert_array_equal(joined(data, block_s), whole)
    np.testing.assert_array_equal(joined(data, 0.7), load_audio(io.BytesIO(data)))
    path = tmp_path / "a"
    path.write_bytes(data)
    assert audio_duration_s(path) == pytest.approx(len(whole) / SAMPLE_RATE_HZ, abs=0.06)


# Contract: completeness is judged by timestamps


@pytest.mark.parametrize("codec", ["aac", "alac", "pcm_s16le"])
def test_an_edit_list_that_delays_and_shortens_is_no_truncation(codec: str, tmp_path: Path) -> None:
    """A film cut in an editor: 1.5 of the 3 seconds of audio are used, and start 2 s after the video."""
    path = tmp_path / "a.mov"
    options = {"movflags": "faststart", "movie_timescale": "1000"}
    mux("mov", codec, 48000, BURST, video_s=8.0, retime=lambda start_s: start_s + 2, options=options, path=path)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"elst") + 24  # behind the name, version, number of entries, and the entry of the delay
    assert struct.unpack(">I", data[entry : entry + 4])[0] == pytest.approx(3000, abs=30)
    data[entry : entry + 4] = struct.pack(">I", 1500)
    path.write_bytes(data)
    samples = load_audio(path)
    assert onset_s(samples) == pytest.approx(ONSET_S + 2, abs=0.03)
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(1.5 + 2, abs=0.06)
    assert audio_duration_s(path) == pytest.approx(1.5 + 2, abs=0.1)
    mdat = data.index(b"mdat")
    with pytest.raises(AudioError, match=r"the file is truncated|damaged"):
        load_audio(bytes(data[: mdat + (len(data) - mdat) // 5]))


@pytest.mark.parametrize("container", ["matroska", "webm", "mp4"])
@pytest.mark.parametrize("video_s", [None, 5.0])
def test_a_cut_file_with_a_gap_is_noticed_and_an_intact_one_is_not(
    container: str, video_s: float | None, tmp_path: Path
) -> None:
    def retime(start_s: float) -> float:
        return start_s + (3 if start_s > 1 else 0)

    options, path = ({"movflags": "faststart"}, tmp_path / "a.mp4") if container == "mp4" else ({}, None)
    samples = tone(48000, 4.0)
    data = mux(container, "libopus", 48000, samples, video_s=video_s, retime=retime, options=options, path=path)
    assert len(load_audio(data)) / SAMPLE_RATE_HZ == pytest.approx(7, abs=0.05)
    with pytest.raises(AudioError, match=r"the file is truncated|damaged"):
        load_audio(data[: int(len(data) * 0.7)])


# Contract: absurd timestamps and memory


def test_timestamps_that_are_days_apart() -> None:
    data = exact(retime=lambda start_s: start_s + (5 * 86400 if start_s > 2 else 0))
    with pytest.raises(
        AudioError, match=r"the bytes must have at most 12 hours without audio, but has .* 120\.0 hours apart"
    ):
        load_audio(data)
    with pytest.raises(AudioError, match="hours apart"):
        list(read_blocks(data))


def test_many_gaps_do_not_make_an_endless_recording() -> None:
    clock = Clock(1000, "a.mkv", None)
    for hour in range(13):
        assert sum(map(len, clock.place(np.zeros((320, 1), np.float32), hour * 3600.0))) == (3600_000 if hour else 320)
    with pytest.raises(AudioError, match=r"a\.mkv must .*, but has timestamps 1\.0 hours apart at 43200\.32 s"):
        next(clock.place(np.zeros((320, 1), np.float32), 13 * 3600.0))


def test_a_long_gap_takes_no_memory() -> None:
    data = exact(retime=lambda start_s: start_s + (3600 if start_s > 2 else 0))
    tracemalloc.start()
    num_samples = sum(map(len, read_blocks(data)))
    mebibytes = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert num_samples == 3600 * SAMPLE_RATE_HZ + len(NOISE)
    assert mebibytes < 8  # the whole recording takes 220 MiB


# Contract: the clock alone


def placed(*frames: tuple[float | None, int], others_start_s: float | None = None, restarts: bool = False) -> list[int]:
    """The timeline of frames (timestamp, number of samples) at 1000 Hz: samples of frame n are n + 1, silence is 0."""
    clock = Clock(1000, "a", others_start_s)
    if restarts:
        clock.expect_restart()
    pieces = []
    for number, (start_s, num_samples) in enumerate(frames, start=1):
        pieces += list(clock.place(np.full((num_samples, 1), number, np.float32), start_s))
    line = [int(sample) for piece in pieces for sample in piece[:, 0]]
    assert clock.num_samples == len(line)
    return line


def test_the_clock() -> None:
    second = [1] * 1000
    assert placed((5.0, 1000), others_start_s=3.0) == [0] * 2000 + second
    assert placed((3.0, 1000), others_start_s=5.0) == second
    assert placed((0.0, 1000), (1.1, 500)) == second + [2] * 500
    assert placed((0.0, 1000), (1.101, 500)) == second + [0] * 101 + [2] * 500
    assert placed((0.0, 1000), (0.7, 500)) == second + [2] * 200
    assert placed((0.0, 1000), (0.7, 200), (0.9, 500)) == second + [3] * 400  # up to the end of the overlap, not to 0.1 s
    assert placed((0.0, 1000), (None, 500), (2.0, 100)) == second + [2] * 500 + [0] * 500 + [3] * 100
    assert placed((20.0, 1000), (21.0, 1000), (20.0, 500)) == second + [2] * 1000 + [3] * 500  # the clock is reset
    assert placed((20.0, 1000), (21.0, 1000), (3.0, 500)) == second + [2] * 1000 + [3] * 500
    frames = (0.0, 1000), (1.0, 1000), (0.7, 1500), (1.7, 1000)
    assert placed(*frames, restarts=True) == second + [2] * 1000 + [3] * 1500 + [4] * 500  # only one restart
    assert placed(*frames) == second + [2] * 1000 + [3] * 200 + [4] * 500
