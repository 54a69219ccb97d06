"""Log-mel filterbanks: (samples,) float32 at 16 kHz -> (T, F) float32 at 100 Hz, in one call or chunk by chunk.

Both kinds have frames of 25 ms every 10 ms, natural log, no dither.

`kaldi`: the signal mirrored at both ends, DC removed, pre-emphasis 0.97, Povey window, 512-point power spectrum, triangular
mel filters. Frame j covers samples 160 j - 120 to 160 j + 280.

`whisper`: the signal mirrored at both ends without the edge sample, Hann window, 400-point power spectrum, mel filters of
equal area on Slaney's scale. Frame j is centered on sample 160 j, as in training (sherpa-onnx: on 160 j + 80). A model takes
`normalized` frames.

Both ways compute blocks of the same size, so they give the same bits.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import ConfigError

PADDING_VALUE = -23.025850929940457
"""log(1e-10): padding value of feature batches, as in training and decoding of the published models; also the floor of
Whisper's filterbank."""
FeatureKind = Literal["kaldi", "whisper"]
"""Kinds of filterbank."""

_FRAME_SAMPLES, _FRAME_SHIFT_SAMPLES = 400, 160
_FFT_SAMPLES = 512
_PREEMPHASIS = 0.97
_LEAST_ENERGY = 2.0**-23
"""Floor of the energies of Kaldi's filterbank, float32 epsilon."""

_BLOCK_FRAMES = 64
"""Frames that are computed at once; fewer are filled up, since a product of another size may round differently."""
_BLOCK_SAMPLES = _BLOCK_FRAMES * _FRAME_SHIFT_SAMPLES

_WHISPER_BINS = (80, 128)
_WHISPER_RANGE = 8.0
"""Range of normalized frames in powers of ten, below the maximum."""
_SLANEY_KNEE = 15.0
"""Mel of 1 kHz on Slaney's scale, below which it is linear."""


@dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """Feature configuration: the mel filters. The defaults are those of nearly all published Zipformers."""

    kind: FeatureKind = "kaldi"
    """Kaldi's filterbank or Whisper's, whose filters are fixed: 80 or 128 from 0 to 8000 Hz. Whisper's frames are normalized
    by the maximum of the recording, or of the window of a stream; a few published Mandarin models take them."""
    num_mel_bins: int = 80
    """Number of triangular mel filters F."""
    low_freq_hz: float = 20.0
    """Lower edge of the first filter of Kaldi's filterbank."""
    high_freq_hz: float = -400.0
    """Upper edge of the last filter of Kaldi's filterbank; zero or less counts down from the Nyquist frequency, 8000 Hz."""

    def __post_init__(self) -> None:
        if self.kind == "whisper":
            self._check_whisper()
        elif self.kind == "kaldi":
            self._check_kaldi()
        else:
            raise ConfigError(f"the kind of features must be kaldi or whisper, but is {self.kind!r}")

    def _check_whisper(self) -> None:
        if self.num_mel_bins not in _WHISPER_BINS:
            raise ConfigError(f"num_mel_bins must be 80 or 128 with Whisper's filterbank, but is {self.num_mel_bins}")
        for name in ("low_freq_hz", "high_freq_hz"):
            if getattr(self, name) != getattr(FbankConfig, name):  # the default
                raise ConfigError(f"{name} must be left out with Whisper's filterbank, but is {getattr(self, name):g}")

    @property
    def top_hz(self) -> float:
        """Upper edge of the last filter of Kaldi's filterbank."""
        return self.high_freq_hz if self.high_freq_hz > 0 else SAMPLE_RATE_HZ / 2 + self.high_freq_hz

    def _check_kaldi(self) -> None:
        nyquist_hz, top_hz = SAMPLE_RATE_HZ / 2, self.top_hz
        if not 0 <= self.low_freq_hz < top_hz <= nyquist_hz:
            raise ConfigError(
                f"low_freq_hz and high_freq_hz must be 0 <= low < high <= {nyquist_hz:g} Hz (a high one of zero or less "
                f"counts down from there), but are {self.low_freq_hz:g} and {self.high_freq_hz:g}"
            )
        if self.num_mel_bins < 3:
            raise ConfigError(f"num_mel_bins must be at least 3, but is {self.num_mel_bins}")
        edges_mel = _kaldi_edges_mel(self)
        bins_mel = _mel(_bins_hz(_FFT_SAMPLES)[:-1])
        first_inside = np.searchsorted(bins_mel, edges_mel[:-2], side="right")
        first_beyond = np.searchsorted(bins_mel, edges_mel[2:], side="left")
        if (first_inside >= first_beyond).any():
            raise ConfigError(
                f"mel filters must be wide enough to hold an FFT bin each (every {SAMPLE_RATE_HZ / _FFT_SAMPLES} Hz), but "
                f"there are {self.num_mel_bins} between {self.low_freq_hz:g} and {top_hz:g} Hz; use fewer"
            )


