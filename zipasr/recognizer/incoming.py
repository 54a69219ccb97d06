"""`IncomingAudio`: samples of audio that is still coming in -> windows of features, encoded in batches.

Samples wait until they complete the window of a chunk; then they become features (t, F) at 100 Hz. All streams whose next
window is complete are encoded to 25 Hz in one batch. What is then done with the frames is for the kinds of streams: they are
searched for text (`Stream`) or for keywords (`SpotterStream`).
"""

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from zipasr.audio.samples import INT16_CURE, MAX_LEVEL, MAX_RATE_HZ, MIN_RATE_HZ, SAMPLE_RATE_HZ, scaled
from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.features import PADDING_VALUE
from zipasr.recognizer.chunks import STREAM_TAIL_FRAMES, ChunkSizes, initial_state, window_buffer
from zipasr.recognizer.engine import Engine
from zipasr.recognizer.slots import Slot

NOT_FINITE_CURE, UNCHANGED = "drop it or fix its source", "; the stream is as it was"
"""The end of the message about a sample that is NaN or infinite."""
_FEATURE_MS, _FEATURE_REACH_MS = 1000.0 / FEATURE_RATE_HZ, 17.5
"""Step of the features, and the audio that one needs after its start."""


class IncomingAudio:
    """The audio of a stream, the state of its encoder, and the search that a kind of stream chooses."""

    search: Any
    """The search of its frames; streams that have the same one are searched together."""
    _search_state: Any

    def __init__(self, engine: Engine, sizes: ChunkSizes) -> None:
        """A new stream, encoded in chunks of these sizes."""
        self.engine, self.sizes = engine, sizes
        self._slot = Slot(initial_state(engine.scorer, sizes))
        self._fbank = engine.fbank.stream()
        self._buffer = window_buffer(engine.scorer, sizes)
        self._sample_rate_hz: int | None = None
        self._resampler: soxr.ResampleStream | None = None
        self._waiting: list[np.ndarray] = []
        """Samples at 16 kHz whose features are not computed yet: small pieces would cost several times as much."""
        self._num_samples = self._num_features = 0
        self._is_open, self._is_finished = True, False

    def _has_advanced(self) -> None:
        """Called when the search has advanced by the frames of a chunk."""

    @property
    def latency_ms(self) -> float:
        """Audio in ms from the start of a chunk that must be received before it is encoded: the chunk and 137.5 ms ahead.

        A window ends 13 features after its chunk; the last one starts 120 ms after the chunk and ends 17.5 ms later. Graphs
        of Zipformer 1 need only 77.5 ms ahead.

        It is the upper bound on decoding delay, excluding computation. The tokens of the audio may still come with the next
        chunk, since causal models emit late.
        """
        return (self._buffer.window_frames - 1) * _FEATURE_MS + _FEATURE_REACH_MS

    def accept_waveform(self, samples: np.ndarray | Tensor, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        """Receive the next samples; if they complete a chunk, compute its features, nothing else.

        Args:
            samples: (samples,), any number: floats in about [-1, 1] or integers of 8, 16 or 32 bits.
            sample_rate_hz: their rate, the same in all calls.
        Raises:
            ValueError: not (samples,), of another kind, NaN, infinite or beyond 10, or another rate than before; the
                stream is as it was.
            RuntimeError: the stream is finished.
        """
        if not self._is_open:
            raise RuntimeError("a finished stream takes no more audio; start another with Recognizer.stream()")
        _check_kinds(samples, sample_rate_hz)
        values = _checked_samples(samples)
        self._check_rate(sample_rate_hz)
        self._num_samples += len(values)
        if self._resampler is not None and len(values):
            values = self._resampler.resample_chunk(values)
        self._waiting.append(values.copy())
        if not self.missing_samples:
            self._compute_features()

    def _check_rate(self, sample_rate_hz: int) -> None:
        """Set the rate with the first samples; raise ValueError for a rate that changes or is out of range."""
        if self._sample_rate_hz not in (None, sample_rate_hz):
            raise ValueError(
                f"sample_rate_hz must be the same in all calls, {self._sample_rate_hz}, but is {sample_rate_hz}; start "
                "another stream"
            )
        if not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
            raise ValueError(f"sample_rate_hz must be from {MIN_RATE_HZ} to {MAX_RATE_HZ}, but is {sample_rate_hz}")
        if self._sample_rate_hz is None and sample_rate_hz != SAMPLE_RATE_HZ:
            self._resampler = soxr.ResampleStream(sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="VHQ")
        self._sample_rate_hz = sample_rate_hz

    def _compute_features(self) -> None:
        """Pass the samples that wait to the window of the next chunk, as features."""
        samples, self._waiting = self._waiting, []
        if samples:
            self._push(self._fbank.accept(np.concatenate(samples)))

    def _push(self, features: Tensor) -> None:
        if len(features):
            self._buffer.push(features)
            self._num_features += len(features)

    def input_finished(self) -> None:
        """End the input; the rest of the audio can then be decoded together with that of other streams.

        Raises:
            RuntimeError: the input has ended before.
        """
        if not self._is_open:
            raise RuntimeError("the audio of a stream can be finished only once; start another with Recognizer.stream()")
        self._is_open = False
        if self._resampler is not None:
            self._waiting.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self._compute_features()
        self._push(self._fbank.finish())
        if self.engine.scorer.output_length(self._num_features) > 0:  # shorter audio has no frame, as in `transcribe`
            num_bins = self.engine.fbank.config.num_mel_bins
            self._push(torch.full((STREAM_TAIL_FRAMES, num_bins), PADDING_VALUE))
        self._buffer.finish()

    def is_ready(self) -> bool:
        """Whether there is audio for another chunk, or the rest after the end."""
        return self._buffer.is_ready

    @property
    def missing_samples(self) -> int:
        """Samples at 16 kHz that must still come until the next chunk is complete; 0 if it is, or the input has ended.

        An estimate if samples have another rate, since resampling delays them, and with Whisper's filterbank.
        """
        num_missing = self._buffer.num_missing
        if not num_missing or not self._is_open:
            return 0
        end_ms = (self._num_features + num_missing - 1) * _FEATURE_MS + _FEATURE_REACH_MS
        received = self._num_samples * SAMPLE_RATE_HZ // (self._sample_rate_hz or SAMPLE_RATE_HZ)
        return max(0, math.ceil(end_ms * SAMPLE_RATE_HZ / 1000) - received)

    def decode(self) -> None:
        """Decode every chunk that is ready."""
        while decode_streams([self]):
            pass

    def _end(self, cure: str) -> None:
        """End the input unless `input_finished` has, and decode the rest; raise RuntimeError if this was done before."""
        if self._is_finished:
            raise RuntimeError(f"a stream can be finished only once; {cure}")
        if self._is_open:
            self.input_finished()
        self.decode()
        self._is_finished = True


@torch.inference_mode()
def decode_streams(streams: Iterable[IncomingAudio]) -> int:
    """Decode one chunk of every stream that is ready; return the number of streams that were ready.

    Streams of the same sizes and search form a batch. All must belong to the same recognizer.
    """
    batches: dict[tuple[ChunkSizes, int], list[IncomingAudio]] = {}
    for stream in dict.fromkeys(streams):
        if stream.is_ready():
            batches.setdefault((stream.sizes, id(stream.search)), []).append(stream)
    for batch in batches.values():
        _decode_batch(batch)
    return sum(map(len, batches.values()))


def _decode_batch(streams: Sequence[IncomingAudio]) -> None:
    engine = streams[0].engine
    streams = [streams[n] for n in engine.slots.in_order([stream._slot for stream in streams])]
    slots = [stream._slot for stream in streams]
    windows = [window for stream in streams if (window := stream._buffer.pop()) is not None]
    encoded, state = engine.encode_windows(windows, engine.slots.gather(slots))
    engine.slots.put(slots, state)
    streams[0].search.advance([stream._search_state for stream in streams], encoded)
    for stream in streams:
        stream._has_advanced()


def _check_kinds(samples: object, sample_rate_hz: object) -> None:
    """Raise ValueError for bytes, and for arguments in the order of other recognizers: the rate, then the samples."""
    if isinstance(samples, (bytes, bytearray, memoryview)):
        raise ValueError(
            f"samples must be an array of numbers, but are {type(samples).__name__}; for 16-bit PCM pass "
            "numpy.frombuffer(samples, numpy.int16)"
        )
    if samples is None or isinstance(samples, numbers.Number):
        raise ValueError(
            f"samples must be (samples,), but are {samples!r}; the samples come first: "
            "accept_waveform(samples, sample_rate_hz)"
        )
    if not isinstance(sample_rate_hz, numbers.Real):
        raise ValueError(f"sample_rate_hz must be a number, but is {type(sample_rate_hz).__name__}; pass samples first")


def _checked_samples(samples: np.ndarray | Tensor) -> np.ndarray:
    """Samples (samples,) as float32: those given, if they are.

    Raises:
        ValueError: not (samples,), of another kind, NaN, infinite or beyond 10.
    """
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    values = np.asarray(samples)
    if values.ndim != 1:
        raise ValueError(
            f"samples must be (samples,), but have shape {values.shape}; pass one channel, or the mean of all of them"
        )
    if values.dtype != np.float32:
        values = scaled(values)
    if not np.abs(values).max(initial=0.0) <= MAX_LEVEL:  # NaN is not
        first = int((np.abs(values) <= MAX_LEVEL).argmin())
        cure = INT16_CURE if np.isfinite(values[first]) else NOT_FINITE_CURE
        raise ValueError(
            f"samples must be finite numbers, -1 to 1, but sample {first} of {len(values)} is {values[first]:g}; {cure}"
            f"{UNCHANGED}"
        )
    return values
