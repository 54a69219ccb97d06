"""`Stream`: samples of audio that is still coming in -> a transcript of the speech so far.

Samples become features (t, F) at 100 Hz as they come. Those are cut into windows of a chunk, and all streams whose next
window is complete are encoded to 25 Hz and searched in one batch. The final result of a stream is that of the same search
on the whole recording, encoded under the same chunk mask with the same padding (tests/recognizer/test_stream.py).
"""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import soxr
import torch
from torch import Tensor

from zipasr.audio.samples import INT16_CURE, MAX_LEVEL, MAX_RATE_HZ, MIN_RATE_HZ, SAMPLE_RATE_HZ, scaled
from zipasr.encoder.rates import FEATURE_RATE_HZ, FRAME_S_25HZ
from zipasr.encoder.window import WindowBuffer
from zipasr.features import PADDING_VALUE
from zipasr.recognizer.chunks import STREAM_TAIL_FRAMES, ChunkSizes, initial_state, sizes_of, window_frames_of
from zipasr.recognizer.endpoint import EndpointConfig, is_endpoint
from zipasr.recognizer.engine import Engine
from zipasr.recognizer.growing import GrowingTranscript
from zipasr.recognizer.slots import Slot
from zipasr.search.graph import LoadedGraph
from zipasr.search.graph.graph_search import GraphSearch
from zipasr.search.graph.rejection import judged
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.strategy import SearchConfig, make_prior
from zipasr.transcript import Transcript

_FEATURE_MS, _FEATURE_REACH_MS = 1000.0 / FEATURE_RATE_HZ, 17.5
"""Step of the features, and the audio that one needs after its start."""