class Fbank:
    """Filterbank features of whole recordings, or of a stream whose audio is still arriving."""

    def __init__(self, config: FbankConfig | None = None) -> None:
        self.config = config or FbankConfig()

    def __call__(self, samples: np.ndarray | Tensor) -> Tensor:
        """Return all frames of a recording.

        Args:
            samples: (samples,) floats at 16 kHz in about [-1, 1].
        Returns:
            (T, F) float32 at 100 Hz, T = num_frames(samples); digital silence gives -15.9424 = log(float32 epsilon), or
            `PADDING_VALUE` with Whisper's filterbank.
        Raises:
            ValueError: not (samples,) of floats.
        """
        stream = self.stream()
        return torch.cat([stream.accept(samples), stream.finish()])

    def normalized(self, frames: Tensor) -> Tensor:
        """Return frames as the model takes them: those of Kaldi's filterbank unchanged, Whisper's in log10, at most
        8 below their maximum, as (x + 4) / 4.

        Args:
            frames: (t, F) that the encoder sees at once, without padding: a recording, or a window of a stream.
        Source: Radford et al. 2022, arXiv:2212.04356, as in the published implementation.
        """
        if self.config.kind == "kaldi" or not len(frames):
            return frames
        log10 = frames / math.log(10.0)
        return (log10.clamp(min=float(log10.max()) - _WHISPER_RANGE) + 4.0) / 4.0

    @property
    def is_windowed(self) -> bool:
        """Whether `normalized` depends on the window, so that a stream has other features than the whole recording."""
        return self.config.kind == "whisper"

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames T at 100 Hz of `num_samples` samples at 16 kHz."""
        return _num_frames(num_samples)

    def stream(self) -> "FbankStream":
        """A new stream for a recording that arrives in pieces."""
        return FbankStream(self.config)


class FbankStream:
    """Filterbank of one recording in pieces: for any split, the concatenated frames are bit-identical to one call.

    A frame is returned as soon as its samples are there: 280 samples (17.5 ms) after its time (201 with Whisper's
    filterbank), or at the end.
    """

    def __init__(self, config: FbankConfig) -> None:
        self._analysis = _analysis(config)
        self._samples = np.zeros(0, np.float32)
        """Those that the next frames need, mirrored ones before the start included."""
        self._start = 0
        """The place of the first of them in the recording."""
        self._num_samples = 0
        """Of the recording so far."""
        self._num_frames = 0
        """Frames that were returned."""
        self._is_finished = False

    def accept(self, samples: np.ndarray | Tensor) -> Tensor:
        """Add samples and return the frames that they complete.

        Args:
            samples: (samples,) floats at 16 kHz in about [-1, 1]; any number, including 0.
        Returns:
            (t, F) float32 at 100 Hz, t from 0.
        Raises:
            ValueError: not (samples,) of floats.
            RuntimeError: the stream is finished.
        """
        self._check_open()
        values = np.asarray(samples)
        if values.ndim != 1 or values.dtype.kind != "f":
            raise ValueError(
                f"samples must be (samples,) of floats in about [-1, 1], but have shape {values.shape} of {values.dtype}; "
                "zipasr.audio.load_audio makes them from any recording or array"
            )
        starts = range(0, max(1, len(values)), _BLOCK_SAMPLES)
        blocks = [self._accept_block(values[start : start + _BLOCK_SAMPLES]) for start in starts]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def _accept_block(self, values: np.ndarray) -> Tensor:
        self._samples = np.concatenate([self._samples, values], dtype=np.float32, casting="same_kind")
        self._num_samples += len(values)
        num_complete = (self._num_samples - self._analysis.num_ahead) // _FRAME_SHIFT_SAMPLES + 1
        return self._next_frames(max(0, num_complete - self._num_frames))

    def finish(self) -> Tensor:
        """End the recording and return its last frames, (t, F) float32 at 100 Hz.

        Raises:
            RuntimeError: the stream is finished already.
        """
        self._check_open()
        self._is_finished = True
        return self._next_frames(_num_frames(self._num_samples) - self._num_frames)

    def _check_open(self) -> None:
        if self._is_finished:
            raise RuntimeError("a stream must still be open, but this one is finished; start another with Fbank.stream()")

    def _next_frames(self, num_frames: int) -> Tensor:
        """Features (t, F) of the next t frames, of which there are at most a block."""
        if num_frames <= 0:
            return torch.zeros(0, self._analysis.filters.shape[1])
        first = self._num_frames * _FRAME_SHIFT_SAMPLES - self._analysis.num_before
        stop = first + (num_frames - 1) * _FRAME_SHIFT_SAMPLES + _FRAME_SAMPLES
        if first < self._start or stop > self._num_samples:
            before = self._mirrored(np.arange(first, self._start))
            after = self._mirrored(np.arange(self._num_samples, stop))
            self._samples, self._start = np.concatenate([before, self._samples, after]), first
        features = self._analysis(self._samples, num_frames)
        num_done = num_frames * _FRAME_SHIFT_SAMPLES
        self._samples, self._start = self._samples[num_done:].copy(), self._start + num_done
        self._num_frames += num_frames
        return features

    def _mirrored(self, places: np.ndarray) -> np.ndarray:
        """The samples at places before the start or after the end of the recording, which is mirrored there."""
        num_samples, repeats_edge = self._num_samples, self._analysis.repeats_edge
        period = 2 * num_samples - (0 if repeats_edge else 2)
        places = places % period
        mirrored = np.minimum(places, period - places - (1 if repeats_edge else 0))
        return self._samples[mirrored - self._start]


class _Analysis:
    """Log mel energies of frames of samples, as a feature configuration has them."""

    def __init__(self, config: FbankConfig) -> None:
        angles = 2.0 * np.pi * np.arange(_FRAME_SAMPLES)
        self.is_kaldi = self.repeats_edge = config.kind == "kaldi"
        if self.is_kaldi:
            self.num_before, self.num_ahead = 120, 280
            self.fft_samples, self.least_energy = _FFT_SAMPLES, _LEAST_ENERGY
            window, filters = (0.5 - 0.5 * np.cos(angles / (_FRAME_SAMPLES - 1))) ** 0.85, _kaldi_filters(config)
        else:
            self.num_before, self.num_ahead = 200, 201  # the first frame is mirrored around its center
            self.fft_samples, self.least_energy = _FRAME_SAMPLES, 1e-10
            window, filters = 0.5 - 0.5 * np.cos(angles / _FRAME_SAMPLES), _whisper_filters(config.num_mel_bins)
        self.window = torch.from_numpy(window).float()
        self.filters = torch.from_numpy(filters).float()
        """(bins, F)."""

    def __call__(self, samples: np.ndarray, num_frames: int) -> Tensor:
        """Features (t, F) of the first t frames of (samples,), of which there are at most a block."""
        frames = torch.zeros(_BLOCK_FRAMES, _FRAME_SAMPLES)
        frames[:num_frames] = torch.from_numpy(samples).unfold(0, _FRAME_SAMPLES, _FRAME_SHIFT_SAMPLES)[:num_frames]
        if self.is_kaldi:
            frames -= frames.mean(1, keepdim=True)
        windowed = frames * self.window
        if self.is_kaldi:
            windowed[:, 1:].addcmul_(frames[:, :-1], self.window[1:], value=-_PREEMPHASIS)
            windowed[:, 0] *= 1.0 - _PREEMPHASIS
        spectrum = torch.fft.rfft(windowed, self.fft_samples)
        power = spectrum.real.square() + spectrum.imag.square()
        with torch.autocast("cpu", enabled=False):
            energies = power @ self.filters
        return energies.clamp(min=self.least_energy).log()[:num_frames]


@lru_cache
def _analysis(config: FbankConfig) -> _Analysis:
    """The analysis of a configuration, which all streams share."""
    return _Analysis(config)


def filter_centers_hz(config: FbankConfig) -> np.ndarray:
    """(F,) center frequencies of the mel filters in Hz, rising."""
    if config.kind == "whisper":
        return _whisper_edges_hz(config.num_mel_bins)[1:-1]
    return 700.0 * np.expm1(_kaldi_edges_mel(config)[1:-1] / 1127.0)


def _kaldi_edges_mel(config: FbankConfig) -> np.ndarray:
    """(F + 2,) centers of the filters and the outer edges of the first and the last."""
    return np.linspace(_mel(config.low_freq_hz), _mel(config.top_hz), config.num_mel_bins + 2)


def _whisper_edges_hz(num_mel_bins: int) -> np.ndarray:
    """The same of Whisper's filterbank, from 0 to 8000 Hz. Slaney's scale is linear up to 1 kHz and logarithmic beyond."""
    top = _SLANEY_KNEE + 27.0 * math.log(8.0) / math.log(6.4)
    mels = np.linspace(0.0, top, num_mel_bins + 2)
    return np.where(mels < _SLANEY_KNEE, mels * 1000.0 / _SLANEY_KNEE, 1000.0 * 6.4 ** ((mels - _SLANEY_KNEE) / 27.0))


def _kaldi_filters(config: FbankConfig) -> np.ndarray:
    """(bins, F) weights of filters that are triangles over mel; the bin of 8 kHz belongs to none."""
    weights = _triangles(_mel(_bins_hz(_FFT_SAMPLES)), _kaldi_edges_mel(config))
    weights[-1] = 0.0
    return weights


def _whisper_filters(num_mel_bins: int) -> np.ndarray:
    """(bins, F) weights of filters that are triangles of equal area over Hz."""
    edges = _whisper_edges_hz(num_mel_bins)
    return _triangles(_bins_hz(_FRAME_SAMPLES), edges) * 2.0 / (edges[2:] - edges[:-2])


def _triangles(bins: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(bins, F) weights of triangles, each from the center before its own to the one after it."""
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (center - left)
    falling = (right - bins[:, None]) / (right - center)
    return np.maximum(0.0, np.minimum(rising, falling))


def _bins_hz(fft_samples: int) -> np.ndarray:
    """(fft_samples / 2 + 1,) frequencies of a spectrum."""
    return np.arange(fft_samples // 2 + 1) * SAMPLE_RATE_HZ / fft_samples


def _num_frames(num_samples: int) -> int:
    return (num_samples + _FRAME_SHIFT_SAMPLES // 2) // _FRAME_SHIFT_SAMPLES


def _mel(freq_hz: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(freq_hz) / 700.0)
