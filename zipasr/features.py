"""Log-mel filterbanks: (samples,) float32 at 16 kHz -> (T, F) float32 at 100 Hz, in one call or chunk by chunk.

Both kinds are computed by kaldi-native-fbank: frames of 25 ms every 10 ms, natural log, no dither.

`kaldi`: the signal reflected at both ends, DC removed, pre-emphasis 0.97, Povey window, 512-point power spectrum, triangular
mel filters. Frame j covers samples 160 j - 120 to 160 j + 280.

`whisper`: the signal reflected at both ends, Hann window, 400-point power spectrum, mel filters of equal area on Slaney's
scale. Frame j is centered on sample 160 j, as in training (sherpa-onnx: on 160 j + 80). A model takes `normalized` frames.

Both ways feed the same extractor, so they give the same bits.
"""

import math
from array import array
from dataclasses import dataclass
from typing import Literal

import kaldi_native_fbank
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

_FRAME_SHIFT_SAMPLES = 160
_FRAME_LENGTH_MS, _FRAME_SHIFT_MS = 25.0, 10.0
_FFT_SAMPLES = 512
# One second per call: 60 s of audio take 54 ms on one core with blocks of 0.5 to 60 s alike, and memory stays small.
_BLOCK_SAMPLES = SAMPLE_RATE_HZ