class Stream:
    """A stream of audio, of one microphone for example; create it with `Recognizer.stream`.

    ```python
    stream = recognizer.stream()
    for samples in microphone:
        stream.accept_waveform(samples)
        stream.decode()
        print(stream.text)
        if stream.is_endpoint():
            keep(stream.result())
            stream.reset()
    keep(stream.finish())
    ```
    A server calls `Recognizer.decode_streams` instead of `decode`, for all its streams at once. Tokens have the times when
    they were emitted, up to a few tenths of a second after they were said.
    """

    def __init__(
        self,
        engine: Engine,
        search: SearchConfig,
        *,
        chunk_frames_50hz: int | None,
        left_context_frames_50hz: int | None,
        hotwords: HotwordGraph | None,
        graph: LoadedGraph | None = None,
        endpoint: EndpointConfig,
    ) -> None:
        """See `Recognizer.stream`; `search` is one that `resolve_search` has checked for streams."""
        self.engine, self.search_config, self.endpoint = engine, search, endpoint
        self.sizes = sizes_of(engine.scorer, chunk_frames_50hz, left_context_frames_50hz)
        self._slot = Slot(initial_state(engine.scorer, self.sizes))
        self._search = engine.stream_search(search)
        self._graph = graph
        prior = make_prior(search, language_models=engine.language_models, hotwords=hotwords)
        self._search_state: Any = self._search.start(prior) if graph is None else self._graph_search.start(graph.graph)
        self._ranked: list[Hypothesis] | None = None  # cached until the next chunk
        self._growing: list[GrowingTranscript] = []
        """The transcripts of the best hypotheses of the utterance."""
        self._fbank = engine.fbank.stream()
        window_frames = window_frames_of(engine.scorer, self.sizes)
        self._buffer = WindowBuffer(self.sizes.chunk, padding_value=PADDING_VALUE, window_frames=window_frames)
        self._sample_rate_hz: int | None = None
        self._resampler: soxr.ResampleStream | None = None
        self._num_samples = self._num_features = 0
        self._segment_start_frame = 0
        self.segment = 0
        """Number of utterances with text that `reset` has ended."""
        self._is_open, self._is_finished = True, False

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
        """Receive the next samples and compute their features, nothing else.

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
        self._push(self._fbank.accept(values))

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
            self._push(self._fbank.accept(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)))
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

    @property
    def text(self) -> str:
        """Text of the current utterance as far as it is decoded; later words may change earlier ones."""
        return self._transcribe(1)[0].text

    def result(self) -> Transcript:
        """Transcript of the current utterance as far as it is decoded.

        Under a graph it may stop inside a phrase until the utterance is over, by `is_endpoint` or `finish`; then it is a
        whole phrase, or nothing.

        Times are seconds from the start of the stream to the emission of a token; `duration_s` is the audio received since
        the start of the stream.
        """
        best, *others = self._transcribe(self.search_config.num_best)
        return dataclasses.replace(best, alternatives=tuple(others)) if others else best

    def _transcribe(self, num_best: int) -> list[Transcript]:
        """The transcripts of the best hypotheses."""
        duration_s = self._num_samples / (self._sample_rate_hz or SAMPLE_RATE_HZ)
        ranked = self._hypotheses()[:num_best]
        while len(self._growing) < len(ranked):
            calibration = self.engine.calibrations.get(self.search_config.method)
            self._growing.append(GrowingTranscript(self.engine.tokenizer, calibration, self._segment_start_frame))
        return [growing.update(hypothesis, duration_s) for growing, hypothesis in zip(self._growing, ranked, strict=False)]

    def _hypotheses(self) -> list[Hypothesis]:
        """The best hypotheses, judged; under a graph those that are whole phrases once the utterance is over."""
        if self._ranked is None and self._graph is None:
            (self._ranked,) = self._search.hypotheses([self._search_state], self.search_config.num_best)
        elif self._ranked is None and self._graph is not None:
            search, state, num_best = self._graph_search, self._search_state, self.search_config.num_best
            is_over = self._is_finished or self.is_endpoint()
            (ranked,) = (search.hypotheses if is_over else search.partial_hypotheses)([state], num_best)
            self._ranked = judged(ranked, self._graph)
        assert self._ranked is not None
        return self._ranked

    @property
    def _graph_search(self) -> GraphSearch:
        return cast(GraphSearch, self._search)

    def _free_hypothesis(self) -> Hypothesis:
        """The best hypothesis that a graph does not restrict; whether there is speech does not depend on the graph."""
        if self._graph is None:
            return self._hypotheses()[0]
        return self._graph_search.free_hypothesis(self._search_state)

    def is_endpoint(self) -> bool:
        """Whether the endpoint rules say that the utterance is over; nothing else changes until `reset`."""
        num_frames, frames = self._search_state.num_frames, self._free_hypothesis().frames
        num_silent = num_frames - (frames[-1] + 1 if frames else 0)
        return is_endpoint(
            self.endpoint, trailing_silence_s=num_silent * FRAME_S_25HZ, utterance_length_s=num_frames * FRAME_S_25HZ
        )

    def reset(self) -> None:
        """Start another utterance at the current position, without a gap.

        The text, hotwords and language models start over. The model keeps its left context and the last labels, and audio
        that is not decoded yet belongs to the new utterance.

        Raises:
            RuntimeError: the stream is finished.
        """
        if self._is_finished:
            raise RuntimeError("a finished stream has no next utterance; start another with Recognizer.stream()")
        self.segment += bool(self.text)
        self._segment_start_frame += self._search_state.num_frames
        self._search_state = self._search.restart(self._search_state)
        self._ranked, self._growing = None, []

    def finish(self) -> Transcript:
        """End the input unless `input_finished` has, decode the rest, and return the last utterance.

        Raises:
            RuntimeError: the stream is finished already.
        """
        if self._is_finished:
            raise RuntimeError("a stream can be finished only once; result() still has the last utterance")
        if self._is_open:
            self.input_finished()
        self.decode()
        self._is_finished, self._ranked = True, None
        return self.result()


@torch.inference_mode()
def decode_streams(streams: Iterable[Stream]) -> int:
    """Decode one chunk of every stream that is ready; return the number of streams that were ready.

    Streams with the same sizes and search form a batch. All must belong to the same recognizer.
    """
    batches: dict[tuple[ChunkSizes, SearchConfig], list[Stream]] = {}
    for stream in dict.fromkeys(streams):
        if stream.is_ready():
            batches.setdefault((stream.sizes, stream.search_config), []).append(stream)
    for batch in batches.values():
        _decode_batch(batch)
    return sum(map(len, batches.values()))


def _decode_batch(streams: Sequence[Stream]) -> None:
    engine = streams[0].engine
    streams = [streams[n] for n in engine.slots.in_order([stream._slot for stream in streams])]
    slots = [stream._slot for stream in streams]
    windows = [window for stream in streams if (window := stream._buffer.pop()) is not None]
    encoded, state = engine.encode_windows(windows, engine.slots.gather(slots))
    engine.slots.put(slots, state)
    streams[0]._search.advance([stream._search_state for stream in streams], encoded)
    for stream in streams:
        stream._ranked = None


def _check_kinds(samples: object, sample_rate_hz: object) -> None:
    """Raise ValueError for bytes, and for arguments in the order of other recognizers: the rate, then the samples."""
    if isinstance(samples, (np.ndarray, Tensor)) and isinstance(sample_rate_hz, int):
        return
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
        cure = INT16_CURE if np.isfinite(values[first]) else "drop it or fix its source"
        raise ValueError(
            f"samples must be finite numbers, -1 to 1, but sample {first} of {len(values)} is {values[first]:g}; {cure}; "
            "the stream is as it was"
        )
    return values
