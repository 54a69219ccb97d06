"""The chunks in which a causal model hears sound: which it can have, and which are asked for.

A chunk is so many frames at 50 Hz, which are encoded at once; the left context is what attention sees before them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zipasr.encoder.rates import FRAME_MS_50HZ
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import ConfigError
from zipasr.model import AsrModel
from zipasr.onnx_runtime import OnnxStreamingModel
from zipasr.search.scorer import Scorer

STREAM_TAIL_FRAMES = 30
"""Padding at 100 Hz after the sound that counts as sound: causal models emit late, and without it the last word is lost. As
published (`streaming_decode.py`, where 13 more fill the last window)."""
_MAX_CHUNK_MS = 600_000
_CHUNK_FRAMES_50HZ, _LEFT_CONTEXT_FRAMES_50HZ = 32, 128


class ChunkSizes(NamedTuple):
    """What is encoded at once and what is seen before it, in frames at 50 Hz."""

    chunk: int
    left_context: int


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """In which chunks a recogniser hears."""

    chunk_frames_50hz: int | None = None
    """Frames that are encoded at once: more wait longer and are heard better. None: of the sizes that the model was trained
    with the one nearest to 32, 0.64 s."""
    left_context_frames_50hz: int | None = None
    """Frames before a chunk that attention sees, a multiple of the chunk. None: of those that the model was trained with the
    one nearest to 128."""
    simulate_streaming: bool = False
    """Whether whole recordings are heard in chunks too, so that the recogniser says of them what a stream would. Graphs that
    hear chunks do nothing else."""


def streaming_model(scorer: Scorer) -> AsrModel | OnnxStreamingModel:
    """The model as one that can stream.

    Raises:
        ConfigError: it cannot.
    """
    if isinstance(scorer, OnnxStreamingModel):
        return scorer
    if not isinstance(scorer, AsrModel):
        raise ConfigError(
            "a stream needs graphs that hear chunks, but these hear whole utterances; export a causal model with "
            "--chunk-ms, or use transcribe"
        )
    encoder = scorer.config.encoder
    if not isinstance(encoder, ZipformerConfig) or not encoder.is_causal:
        name = "Zipformer that hears the future" if isinstance(encoder, ZipformerConfig) else encoder.kind
        raise ConfigError(
            f"a stream needs a causal Zipformer, but this model is a {name}; train one with --set "
            "model.encoder.is_causal=true, or use transcribe"
        )
    return scorer


def sizes_of(scorer: Scorer, chunk: int | None, left_context: int | None) -> ChunkSizes:
    """The chunk and left context in which a model is to hear: as asked, or what suits it.

    Raises:
        ConfigError: it cannot stream, or not so.
    """
    model = streaming_model(scorer)
    if isinstance(model, AsrModel):
        assert isinstance(model.config.encoder, ZipformerConfig)
        return choose_sizes(model.config.encoder, chunk, left_context)
    own = ChunkSizes(model.chunk_frames_50hz, model.left_context_frames_50hz)
    if (chunk or own.chunk, left_context or own.left_context) != own:
        raise ConfigError(
            f"these graphs hear chunks of {own.chunk} frames at 50 Hz with {own.left_context} before them, but "
            f"{chunk or own.chunk} with {left_context or own.left_context} are asked for; export the model with those"
        )
    return own


def frames_50hz(duration_ms: int, *, name: str) -> int:
    """Frames at 50 Hz of a duration in ms.

    Raises:
        ConfigError: it is no positive multiple of a frame, or longer than anybody waits; `name` is what the user calls it.
    """
    if duration_ms <= 0 or duration_ms % int(FRAME_MS_50HZ):
        raise ConfigError(
            f"{name} must be a positive multiple of {FRAME_MS_50HZ:g} ms, the step of the encoder, but is {duration_ms}"
        )
    if duration_ms > _MAX_CHUNK_MS:
        raise ConfigError(f"{name} must be at most {_MAX_CHUNK_MS} ms, ten minutes, but is {duration_ms}")
    return int(duration_ms / FRAME_MS_50HZ)


def choose_sizes(config: ZipformerConfig, chunk: int | None, left_context: int | None) -> ChunkSizes:
    """The chunk and left context of a stream in frames at 50 Hz: as asked, or of those trained with the usual ones.

    Raises:
        ConfigError: the encoder cannot have them.
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
