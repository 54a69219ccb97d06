"""Streaming graphs as a `Scorer`, for streams and for whole recordings: `OnnxStreamingModel`.

A window (N, T, F) of features at 100 Hz and the state of N streams go in, the frames of a chunk of C frames at 50 Hz and the
next state come out. T is 2 C + 13, so that windows overlap by 13 features, as in `encoder.window`; graphs of Zipformer 1, of
other projects, overlap by 7. Chunk by chunk, a graph gives the same frames for a recording as the model under the same chunk
mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zipasr.encoder.rates import FEATURES_PER_FRAME_50HZ, embed_length
from zipasr.errors import CheckpointError
from zipasr.features import PADDING_VALUE
from zipasr.nn.encoded import Encoded
from zipasr.onnx_runtime.graph import Graph, GraphInput
from zipasr.onnx_runtime.layout import EXPORT_FILE, VALID_FEATURES, ExportedConfig
from zipasr.onnx_runtime.model import OnnxModel


@dataclass(frozen=True, eq=False)
class OnnxStreamState:
    """State of streams in the layout of a graph; immutable: a step returns a new state."""

    arrays: tuple[np.ndarray, ...]
    """In the order of the graph's inputs."""
    axes: tuple[int, ...]
    """The axis of the streams in each array."""

    @property
    def batch_size(self) -> int:
        """Number of streams N."""
        return self.arrays[0].shape[self.axes[0]]

    @staticmethod
    def select(parts: Sequence[tuple["OnnxStreamState", slice]]) -> "OnnxStreamState":
        """A new batch of streams of several states, copied: of each state, the streams of the slice."""
        axes = parts[0][0].axes
        indices = [[(slice(None),) * axis + (rows,) for axis in axes] for _, rows in parts]
        arrays = tuple(
            np.concatenate([state.arrays[i][index[i]] for (state, _), index in zip(parts, indices, strict=True)], axis)
            for i, axis in enumerate(axes)
        )
        return OnnxStreamState(arrays, axes)

    def unstack(self) -> list["OnnxStreamState"]:
        """One state for each stream; copies, or a paused stream would keep the whole batch in memory."""
        return [self.select([(self, slice(n, n + 1))]) for n in range(self.batch_size)]


