"""The chunks in which a causal model encodes audio: the sizes that it supports, and the configured ones.

A chunk is a number of frames at 50 Hz that are encoded at once; the left context is the frames before it that attention
sees.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zipasr.encoder.rates import FRAME_MS_50HZ
from zipasr.encoder.window import WindowBuffer
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import ConfigError
from zipasr.features import PADDING_VALUE
from zipasr.model import AsrModel
from zipasr.onnx_runtime import OnnxStreamingModel
from zipasr.recognizer.slots import BatchedState
from zipasr.search.scorer import Scorer

STREAM_TAIL_FRAMES = 30
"""Padding at 100 Hz after the audio that counts as audio: causal models emit late, and without it the last word is lost. As
published (`streaming_decode.py`, with 13 more to fill the last window)."""
_MAX_CHUNK_MS = 600_000
_CHUNK_FRAMES_50HZ, _LEFT_CONTEXT_FRAMES_50HZ = 32, 128


class ChunkSizes(NamedTuple):
    """Size of a chunk and of its left context, in frames at 50 Hz."""

    chunk: int
    left_context: int


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """The chunks in which a recognizer encodes streams."""

    chunk_frames_50hz: int | None = None
    """Frames that are encoded at once: more of them mean higher latency and fewer errors. None: the size nearest to 32,
    0.64 s, with which the model was trained."""
    left_context_frames_50hz: int | None = None
    """Frames before a chunk that attention sees, a multiple of the chunk. None: the number nearest to 128 with which the
    model was trained."""
    simulate_streaming: bool = False
    """Whether whole recordings are encoded in chunks too, so that the result is that of a stream. Streaming graphs always
    do so."""


def initial_state(scorer: Scorer, sizes: ChunkSizes) -> BatchedState:
    """The encoder's state of a stream before its first chunk.

    Raises:
        ConfigError: the model cannot stream.
    """
    model: Any = streaming_model(scorer)
    chunk, left_context = sizes
    try:
        return model.initial_state(1, chunk_frames_50hz=chunk, left_context_frames_50hz=left_context)
    except ValueError as error:  # an ablation
        raise ConfigError(f"this model cannot stream: {error}; use transcribe") from error


def streaming_model(scorer: Scorer) -> AsrModel | OnnxStreamingModel:
    """The model, if it can stream.

    Raises:
        ConfigError: it cannot.
    """
    if isinstance(scorer, OnnxStreamingModel):
        return scorer
    if not isinstance(scorer, AsrModel):
        raise ConfigError(
            "a stream needs graphs that encode chunks, but these encode whole utterances; export a causal model with "
            "--chunk-ms, or use transcribe"
        )
    encoder = scorer.config.encoder
    if not isinstance(encoder, ZipformerConfig) or not encoder.is_causal:
        name = "Zipformer that sees the future" if isinstance(encoder, ZipformerConfig) else encoder.kind
        raise ConfigError(
            f"a stream needs a causal Zipformer, but this model is a {name}; train one with --set "
            "model.encoder.is_causal=true, or use transcribe"
        )
    return scorer


def sizes_of(scorer: Scorer, chunk: int | None, left_context: int | None) -> ChunkSizes:
    """The chunk and left context of a model: the requested ones, or its defaults.

    Raises:
        ConfigError: the model cannot stream, or not with these sizes.
    """
    model = streaming_model(scorer)
    if isinstance(model, AsrModel):
        assert isinstance(model.config.encoder, ZipformerConfig)
        return choose_sizes(model.config.encoder, chunk, left_context)
    own = ChunkSizes(model.chunk_frames_50hz, model.left_context_frames_50hz)
    wanted = ChunkSizes(own.chunk if chunk is None else chunk, own.left_context if left_context is None else left_context)
    if wanted != own:
        raise ConfigError(
            f"these graphs encode chunks of {own.chunk} frames at 50 Hz with {own.left_context} before them, but "
            f"{wanted.chunk} with {wanted.left_context} were requested; export the model with those"
        )
    return own


def window_buffer(scorer: Scorer, sizes: ChunkSizes) -> WindowBuffer:
    """The buffer of a new stream, which cuts its features into the windows of chunks."""
    window_frames = scorer.window_frames if isinstance(scorer, OnnxStreamingModel) else None
    return WindowBuffer(sizes.chunk, padding_value=PADDING_VALUE, window_frames=window_frames)


def masks_padding(scorer: Scorer) -> bool:
    """Whether the encoder of a stream tells audio from the padding of its last windows; graphs of other projects do not."""
    return not isinstance(scorer, OnnxStreamingModel) or scorer.takes_lengths


def recording_sizes(scorer: Scorer, chunks: ChunkConfig | None) -> ChunkSizes | None:
    """The chunk and left context in which whole recordings are encoded; None: each as a whole.

    Raises:
        ConfigError: the model does not support the configured chunks.
    """
    is_chunked = isinstance(scorer, OnnxStreamingModel)
    if chunks is None and not is_chunked:
        return None
    config = chunks or ChunkConfig()
    sizes = sizes_of(scorer, config.chunk_frames_50hz, config.left_context_frames_50hz)
    return sizes if config.simulate_streaming or is_chunked else None


def frames_50hz(duration_ms: int, *, name: str) -> int:
    """Frames at 50 Hz of a duration in ms.

    Raises:
        ConfigError: the duration is not a positive multiple of a frame, or too long; `name` is what the user calls it.
    """
    if duration_ms <= 0 or duration_ms % int(FRAME_MS_50HZ):
        raise ConfigError(
            f"{name} must be a positive multiple of {FRAME_MS_50HZ:g} ms, the step of the encoder, but is {duration_ms}"
        )
    if duration_ms > _MAX_CHUNK_MS:
        raise ConfigError(f"{name} must be at most {_MAX_CHUNK_MS} ms, ten minutes, but is {duration_ms}")
    return int(duration_ms / FRAME_MS_50HZ)


def choose_sizes(config: ZipformerConfig, chunk: int | None, left_context: int | None) -> ChunkSizes:
    """The chunk and left context of a stream in frames at 50 Hz: the requested sizes, or the usual ones of those trained.

    Raises:
        ConfigError: the encoder does not support these sizes.
    """
    step = math.lcm(2, *config.downsample)  # 2: the last Downsample
    trained = [size for size in config.chunk_frames_50hz if size > 0 and size % step == 0]
    if chunk is None:
        chunk = _nearest(trained, _CHUNK_FRAMES_50HZ) or max(step, _CHUNK_FRAMES_50HZ // step * step)
    if chunk < 1 or chunk % step:
        raise ConfigError(
            f"chunk_frames_50hz must be a multiple of {step} frames ({step * FRAME_MS_50HZ:g} ms) for this model, but "
            f"is {chunk}; it was trained with {_listed(trained)}"
        )
    reach = max(kernel // 2 * factor for kernel, factor in zip(config.kernel_sizes, config.downsample, strict=True))
    shortest = max(1, math.ceil(reach / chunk)) * chunk
    trained = [size for size in config.left_context_frames_50hz if size >= shortest and size % chunk == 0]
    if left_context is None:
        usual = math.ceil(_LEFT_CONTEXT_FRAMES_50HZ / chunk) * chunk
        left_context = _nearest(trained, _LEFT_CONTEXT_FRAMES_50HZ) or max(shortest, usual)
    if left_context < shortest or left_context % chunk:
        raise ConfigError(
            f"left_context_frames_50hz must be a multiple of the chunk, {chunk}, from {shortest} frames on for this model, "
            f"but is {left_context}; it was trained with {_listed(trained)} that suit this chunk"
        )
    return ChunkSizes(chunk, left_context)


def _nearest(sizes: Sequence[int], wanted: int) -> int | None:
    return min(sizes, key=lambda size: abs(size - wanted), default=None)


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "none"
