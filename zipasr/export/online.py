"""The graphs of a streaming model: an encoder that processes chunks, with the state of its streams as inputs and outputs.

A window (N, 2 C + 13, 80) of features at 100 Hz goes in for a chunk of C frames at 50 Hz, frames (N, C / 2, J or V) at 25 Hz
come out; N is dynamic. The contract is that of sherpa-onnx 2.0 for streaming Zipformers: tensors by position, sizes in the
metadata, and a Conv-Embed cache that is always (N, 128, 3, 19).
"""

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zipasr.encoder.frontend import image_width
from zipasr.encoder.rates import FRAMES_AHEAD, window_length
from zipasr.encoder.state import StreamState
from zipasr.errors import ConfigError
from zipasr.export.chunk import ChunkEncoder
from zipasr.export.graph import check_standard
from zipasr.export.offline import Head, all_graphs, check_exportable, normal
from zipasr.export.trace import Axes, Graph
from zipasr.model import AsrModel
from zipasr.onnx_runtime import VALID_FEATURES

_IMAGE = (128, FRAMES_AHEAD, 19)
"""Size of the Conv-Embed cache that sherpa-onnx assumes for every model."""
_LAYER_STATES = ("cached_key", "cached_nonlin_attn", "cached_val1", "cached_val2", "cached_conv1", "cached_conv2")
_BATCH_AXES = (1, 1, 1, 1, 0, 0)
_CASES = ((2, 0, 0), (1, 1, 0), (3, 5, 17))
"""For each batch that is compared: number of streams, chunks that the last stream has processed, and features missing in its
window. The first batch is traced."""


