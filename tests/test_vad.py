"""Finding speech. Law: blocks change nothing, and all speech is in a piece. Reference: the package's own model. Contract:
settings and errors."""

import importlib.util
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.errors import ConfigError
from zipasr.vad import WINDOW_SAMPLES, DetectorState, Piece, SpeechDetector, VadConfig, split_recording

WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE_HZ


class LoudIsSpeech:
    """A detector with known results: the probability is the level of the window's first sample."""

    def probabilities(self, samples: np.ndarray, state: DetectorState | None) -> tuple[np.ndarray, DetectorState]:
        assert samples.size % WINDOW_SAMPLES == 0
        nothing = np.zeros(0)
        return np.abs(samples[::WINDOW_SAMPLES]), DetectorState(nothing, nothing, nothing)


def recording(*stretches: tuple[float, float]) -> np.ndarray:
    """Samples from (seconds, level) of each stretch, in whole windows."""
    return np.concatenate([np.full(round(s / WINDOW_S) * WINDOW_SAMPLES, level, np.float32) for s, level in stretches])


def vowel(duration_s: float = 0.6) -> np.ndarray:
    """The vowel of "see" with a gliding pitch, enough like speech for the detector."""
    times_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch_hz = 140 * (1 + 0.1 * np.sin(4 * np.pi * times_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    wave = np.zeros(times_s.size)
    for harmonic in range(1, 40):
        hz = harmonic * pitch_hz
        gain = sum(1 / (1 + ((hz - formant) / width) ** 2) for formant, width in ((300, 60), (2200, 100), (3000, 150)))
        wave += gain / harmonic**0.5 * np.sin(harmonic * phase)
    fade = np.clip(np.minimum(times_s, duration_s - times_s) / 0.05, 0, 1)
    return (0.2 * wave * fade / np.abs(wave).max()).astype(np.float32)


def places(pieces: Iterator[Piece]) -> list[tuple[float, float, float]]:
    """Start, end and overlap of pieces in seconds."""
    found = [(piece.start_s, piece.start_s + piece.duration_s, piece.overlap_s) for piece in pieces]
    return [(round(start, 6), round(end, 6), round(overlap, 6)) for start, end, overlap in found]


# Law: all kinds of recordings


@st.composite
def recordings(draw: st.DrawFn) -> np.ndarray:
    levels = st.sampled_from([0.0, 0.1, 0.4, 0.6, 1.0])
    stretches = draw(st.lists(st.tuples(st.floats(0.032, 12), levels), max_size=8))
    tail = draw(st.integers(0, WINDOW_SAMPLES - 1))
    samples = np.concatenate([recording(*stretches, (0, 0)), np.full(tail, draw(levels), np.float32)])
    noise = np.random.default_rng(draw(st.integers(0, 99))).uniform(0.9, 1.0, samples.size)
    noise[::WINDOW_SAMPLES] = 1
    return (samples * noise).astype(np.float32)


@settings(max_examples=200)
@given(
    samples=recordings(),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    has_detector=st.booleans(),
    max_piece_s=st.sampled_from([9.0, 10.0, 25.0]),
    overlap_s=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_pieces_hold_all_speech_whatever_the_blocks(
    samples: np.ndarray, cuts: list[float], has_detector: bool, max_piece_s: float, overlap_s: float
) -> None:
    blocks = np.split(samples, sorted(int(cut * samples.size) for cut in cuts))
    arguments = {"max_piece_s": max_piece_s, "overlap_s": overlap_s, "detector": LoudIsSpeech() if has_detector else None}
    pieces = list(split_recording(iter(blocks), **arguments))
    assert places(split_recording([samples], **arguments)) == places(pieces)
    is_covered = np.zeros(samples.size, bool)
    end = 0
    for piece in pieces:
        stop = piece.start_samples + len(piece.samples)
        np.testing.assert_array_equal(piece.samples, samples[piece.start_samples : stop])
        assert 0 < len(piece.samples) <= max_piece_s * SAMPLE_RATE_HZ
        assert 0 <= piece.overlap_samples <= overlap_s * SAMPLE_RATE_HZ
        assert piece.start_samples + piece.overlap_samples == end if piece.overlap_samples else piece.start_samples >= end
        assert stop > end
        end = stop
        is_covered[piece.start_samples : stop] = True
    is_speech = np.repeat(np.abs(samples[::WINDOW_SAMPLES]) >= 0.5, WINDOW_SAMPLES)[: samples.size]
    assert is_covered[is_speech if has_detector else slice(None)].all()


@given(st.integers(1, 40_000), st.lists(st.floats(0, 1), max_size=5))
def test_the_detector_continues_from_its_state(num_samples: int, cuts: list[float]) -> None:
    samples = np.concatenate([vowel(), np.zeros(8000, np.float32), vowel(1.5)])
    samples = samples[: num_samples // WINDOW_SAMPLES * WINDOW_SAMPLES]
    whole, _ = DETECTOR.probabilities(samples)
    state, parts = None, []
    for part in np.split(samples.reshape(-1, WINDOW_SAMPLES), sorted(int(c * samples.size) // WINDOW_SAMPLES for c in cuts)):
        probs, state = DETECTOR.probabilities(part.reshape(-1), state)
        parts.append(probs)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


DETECTOR = SpeechDetector()


# Reference: where speech is


def test_the_detector_detects_only_speech() -> None:
    silence = np.zeros(16384, np.float32)
    noise = (np.random.default_rng(0).standard_normal(16384) * 0.01).astype(np.float32)
    probs, _ = DETECTOR.probabilities(np.concatenate([silence, vowel()[: 18 * WINDOW_SAMPLES], silence, noise]))
    assert np.mean(probs[32:50] > 0.5) > 0.8
    assert probs[:32].max() < 0.2
    assert probs[55:].max() < 0.2


def test_probabilities_equal_the_model_for_one_window_a_call() -> None:
    folder = Path(importlib.util.find_spec("silero_vad").submodule_search_locations[0])
    session = onnxruntime.InferenceSession(str(folder / "data" / "silero_vad.onnx"), providers=["CPUExecutionProvider"])
    samples = np.concatenate([vowel(), np.zeros(3000, np.float32), vowel(1.0)])[: 50 * WINDOW_SAMPLES]
    state, context, expected = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for window in samples.reshape(-1, WINDOW_SAMPLES):
        frame = np.concatenate([context, window])[None]
        prob, state = session.run(None, {"input": frame, "state": state, "sr": np.array(16000)})
        context = window[-64:]
        expected.append(prob.item())
    np.testing.assert_allclose(DETECTOR.probabilities(samples)[0], expected, atol=1e-6)


def test_pieces_of_a_real_detector_hold_the_voices_with_their_edges() -> None:
    pause = np.zeros(3 * SAMPLE_RATE_HZ, np.float32)
    samples = np.concatenate([pause, vowel(), pause, vowel(), pause[:8000], vowel(), pause])
    (start, end, _), (later_start, later_end, _) = places(split_recording([samples], detector=DETECTOR))
    assert 2.6 < start < 3.0
    assert 3.6 < end < 4.1
    assert 6.2 < later_start < 6.6
    assert 8.3 < later_end < 8.8


# Reference: pieces by hand


def test_short_pauses_stay_and_long_ones_go() -> None:
    samples = recording((1.28, 0), (2.56, 1), (1.28, 0), (0.64, 1), (3.2, 0), (0.96, 1), (0.32, 0))
    assert places(split_recording([samples], detector=LoudIsSpeech())) == [(1.03, 6.01, 0), (8.71, 10.17, 0)]


def test_a_pause_shorter_than_a_plosive_is_speech() -> None:
    config = VadConfig(max_gap_s=0.6)
    samples = recording((5.12, 1), (0.16, 0), (5.12, 1), (0.64, 0), (1.6, 1))
    assert places(split_recording([samples], detector=LoudIsSpeech(), config=config)) == [(0, 10.65, 0), (10.79, 12.64, 0)]


def test_a_full_piece_ends_in_the_longest_pause_of_its_second_half() -> None:
    samples = recording((2.56, 1), (1.6, 0), (2.56, 1), (0.96, 0), (0.96, 1), (0.32, 0), (6.4, 1))
    pieces = places(split_recording([samples], detector=LoudIsSpeech(), max_piece_s=12, overlap_s=2))
    assert pieces == [(0, 6.97, 0), (7.43, 15.36, 0)]


def test_in_a_short_pause_both_sides_get_half() -> None:
    samples = recording((9.6, 1), (0.32, 0), (9.6, 1))
    assert places(split_recording([samples], detector=LoudIsSpeech(), max_piece_s=12, overlap_s=2)) == [
        (0, 9.76, 0),
        (9.76, 19.52, 0),
    ]


@pytest.mark.parametrize("detector", [None, LoudIsSpeech()])
def test_speech_without_a_pause_is_cut_where_it_is_quietest(detector: LoudIsSpeech | None) -> None:
    samples = recording((10.24, 1), (0.16, 0.5), (9.6, 1))
    ((_, end, _), (start, _, overlap), *_) = places(
        split_recording([samples], detector=detector, max_piece_s=12, overlap_s=2, config=VadConfig(onset=0.4))
    )
    assert 10.24 < end < 10.4
    assert 1 <= overlap <= 2
    assert start == pytest.approx(end - overlap)


def test_without_a_detector_everything_is_in_a_piece() -> None:
    samples = np.zeros(50 * SAMPLE_RATE_HZ, np.float32)
    pieces = places(split_recording([samples]))
    assert pieces[0][0] == 0
    assert pieces[-1][1] == 50
    assert all(overlap >= 2 for _, _, overlap in pieces[1:])


@pytest.mark.parametrize("detector", [None, LoudIsSpeech(), DETECTOR])
def test_recordings_without_samples_and_very_short_ones(detector: LoudIsSpeech | SpeechDetector | None) -> None:
    nothing = np.zeros(0, np.float32)
    for blocks in ([], [nothing], [nothing, nothing]):
        assert list(split_recording(blocks, detector=detector)) == []
    short = places(split_recording([np.ones(160, np.float32)], detector=detector))
    assert short == ([] if detector is DETECTOR else [(0, 0.01, 0)])
    silence = places(split_recording([np.zeros(100_000, np.float32)], detector=detector))
    assert silence == ([(0, 6.25, 0)] if detector is None else [])


# Contract


def test_memory_does_not_grow_with_the_recording() -> None:
    block = recording((2, 1), (0.8, 0), (1.6, 1), (0.8, 0), (4.8, 1))
    mebibytes = []
    for num_blocks in (20, 200):
        tracemalloc.start()
        num_pieces = sum(1 for _ in split_recording((block.copy() for _ in range(num_blocks)), detector=LoudIsSpeech()))
        mebibytes.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
        assert num_pieces > num_blocks // 4
    assert mebibytes[1] < 1.2 * mebibytes[0]
    assert mebibytes[1] < 16


def test_pieces_are_returned_as_soon_as_they_end() -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield recording((3.2, 1), (3.2, 0))
        raise AssertionError("asked for more")

    assert next(split_recording(blocks(), detector=LoudIsSpeech())).duration_s == pytest.approx(3.45)


@pytest.mark.parametrize("package", ["onnxruntime", "silero_vad"])
def test_a_missing_package_names_the_cure(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None if package == "onnxruntime" else sys.modules["onnxruntime"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'pip install "zipasr\[vad\]"'):
        SpeechDetector()


def test_wrong_arguments() -> None:
    for arguments in ({"max_piece_s": 5}, {"max_piece_s": float("nan")}, {"overlap_s": 15}):
        with pytest.raises(ValueError, match="max_piece_s must be"):
            split_recording([], **arguments)
    with pytest.raises(ValueError, match="overlap_s must be 0 or more, but is -1"):
        split_recording([], overlap_s=-1)
    with pytest.raises(ValueError, match="multiple of 512"):
        DETECTOR.probabilities(np.zeros(100, np.float32))
    for arguments in ({"onset": 0.1}, {"offset": 0}, {"min_pause_s": 0}, {"max_gap_s": 0.4}, {"padding_s": -1}):
        with pytest.raises(ConfigError, match="must be"):
            VadConfig(**arguments)


@pytest.mark.network
def test_no_edge_of_a_word_is_lost_in_real_speech(prompts_dir: Path) -> None:
    """In prompts joined with silence, all audio within 35 dB of the loud parts is in a piece, most silence in none."""
    parts, is_loud = [], []
    for i, path in enumerate(sorted((prompts_dir / "audio").glob("*.flac"))[:60]):
        samples = load_audio(path)
        samples = samples[: samples.size // 160 * 160]
        levels = 10 * np.log10(np.mean(samples.reshape(-1, 160) ** 2, axis=1) + 1e-12)
        silence = np.zeros((40 + 7 * (i % 10)) * 1600, np.float32)
        parts += [silence, samples]
        is_loud += [np.zeros(silence.size, bool), np.repeat(levels > np.percentile(levels, 95) - 35, 160)]
    whole = np.concatenate(parts)
    is_covered = np.zeros(whole.size, bool)
    for piece in split_recording([whole], detector=DETECTOR):
        is_covered[piece.start_samples : piece.start_samples + len(piece.samples)] = True
    is_loud_somewhere = np.concatenate(is_loud)
    assert is_covered[is_loud_somewhere].all()
    assert is_covered.mean() < is_loud_somewhere.mean() + 0.2
