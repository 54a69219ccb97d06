"""Filterbanks. Reference: lhotse, kaldi-native-fbank, and a slow float64 rewrite of each. Law: any split of the samples
gives the same frames. Golden: stored features. Contract: arguments.

`python tests/test_features.py` writes the golden file again, for an intended change of the features.
"""

import itertools
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.speech_like import speech_like
from zipasr.errors import ConfigError
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig

GOLDEN = Path(__file__).parent / "golden" / "fbank.safetensors"
LOG_EPSILON = math.log(2.0**-23)  # digital silence


def noise(num_samples: int, level: float, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def slow_fbank(samples: np.ndarray) -> np.ndarray:
    """The same features one frame at a time in float64, written from the formulas and not from any program."""
    num_frames = (len(samples) + 80) // 160
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85

    def mel(freq_hz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(freq_hz) / 700)

    edges = np.linspace(mel(20.0), mel(7600.0), 82)
    bins = mel(np.arange(257) * 31.25)
    weights = np.zeros((80, 257))
    for filter_index in range(80):
        left, center, right = edges[filter_index : filter_index + 3]
        rising, falling = (bins - left) / (center - left), (right - bins) / (right - center)
        weights[filter_index, :256] = np.maximum(0, np.minimum(rising, falling))[:256]
    features = np.zeros((num_frames, 80))
    for j in range(num_frames):
        frame = np.zeros(400)
        for k in range(400):
            at = 160 * j - 120 + k
            while not 0 <= at < len(samples):  # mirrored, including the edge sample
                at = -at - 1 if at < 0 else 2 * len(samples) - 1 - at
            frame[k] = samples[at]
        frame -= frame.mean()
        frame -= 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        features[j] = np.log(np.maximum(weights @ power, 1.1920929e-07))
    return features


WHISPER = FbankConfig(kind="whisper")


def whisper_filters(num_bins: int = 80) -> np.ndarray:
    """Mel filters (F, 201) of equal area on Slaney's scale, from 0 to 8000 Hz."""
    step = math.log(6.4) / 27.0  # Slaney: linear up to 1000 Hz, 15 mel, then 27 mel per factor of 6.4

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(step * (mel - 15.0)))

    edges = hertz(np.linspace(0.0, 15.0 + math.log(8.0) / step, num_bins + 2))
    bins = np.arange(201) * 40.0
    lower, center, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.maximum(0.0, np.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)))
    return weights * 2.0 / (upper - lower)


