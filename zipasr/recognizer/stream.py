"""`Stream`: sound that is still coming in, samples in and a transcript of what was said so far out.

Samples become features (t, F) at 100 Hz as they come; those are cut into windows of a chunk, and all streams whose next
window is complete are encoded to 25 Hz and searched in one batch. What a stream says in the end is what the same search says
of the whole recording encoded under the same chunk mask, with the same padding (tests/test_stream.py).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import torch
from torch import Tensor

from zipasr.audio.samples import INT16_CURE, MAX_LEVEL, MAX_RATE_HZ, MIN_RATE_HZ, SAMPLE_RATE_HZ, scaled
from zipasr.device import arithmetic
from zipasr.encoder.rates import FEATURE_RATE_HZ, FRAME_MS_50HZ, FRAME_S_25HZ, WINDOW_OVERHANG
from zipasr.encoder.window import WindowBuffer
from zipasr.errors import ConfigError
from zipasr.features import PADDING_VALUE
from zipasr.recognizer.chunks import STREAM_TAIL_FRAMES, ChunkSizes, sizes_of, streaming_model
from zipasr.recognizer.precision import checked_frames
from zipasr.recognizer.reading import to_transcript
from zipasr.search.endpoint import EndpointConfig, EndpointRule, is_endpoint
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.strategy import SearchConfig, make_prior, make_search
from zipasr.search.word_times import emission_spans
from zipasr.transcript import Transcript

if TYPE_CHECKING:
    from zipasr.recognizer.recognizer import Recognizer

__all__ = ["EndpointConfig", "EndpointRule", "Stream", "decode_streams"]

_FEATURE_REACH_MS = 17.5
_LOOK_AHEAD_MS = (WINDOW_OVERHANG - 1) * 1000.0 / FEATURE_RATE_HZ + _FEATURE_REACH_MS
"""A window ends 13 features after its chunk; the last one starts 120 ms after the chunk and covers 17.5 ms more."""


class Stream:
    """One speaker, one microphone; begin it with `Recognizer.stream`.

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
    A server calls `Recognizer.decode_streams` instead of `decode`, for all its streams at once. Times of tokens are when
    they were emitted, which is up to a few tenths of a second after they were said.
    """

    def __init__(
        self,
        recognizer: "Recognizer",
        search: SearchConfig,
        *,
        chunk_frames_50hz: int | None,
        left_context_frames_50hz: int | None,
        hotwords: HotwordGraph | None,
        endpoint: EndpointConfig,
    ) -> None:
        """See `Recognizer.stream`; `search` is one that `settled_for_streams` has checked."""
        self.recognizer, self.search_config, self.endpoint = recognizer, search, endpoint
        scorer = streaming_model(recognizer.scorer)
        self.sizes = sizes_of(scorer, chunk_frames_50hz, left_context_frames_50hz)
        try:
            self._encoder_state: Any = scorer.initial_state(
                1, chunk_frames_50hz=self.sizes.chunk, left_context_frames_50hz=self.sizes.left_context
            )
        except ValueError as error:  # an ablation
            raise ConfigError(f"this model cannot stream: {error}; use transcribe") from error
        self._search = make_search(scorer, search, unk_id=recognizer.tokenizer.unk_id)
        prior = make_prior(search, language_models=recognizer.language_models, hotwords=hotwords)
        self._search_state = self._search.start(prior)
        self._ranked: list[Hypothesis] | None = None  # what has been found, once it is asked for
        self._fbank = recognizer.fbank.stream()
        self._buffer = WindowBuffer(self.sizes.chunk, padding_value=PADDING_VALUE)
        self._sample_rate_hz: int | None = None
        self._resampler: soxr.ResampleStream | None = None
        self._num_samples = self._num_features = 0
        self._segment_start_frame = 0
        self.segment = 0
        """Number of utterances with text that `reset` has ended."""
        self._is_open, self._is_finished = True, False

    @property
    def latency_ms(self) -> float:
        """Sound in ms that must have come, from the begin of a chunk on, before it is encoded: the chunk and 137.5 ms ahead.

        So long after a sound it is decoded at the latest, computation not counted. What the model then makes of it may
        still wait for the next chunk, since causal models emit late.
        """
        return self.sizes.chunk * FRAME_MS_50HZ + _LOOK_AHEAD_MS

    def accept_waveform(self, samples: np.ndarray | Tensor, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        """Take in the next samples; only their features are computed.

        Args:
            samples: (samples,), any number: floats in about [-1, 1] or integers of 8, 16 or 32 bits.
            sample_rate_hz: their rate, the same in all calls.
        Raises:
            ValueError: not (samples,), of another kind, NaN, infinite or beyond 10, or another rate than before; the
                stream is as it was.
            RuntimeError: the stream is finished.
        """
        if not self._is_open:
            raise RuntimeError("a finished stream takes no more sound; begin another with Recognizer.stream()")
        values = _checked_samples(samples)
        self._check_rate(sample_rate_hz)
        self._num_samples += len(values)
        if self._resampler is not None and len(values):
            values = self._resampler.resample_chunk(values)
        self._push(self._fbank.accept(values))

    def _check_rate(self, sample_rate_hz: int) -> None:
        """Settle the rate with the first samples; raise ValueError for one that cannot be."""
        if self._sample_rate_hz not in (None, sample_rate_hz):
            raise ValueError(
                f"sample_rate_hz must be the same in all calls, {self._sample_rate_hz}, but is {sample_rate_hz}; begin "
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
        """Say that no more sound will come; what is left of it can then be decoded with that of other streams.

        Raises:
            RuntimeError: it has been said before.
        """
        if not self._is_open:
            raise RuntimeError("the sound of a stream can be finished only once; begin another with Recognizer.stream()")
        self._is_open = False
        if self._resampler is not None:
            self._push(self._fbank.accept(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)))
        self._push(self._fbank.finish())
        if self.recognizer.scorer.output_length(self._num_features) > 0:  # less holds no word, as in `transcribe`
            num_bins = self.recognizer.fbank.config.num_mel_bins
            self._push(torch.full((STREAM_TAIL_FRAMES, num_bins), PADDING_VALUE))
        self._buffer.finish()

    def is_ready(self) -> bool:
        """Whether there is sound for another chunk, or the rest after the end."""
        return self._buffer.is_ready

    def decode(self) -> None:
        """Decode all that is ready."""
        while decode_streams([self]):
            pass

    @property
    def text(self) -> str:
        """What was said in this utterance, as far as it is decoded; later words may change earlier ones."""
        return self.recognizer.tokenizer.decode(self._hypotheses()[0].ids)

    def result(self) -> Transcript:
        """What was said in this utterance, as far as it is decoded.

        Times are seconds from the start of the stream and tell when a token was emitted; `duration_s` is the sound that has
        been taken in since then.
        """
        duration_s = self._num_samples / (self._sample_rate_hz or SAMPLE_RATE_HZ)
        readings = []
        for hypothesis in self._hypotheses()[: self.search_config.num_best]:
            readings.append(
                to_transcript(
                    hypothesis,
                    duration_s,
                    tokenizer=self.recognizer.tokenizer,
                    spans=emission_spans([self._segment_start_frame + frame for frame in hypothesis.frames]),
                    calibration=self.recognizer.calibrations.get(self.search_config.method),
                )
            )
        return dataclasses.replace(readings[0], alternatives=tuple(readings[1:]))

    def _hypotheses(self) -> list[Hypothesis]:
        if self._ranked is None:
            (self._ranked,) = self._search.hypotheses([self._search_state])
        return self._ranked

    def is_endpoint(self) -> bool:
        """Whether the utterance is over by the rules; the stream goes on as if nothing had happened until `reset`."""
        num_frames, frames = self._search_state.num_frames, self._hypotheses()[0].frames
        num_silent = num_frames - (frames[-1] + 1 if frames else 0)
        return is_endpoint(
            self.endpoint, trailing_silence_s=num_silent * FRAME_S_25HZ, utterance_length_s=num_frames * FRAME_S_25HZ
        )

    def reset(self) -> None:
        """Begin another utterance where decoding stands, without a gap.

        The text begins anew, and so do hotwords and language models. The model still hears the sound before and knows the
        last labels, and sound that is not decoded yet belongs to the new utterance.

        Raises:
            RuntimeError: the stream is finished.
        """
        if self._is_finished:
            raise RuntimeError("a finished stream has no next utterance; begin another with Recognizer.stream()")
        self.segment += bool(self.text)
        self._segment_start_frame += self._search_state.num_frames
        self._search_state = self._search.restart(self._search_state)
        self._ranked = None

    def finish(self) -> Transcript:
        """End the sound if `input_finished` has not, decode what is left, and return the last utterance.

        Raises:
            RuntimeError: the stream is finished already.
        """
        if self._is_finished:
            raise RuntimeError("a stream can be finished only once; result() still has what was said")
        if self._is_open:
            self.input_finished()
        self.decode()
        self._is_finished = True
        return self.result()


@torch.inference_mode()
def decode_streams(streams: Iterable[Stream]) -> int:
    """Take all streams that are ready one chunk further, wherever they are; return how many they were.

    Those of the same sizes and search are one batch. All must be of the same recogniser.
    """
    batches: dict[tuple[ChunkSizes, SearchConfig], list[Stream]] = {}
    for stream in dict.fromkeys(streams):
        if stream.is_ready():
            batches.setdefault((stream.sizes, stream.search_config), []).append(stream)
    for batch in batches.values():
        _decode_batch(batch)
    return sum(map(len, batches.values()))


def _decode_batch(streams: Sequence[Stream]) -> None:
    recognizer = streams[0].recognizer
    scorer, device = streaming_model(recognizer.scorer), recognizer.device
    popped = [window for stream in streams if (window := stream._buffer.pop()) is not None]
    windows, lens = [window for window, _ in popped], [num_valid for _, num_valid in popped]
    before = [stream._encoder_state for stream in streams]
    with arithmetic(recognizer.precision, device):
        encoded, states = scorer.encode_streams(torch.stack(windows).to(device), torch.tensor(lens, device=device), before)
    encoded = checked_frames(encoded, recognizer.precision)
    streams[0]._search.advance([stream._search_state for stream in streams], encoded)
    for stream, state in zip(streams, states, strict=True):
        stream._encoder_state, stream._ranked = state, None


def _checked_samples(samples: np.ndarray | Tensor) -> np.ndarray:
    """Samples (samples,) as float32.

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
    values = scaled(values)
    is_good = np.abs(values) <= MAX_LEVEL  # NaN is not
    if not is_good.all():
        first = int(is_good.argmin())
        cure = INT16_CURE if np.isfinite(values[first]) else "leave it out or mend its source"
        raise ValueError(
            f"samples must be finite numbers, -1 to 1, but sample {first} of {len(values)} is {values[first]:g}; {cure}; "
            "the stream is as it was"
        )
    return values