_WHISPER_BINS = (80, 128)
_WHISPER_RANGE = 8.0
"""Range of normalized frames in powers of ten, below the maximum."""
_SLANEY_KNEE = 15.0
"""Mel of 1 kHz on Slaney's scale, below which it is linear."""
_REACH_SAMPLES = 200
"""Half a frame of Whisper's filterbank: its signal is reflected by so much at both ends."""


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
        # The C++ code also rejects a filter without an FFT bin, but does not say which setting is wrong.
        edges_mel = np.linspace(_mel(self.low_freq_hz), _mel(top_hz), self.num_mel_bins + 2)
        bins_mel = _mel(np.arange(_FFT_SAMPLES // 2) * SAMPLE_RATE_HZ / _FFT_SAMPLES)
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

    A frame is returned as soon as its samples are there: 280 samples (17.5 ms) after its time, or at the end.
    """

    def __init__(self, config: FbankConfig) -> None:
        self._num_mel_bins = config.num_mel_bins
        self._extractor: kaldi_native_fbank.OnlineFbank | _WhisperExtractor
        if config.kind == "whisper":
            self._extractor = _WhisperExtractor(config)
        else:
            self._extractor = kaldi_native_fbank.OnlineFbank(_options(config))
        self._num_taken = 0
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
        values = np.ascontiguousarray(values, np.float32)
        if len(values) <= _BLOCK_SAMPLES:
            return self._accept_block(values)
        blocks = (values[start : start + _BLOCK_SAMPLES] for start in range(0, len(values), _BLOCK_SAMPLES))
        return torch.cat([self._accept_block(block) for block in blocks])

    def _accept_block(self, values: np.ndarray) -> Tensor:
        if len(values):
            # array: the binding iterates over a Python sequence; this is faster than numpy (54 instead of 74 ms per
            # minute of audio) and takes less memory than a list of floats.
            block = array("f")
            block.frombytes(values.data.cast("B"))
            self._extractor.accept_waveform(SAMPLE_RATE_HZ, block)
        return self._take()

    def finish(self) -> Tensor:
        """End the recording and return its last frames, (t, F) float32 at 100 Hz.

        Raises:
            RuntimeError: the stream is finished already.
        """
        self._check_open()
        self._is_finished = True
        self._extractor.input_finished()
        return self._take()

    def _check_open(self) -> None:
        if self._is_finished:
            raise RuntimeError("a stream must still be open, but this one is finished; start another with Fbank.stream()")

    def _take(self) -> Tensor:
        """Copy the new frames (the binding returns them one by one: 4 ms per minute of audio) and free them inside."""
        num_new = self._extractor.num_frames_ready - self._num_taken
        frames = np.empty((num_new, self._num_mel_bins), np.float32)
        for index in range(num_new):
            frames[index] = self._extractor.get_frame(self._num_taken + index)
        self._extractor.pop(num_new)
        self._num_taken += num_new
        return torch.from_numpy(frames)


class _WhisperExtractor:
    """Whisper's filterbank with the interface of `OnlineFbank`.

    The library centers frame j on sample 160 j + 80 and reflects the signal in another way. So it gets 240 more samples at
    the start, the reflected signal, and its first frame is dropped.
    """

    _NUM_BEFORE = _REACH_SAMPLES + 40

    def __init__(self, config: FbankConfig) -> None:
        self._extractor = kaldi_native_fbank.OnlineWhisperFbank(_whisper_options(config))
        self._num_samples = 0
        self._waiting = np.zeros(0, np.float32)
        """The first samples until there are enough to reflect."""
        self._latest = np.zeros(0, np.float32)
        """The last samples, to be reflected at the end."""
        self._is_finished = False

    def accept_waveform(self, rate_hz: int, samples: "array[float]") -> None:
        values = np.frombuffer(samples, np.float32)
        is_first = self._num_samples <= self._NUM_BEFORE
        self._num_samples += len(values)
        if is_first:
            values = self._waiting = np.concatenate([self._waiting, values])
            if len(values) <= self._NUM_BEFORE:
                return
            self._waiting = self._waiting[:0]
            values = np.pad(values, (self._NUM_BEFORE, 0), mode="reflect")
        self._extend(values)

    def input_finished(self) -> None:
        if len(self._waiting):
            self._extend(np.pad(self._waiting, (self._NUM_BEFORE, 0), mode="reflect"))
        if self._num_samples:
            self._extend(np.pad(self._latest, (0, _REACH_SAMPLES), mode="reflect")[len(self._latest) :])
        self._extractor.input_finished()
        self._is_finished = True

    def _extend(self, values: np.ndarray) -> None:
        self._extractor.accept_waveform(SAMPLE_RATE_HZ, array("f", values.tobytes()))
        self._latest = np.concatenate([self._latest, values])[-_REACH_SAMPLES - 1 :]

    @property
    def num_frames_ready(self) -> int:
        ready = max(0, self._extractor.num_frames_ready - 1)
        return min(ready, _num_frames(self._num_samples)) if self._is_finished else ready

    def get_frame(self, index: int) -> np.ndarray:
        energies = np.asarray(self._extractor.get_frame(index + 1))
        return np.log(np.maximum(energies, np.float32(1e-10)))

    def pop(self, num_frames: int) -> None:
        self._extractor.pop(num_frames)


def filter_centers_hz(config: FbankConfig) -> np.ndarray:
    """(F,) center frequencies of the mel filters in Hz, rising."""
    number = config.num_mel_bins
    if config.kind == "whisper":
        mels = np.linspace(0.0, _slaney_mel(SAMPLE_RATE_HZ / 2), number + 2)[1:-1]
        return np.where(mels < _SLANEY_KNEE, mels * 1000.0 / _SLANEY_KNEE, 1000.0 * 6.4 ** ((mels - _SLANEY_KNEE) / 27.0))
    mels = np.linspace(_mel(config.low_freq_hz), _mel(config.top_hz), number + 2)[1:-1]
    return 700.0 * np.expm1(mels / 1127.0)


def _num_frames(num_samples: int) -> int:
    return (num_samples + _FRAME_SHIFT_SAMPLES // 2) // _FRAME_SHIFT_SAMPLES


def _mel(freq_hz: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(freq_hz) / 700.0)


def _slaney_mel(freq_hz: float) -> float:
    """Mel of a frequency from 1 kHz on, where Slaney's scale is logarithmic."""
    return _SLANEY_KNEE + 27.0 * math.log(freq_hz / 1000.0) / math.log(6.4)


def _options(config: FbankConfig) -> kaldi_native_fbank.FbankOptions:
    # All relevant options are explicit, so that a changed default in a later version of the library has no effect.
    options = kaldi_native_fbank.FbankOptions()
    frame = options.frame_opts
    frame.samp_freq = float(SAMPLE_RATE_HZ)
    frame.frame_length_ms, frame.frame_shift_ms = _FRAME_LENGTH_MS, _FRAME_SHIFT_MS
    frame.dither = 0.0
    frame.preemph_coeff = 0.97
    frame.remove_dc_offset = True
    frame.window_type = "povey"
    frame.round_to_power_of_two = True
    frame.snip_edges = False
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq = config.low_freq_hz
    options.mel_opts.high_freq = config.high_freq_hz
    options.use_energy = False
    options.energy_floor = 1e-10  # has an effect only with use_energy; the mel energies are floored at float32 epsilon
    options.use_log_fbank = True
    options.use_power = True
    return options


def _whisper_options(config: FbankConfig) -> kaldi_native_fbank.WhisperFeatureOptions:
    options = kaldi_native_fbank.WhisperFeatureOptions()
    options.dim = config.num_mel_bins
    return options