def slow_whisper_fbank(samples: np.ndarray, num_bins: int = 80) -> np.ndarray:
    """Whisper's filterbank, natural log, one frame at a time in float64."""
    weights = whisper_filters(num_bins)
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(400) / 400)
    period = max(1, 2 * (len(samples) - 1))
    features = np.zeros(((len(samples) + 80) // 160, num_bins))
    for j in range(len(features)):
        at = np.abs(np.arange(160 * j - 200, 160 * j + 200)) % period  # mirrored, without the edge sample
        frame = samples[np.minimum(at, period - at)]
        features[j] = np.log(np.maximum(weights @ np.abs(np.fft.rfft(frame * window)) ** 2, 1e-10))
    return features


SIGNALS = {
    "speech": speech_like(3.0),
    "loud noise": noise(30000, 0.3),
    "faint noise": noise(30001, 1e-4),
    "speech after silence": np.concatenate([np.zeros(5000, np.float32), speech_like(1.0), np.zeros(77, np.float32)]),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_lhotse(name: str) -> None:
    lhotse = pytest.importorskip("lhotse", exc_type=ImportError)
    logging.getLogger("lhotse").setLevel(logging.ERROR)
    expected = lhotse.Fbank(lhotse.FbankConfig(sampling_rate=16000, num_mel_bins=80)).extract(SIGNALS[name], 16000)
    difference = np.abs(Fbank()(SIGNALS[name]).numpy() - np.asarray(expected))
    assert difference.max() < 5e-3
    assert difference.mean() < 1e-4


def kaldi_native_fbank(samples: np.ndarray) -> np.ndarray:
    """The filterbank of sherpa-onnx."""
    import kaldi_native_fbank as kaldi

    options = kaldi.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0.0, False
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 80, 20.0, -400.0
    options.energy_floor = 1e-10
    extractor = kaldi.OnlineFbank(options)
    extractor.accept_waveform(16000, samples.tolist())
    extractor.input_finished()
    return np.stack([extractor.get_frame(index) for index in range(extractor.num_frames_ready)])


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_kaldi_native_fbank(name: str) -> None:
    """Largest difference seen: 1.2e-4 on noise; 9e-4 on speech, in faint bins next to loud ones."""
    difference = np.abs(Fbank()(SIGNALS[name]).numpy() - kaldi_native_fbank(SIGNALS[name]))
    assert difference.max() < 5e-3
    assert difference.mean() < 2e-5


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_the_slow_rewrite(name: str) -> None:
    """Largest error seen: 1.2e-4 on noise; 7e-4 on speech, in faint bins next to loud ones (float32 cancellation)."""
    difference = np.abs(Fbank()(SIGNALS[name]).numpy() - slow_fbank(SIGNALS[name]))
    assert difference.max() < 5e-3
    assert difference.mean() < 2e-5


@pytest.mark.parametrize("num_samples", [80, 81, 119, 120, 200, 239, 240, 400, 1000])
def test_very_short_signals_equal_the_slow_rewrite(num_samples: int) -> None:
    samples = noise(num_samples, 0.1)
    features = Fbank()(samples)
    assert features.shape == (Fbank().num_frames(num_samples), 80)
    np.testing.assert_allclose(features.numpy(), slow_fbank(samples), atol=1e-3)


@pytest.mark.parametrize("num_samples", [0, 1, 79])
def test_too_short_for_a_frame(num_samples: int) -> None:
    features = Fbank()(noise(num_samples, 0.1))
    assert features.shape == (0, 80)
    assert features.dtype == torch.float32


def test_golden() -> None:
    golden = load_file(GOLDEN)
    torch.testing.assert_close(Fbank()(golden["samples"]), golden["features"], atol=1e-3, rtol=0)


def test_silence_and_padding() -> None:
    silence = Fbank()(np.zeros(1600, np.float32))
    torch.testing.assert_close(silence, torch.full((10, 80), LOG_EPSILON))
    assert math.log(1e-10) == PADDING_VALUE


@pytest.mark.parametrize("config", [FbankConfig(), WHISPER], ids=lambda config: config.kind)
@settings(max_examples=60, deadline=None)
@given(num_samples=st.integers(0, 40000), cuts=st.lists(st.integers(0, 40000), max_size=12), seed=st.integers(0, 9))
@example(num_samples=700, cuts=[1, 239, 240, 241, 242, 500, 699], seed=0)
def test_any_split_gives_the_same_frames(config: FbankConfig, num_samples: int, cuts: list[int], seed: int) -> None:
    samples, fbank = noise(num_samples, 0.1, seed), Fbank(config)
    stream = fbank.stream()
    edges = [0, *sorted(min(cut, num_samples) for cut in cuts), num_samples]
    pieces = [stream.accept(samples[start:end]) for start, end in itertools.pairwise(edges)]
    streamed = torch.cat([*pieces, stream.finish()])
    assert torch.equal(streamed, fbank(samples))
    assert len(streamed) == fbank.num_frames(num_samples)


@pytest.mark.parametrize("name", SIGNALS)
def test_whisper_equals_the_slow_rewrite(name: str) -> None:
    samples = SIGNALS[name]
    features = Fbank(WHISPER)(samples)
    np.testing.assert_allclose(features.numpy(), slow_whisper_fbank(samples), atol=5e-3)
    wide = Fbank(FbankConfig(kind="whisper", num_mel_bins=128))(samples)
    np.testing.assert_allclose(wide.numpy(), slow_whisper_fbank(samples, 128), atol=5e-3)


@pytest.mark.parametrize("num_samples", [80, 160, 200, 201, 239, 240, 241, 400, 16_079, 16_080])
def test_very_short_signals_equal_the_slow_rewrite_of_whisper(num_samples: int) -> None:
    samples = noise(num_samples, 0.1)
    features = Fbank(WHISPER)(samples)
    np.testing.assert_allclose(features.numpy(), slow_whisper_fbank(samples), atol=1e-3)


def test_whisper_equals_lhotse_after_normalization() -> None:
    """lhotse takes the mel filters from librosa, which is not installed; here it gets those of the slow rewrite."""
    whisper = pytest.importorskip("lhotse.features.whisper_fbank")
    samples = speech_like(2.0)
    filters = torch.from_numpy(whisper_filters()).float()
    expected = whisper.log_mel_spectrogram(samples, filters, window=torch.hann_window(400))
    fbank = Fbank(WHISPER)
    torch.testing.assert_close(fbank.normalized(fbank(samples)), expected, atol=1e-3, rtol=0)


def test_normalization_is_that_of_the_window() -> None:
    frames = torch.log(torch.tensor([[1.0, 10.0], [1e-10, 1000.0]]))
    fbank = Fbank(WHISPER)
    torch.testing.assert_close(fbank.normalized(frames), torch.tensor([[1.0, 1.25], [-0.25, 1.75]]))
    torch.testing.assert_close(fbank.normalized(frames[:1]), torch.tensor([[1.0, 1.25]]))
    assert fbank.normalized(frames[:0]).shape == (0, 2)
    assert Fbank().normalized(frames) is frames


@pytest.mark.parametrize("num_samples_each", [1, 7, 160, 161, 400, 1600])
def test_small_pieces_give_the_same_frames_and_in_time(num_samples_each: int) -> None:
    samples = speech_like(0.3)
    stream = Fbank().stream()
    frames = []
    num_given = num_out = 0
    for start in range(0, len(samples), num_samples_each):
        piece = samples[start : start + num_samples_each]
        frames.append(stream.accept(piece))
        num_given += len(piece)
        num_out += len(frames[-1])
        assert num_out == max(0, (num_given - 280) // 160 + 1)
    assert torch.equal(torch.cat([*frames, stream.finish()]), Fbank()(samples))


@pytest.mark.parametrize("config", [FbankConfig(), WHISPER], ids=lambda config: config.kind)
def test_autocast_rounds_nothing(config: FbankConfig) -> None:
    samples = speech_like(0.5)
    with torch.autocast("cpu"):
        features = Fbank(config)(samples)
    assert torch.equal(features, Fbank(config)(samples))


def test_frames_already_given_out_do_not_change() -> None:
    stream = Fbank().stream()
    first = stream.accept(noise(16000, 0.1))
    before = first.clone()
    for seed in range(20):
        stream.accept(noise(16000, 0.1, seed))
    assert torch.equal(first, before)


def test_tensors_and_float64_are_taken() -> None:
    samples = speech_like(0.5)
    expected = Fbank()(samples)
    assert torch.equal(Fbank()(torch.from_numpy(samples)), expected)
    assert torch.equal(Fbank()(samples.astype(np.float64)), expected)
    assert torch.equal(Fbank()(np.repeat(samples, 2)[::2]), expected)  # not contiguous
    assert expected.dtype == torch.float32
    assert expected.is_contiguous()


@pytest.mark.parametrize("samples", [np.zeros((1, 1600), np.float32), np.zeros(1600, np.int16), np.float32(1)])
def test_wrong_samples_raise(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"samples must be \(samples,\) of floats.*load_audio"):
        Fbank()(samples)


def test_a_finished_stream_raises() -> None:
    stream = Fbank().stream()
    stream.finish()
    with pytest.raises(RuntimeError, match="finished"):
        stream.accept(np.zeros(1600, np.float32))
    with pytest.raises(RuntimeError, match="finished"):
        stream.finish()


def test_config_changes_the_filters() -> None:
    samples = speech_like(0.5)
    assert Fbank(FbankConfig(num_mel_bins=40))(samples).shape == (50, 40)
    assert Fbank(FbankConfig(num_mel_bins=124))(samples).shape == (50, 124)
    narrow = Fbank(FbankConfig(low_freq_hz=100.0, high_freq_hz=4000.0, num_mel_bins=40))(samples)
    assert narrow.isfinite().all()
    assert torch.equal(Fbank(FbankConfig(high_freq_hz=7600.0))(samples), Fbank()(samples))


@pytest.mark.parametrize(
    "values",
    [
        {"num_mel_bins": 0},
        {"num_mel_bins": 128},
        {"num_mel_bins": 80, "high_freq_hz": 300.0},
        {"high_freq_hz": 9000.0},
        {"low_freq_hz": -1.0},
        {"low_freq_hz": 7600.0},
        {"high_freq_hz": -8000.0},
        {"kind": "mfcc"},
        {"kind": "whisper", "num_mel_bins": 100},
        {"kind": "whisper", "low_freq_hz": 0.0},
        {"kind": "whisper", "high_freq_hz": 8000.0},
    ],
)
def test_impossible_configs(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r" must .*, but "):
        FbankConfig(**values)


if __name__ == "__main__":
    signal = torch.from_numpy(speech_like(1.0, seed=7))
    save_file({"samples": signal, "features": Fbank()(signal)}, GOLDEN)