class OnnxStreamingModel(OnnxModel):
    """A `Scorer` that runs streaming graphs in onnxruntime, for streams and for whole recordings."""

    def __init__(
        self, config: ExportedConfig, graphs: Mapping[str, bytes | Path | Graph], *, num_threads: int | None = None
    ) -> None:
        """Load the graphs; arguments as for `OnnxModel`."""
        super().__init__(config, graphs, num_threads=num_threads)
        if config.chunk_frames_50hz is None or config.left_context_frames_50hz is None:
            raise CheckpointError(
                f"{EXPORT_FILE} must name the chunk and the left context of streaming graphs; export again"
            )
        self.chunk_frames_50hz = config.chunk_frames_50hz
        """Frames C per chunk at 50 Hz."""
        self.left_context_frames_50hz = config.left_context_frames_50hz
        """Frames before a chunk that attention sees."""
        self._features, *self._states = self._encoder.inputs
        self.window_frames = self._window_frames()
        """Features per window at 100 Hz."""
        self._stream_axes = tuple(_free_axis(given) for given in self._states)

    @property
    def takes_lengths(self) -> bool:
        """Whether the graph takes the number of valid features of a window; others take padding for audio."""
        return VALID_FEATURES in self._encoder.optional

    def _window_frames(self) -> int:
        hop = FEATURES_PER_FRAME_50HZ * self.chunk_frames_50hz
        shape, name = self._features.shape, self._encoder.name
        num_frames = shape[1] if len(shape) == 3 else None
        if num_frames is None or num_frames < hop:
            raise CheckpointError(
                f"{name} must take windows of a fixed length for {hop} features a chunk, but takes {self._features}; export "
                "again"
            )
        return num_frames

    def initial_state(self, batch_size: int, *, chunk_frames_50hz: int, left_context_frames_50hz: int) -> OnnxStreamState:
        """The state of `batch_size` streams at their start.

        Raises:
            ValueError: the graphs have another chunk or left context.
        """
        self._check_chunks(chunk_frames_50hz, left_context_frames_50hz)
        return OnnxStreamState(
            tuple(
                np.zeros([batch_size if size is None else size for size in given.shape], given.dtype)
                for given in self._states
            ),
            self._stream_axes,
        )

    def encode_chunks(
        self, features: Tensor, lens: Tensor, states: Sequence[OnnxStreamState]
    ) -> tuple[Encoded, list[OnnxStreamState]]:
        """Encode the next chunk of every stream in one batch; see `AsrModel.encode_chunks`."""
        if len(states) != len(features):
            raise ValueError(f"there must be a state for each of {len(features)} windows, but there are {len(states)}")
        whole = states[0] if len(states) == 1 else OnnxStreamState.select([(state, slice(None)) for state in states])
        encoded, after = self.encode_chunk(features, lens, whole)
        return encoded, after.unstack()

    def encode_chunk(self, features: Tensor, lens: Tensor, state: OnnxStreamState) -> tuple[Encoded, OnnxStreamState]:
        """Encode the next chunk of streams that share a state; see `AsrModel.encode_chunk`."""
        expected = (self.window_frames, self.config.features.num_mel_bins)
        if features.dim() != 3 or features.shape[1:] != expected or lens.shape != features.shape[:1]:
            raise ValueError(
                f"a window must be (N, {expected[0]}, {expected[1]}) with (N,) lengths, but is {tuple(features.shape)} with "
                f"{tuple(lens.shape)}; fill the last one with padding"
            )
        optional = {VALID_FEATURES: lens.cpu().numpy()} if self.takes_lengths else {}
        outputs = self._encoder.run(features.cpu().numpy(), *state.arrays, **optional)
        num_states = len(self._states)
        frames = [torch.from_numpy(output).float() for output in (outputs[0], *outputs[1 + num_states :])]
        lens_N = torch.tensor([min(self.output_length(length), self.chunk_frames_50hz // 2) for length in lens.tolist()])
        after = OnnxStreamState(tuple(outputs[1 : 1 + num_states]), state.axes)
        return Encoded(torch.cat(frames, dim=-1), lens_N), after

    def _encode_batch(self, features: Tensor, lens: Tensor) -> Encoded:
        """The frames of whole recordings, chunk by chunk."""
        chunk, left = self.chunk_frames_50hz, self.left_context_frames_50hz
        num_chunks = max(1, -(-embed_length(int(lens.max())) // chunk))
        hop = FEATURES_PER_FRAME_50HZ * chunk
        rest = (num_chunks - 1) * hop + self.window_frames - features.shape[1]
        padded = torch.nn.functional.pad(features, (0, 0, 0, max(0, rest)), value=PADDING_VALUE)
        state = self.initial_state(len(features), chunk_frames_50hz=chunk, left_context_frames_50hz=left)
        frames = []
        for start in range(0, num_chunks * hop, hop):
            window = padded[:, start : start + self.window_frames]
            encoded, state = self.encode_chunk(window, (lens - start).clamp(0, self.window_frames), state)
            frames.append(encoded.frames)
        lens_N = torch.tensor([self.output_length(length) for length in lens.tolist()])
        return Encoded(torch.cat(frames, dim=1)[:, : int(lens_N.max())], lens_N)

    def _check_chunks(self, chunk: int | None, left_context: int | None) -> None:
        own_chunk, own_left = self.chunk_frames_50hz, self.left_context_frames_50hz
        chunk = own_chunk if chunk is None else chunk
        left_context = own_left if left_context is None else left_context
        if (chunk, left_context) != (own_chunk, own_left):
            raise ValueError(
                f"these graphs have chunks of {own_chunk} frames at 50 Hz and a left context of {own_left}, but {chunk} and "
                f"{left_context} were requested; export the model with those"
            )


def _free_axis(given: GraphInput) -> int:
    """The dynamic axis of an input, which is that of the streams."""
    if len(given.free_axes) != 1:
        raise CheckpointError(f"{given.name} must have one axis of any size, but is {given}; export again")
    return given.free_axes[0]