def to_published(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of `StreamState.to_flat`, converted to the published layout."""
    *layers, embed, processed = tensors
    return [*_moved(layers, back=False), embed.permute(0, 3, 1, 2), processed]


def from_published(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors for `StreamState.from_flat`, converted from the published layout."""
    *layers, embed, processed = tensors
    return [*_moved(layers, back=True), embed.permute(0, 2, 3, 1), processed]


def _moved(layers: Iterable[Tensor], *, back: bool) -> list[Tensor]:
    """Caches of every block with axes moved; published: key (L, N, D) · nonlin (1, N, L, D) · values (L, N, D) ·
    convolutions (N, D, k//2)."""
    moved = []
    for i, tensor in enumerate(layers):
        kind = _LAYER_STATES[i % len(_LAYER_STATES)]
        if kind == "cached_nonlin_attn":
            moved.append(tensor.squeeze(0) if back else tensor.unsqueeze(0))
        elif kind.startswith("cached_conv"):
            moved.append(tensor.transpose(1, 2))
        else:
            moved.append(tensor.transpose(0, 1))
    return moved


class StreamingModel(nn.Module):
    """A window and the state of its streams -> output of `head` for the frames, and the next state."""

    def __init__(self, encoder: ChunkEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor, *states_and_lens: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 2 C + 13, F), the published states and (N,) lengths to (N, C / 2, J or V) and the next states."""
        *states, lens = states_and_lens
        frames, following = self.encoder.encode_chunk(x, states, lens)
        return (self.head(frames), *following)


def online_graphs(model: AsrModel, *, chunk_frames_50hz: int, left_context_frames_50hz: int) -> dict[str, Graph]:
    """The graphs to trace of a causal model, by the field of `ExportedFiles`.

    Args:
        model: the model.
        chunk_frames_50hz: frames per chunk at 50 Hz.
        left_context_frames_50hz: frames of left context that attention sees, a multiple of the chunk.
    Raises:
        ConfigError: the model cannot be exported, or cannot stream with this chunk and left context.
    """
    encoder = check_exportable(model, is_streaming=True)
    try:
        model.initial_state(1, chunk_frames_50hz=chunk_frames_50hz, left_context_frames_50hz=left_context_frames_50hz)
    except ValueError as error:
        raise ConfigError(f"the model must be able to stream with these chunks, but cannot: {error}") from error
    image = (encoder.config.conv_channels[2], FRAMES_AHEAD, image_width(encoder.config.num_features))
    if image != _IMAGE:
        raise ConfigError(
            f"sherpa-onnx expects a Conv-Embed cache of shape {_IMAGE}, but this model's is {image}; train with "
            "encoder.conv_channels=8,32,128 and 80 mel bins, or export without chunks"
        )
    check_standard(encoder)
    sizes = (chunk_frames_50hz, left_context_frames_50hz)
    traced = ChunkEncoder(encoder, *sizes)
    return all_graphs(model, lambda head: _graph(head, model, traced, *sizes))


def _graph(head: Head, model: AsrModel, traced: ChunkEncoder, chunk: int, left: int) -> Graph:
    window_frames, is_whisper = window_length(chunk), model.config.features.kind == "whisper"
    num_layers = sum(traced.config.num_layers)
    states = [
        Axes(f"{kind}_{i}", {axis: "N"})
        for i in range(num_layers)
        for kind, axis in zip(_LAYER_STATES, _BATCH_AXES, strict=True)
    ]
    states += [Axes("embed_states", {0: "N"}), Axes("processed_lens", {0: "N"})]

    def expected(x: Tensor, *states_and_lens: Tensor) -> Sequence[Tensor]:
        *states, lens = states_and_lens
        state = StreamState.from_flat(from_published(states), chunk_frames_50hz=chunk)
        encoded, after = model.encode_chunk(x, lens, state)
        return [head.of_frames(encoded.frames), *to_published(after.to_flat())]

    return Graph(
        name=f"streaming {head.name}",
        module=StreamingModel(traced, copy.deepcopy(head.module)),
        inputs=[Axes("x", {0: "N"}), *states, Axes(VALID_FEATURES, {0: "M"})],
        outputs=[Axes(head.output, {0: "N"}), *(Axes(f"new_{axes.name}", axes.dynamic) for axes in states)],
        defaults={VALID_FEATURES: np.array([window_frames])},
        metadata=_metadata(traced, chunk, left) | ({"feature": "whisper"} if is_whisper else {}),
        cases=[_case(model, *case, chunk, left) for case in _CASES],
        expected=expected,
    )


def _case(model: AsrModel, size: int, num_chunks: int, num_missing: int, chunk: int, left: int) -> tuple[Tensor, ...]:
    """A window of `size` streams with random caches; the last has processed `num_chunks` chunks and lacks features."""
    start = model.initial_state(size, chunk_frames_50hz=chunk, left_context_frames_50hz=left)
    *caches, processed = start.to_flat()
    noise = [normal(*tensor.shape) for tensor in caches]
    processed = processed.clone()
    processed[-1] = num_chunks * chunk
    window = 3.0 * normal(size, window_length(chunk), model.config.features.num_mel_bins) - 8.0
    lens = torch.full((size,), window.shape[1])
    lens[-1] -= num_missing
    return (window, *(tensor.contiguous() for tensor in to_published([*noise, processed])), lens)


def _metadata(encoder: ChunkEncoder, chunk: int, left: int) -> dict[str, str | int]:
    config = encoder.config
    head_dims = [config.head_dims(i) for i in range(len(config.channels))]

    def listed(values: Iterable[int]) -> str:
        return ",".join(map(str, values))

    return {
        "model_type": "zipformer2",
        "version": "1",
        "model_author": "k2-fsa",
        "comment": "streaming zipformer2",
        "decode_chunk_len": 2 * chunk,
        "T": window_length(chunk),
        "num_encoder_layers": listed(config.num_layers),
        "encoder_dims": listed(config.channels),
        "cnn_module_kernels": listed(config.kernel_sizes),
        "left_context_len": listed(left // factor for factor in config.downsample),
        "query_head_dims": listed(query for query, _, _ in head_dims),
        "value_head_dims": listed(value for _, value, _ in head_dims),
        "num_heads": listed(config.num_heads),
    }
