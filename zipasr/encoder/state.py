"""Encoder state of streams between chunks: `StreamState`, batch first, at the frame rates of the stacks.

A state is immutable: a step takes one and returns the next. States of several streams at any position in their audio can
be stacked into one batch and unstacked afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.encoder.layer import LayerPast, LayerShape
from zipasr.nn.past import Past


class LayerState(NamedTuple):
    """State of one block: the frames of the `LayerPast` field of the same name, which gives their shapes.

    These are L frames at the rate of the stack for attention, and half a kernel for the convolutions.
    """

    key: Tensor
    nonlin: Tensor
    value1: Tensor
    value2: Tensor
    conv1: Tensor
    conv2: Tensor


_NUM_LAYER_TENSORS = len(LayerState._fields)
_NUM_OTHER_TENSORS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamState:
    """State of N streams with the same chunk and left context; create the first with `Zipformer.initial_state`."""

    chunk_frames_50hz: int
    """Frames of a chunk at 50 Hz."""
    layers: tuple[LayerState, ...]
    """States of the blocks of all stacks, in order."""
    embed: Tensor
    """(N, 3, F', C) last image of Conv-Embed before its ConvNeXt layer."""
    processed_frames: Tensor
    """(N,) int64, valid frames at 50 Hz so far; earlier frames of the state are masked."""

    @property
    def batch_size(self) -> int:
        """Number of streams N."""
        return self.processed_frames.shape[0]

    @property
    def left_context_frames_50hz(self) -> int:
        """Left context of attention in frames at 50 Hz, the rate of the first stack."""
        return self.layers[0].key.shape[1]

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the tensors of `to_flat`, without the batch axis."""
        return [tuple(tensor.shape[1:]) for tensor in self.to_flat()]

    def padding_mask(self, num_valid: Tensor) -> Tensor:
        """Bool (N, L + C), True where there is no audio: before the start of a stream and from `num_valid` (N,) on."""
        left = self.left_context_frames_50hz
        offsets = torch.arange(-left, self.chunk_frames_50hz, device=num_valid.device)
        return (offsets < -self.processed_frames.unsqueeze(1)) | (offsets >= num_valid.unsqueeze(1))

    def pasts(self) -> tuple[Past, list[LayerPast]]:
        """The state as the `Past` of Conv-Embed and the `LayerPast` of each block."""
        return Past(self.embed), [LayerPast(*map(Past, layer)) for layer in self.layers]

    def after(self, embed: Past, layers: Sequence[LayerPast], num_valid: Tensor) -> "StreamState":
        """The state after a step that joined every past and processed `num_valid` (N,) valid frames at 50 Hz."""
        kept = [_kept(past) for layer in layers for past in layer]
        return self.from_flat(
            [*kept, _kept(embed), self.processed_frames + num_valid], chunk_frames_50hz=self.chunk_frames_50hz
        )

    @staticmethod
    def stack(states: Sequence["StreamState"]) -> "StreamState":
        """Join the streams of several states into one batch, in their order.

        Raises:
            ValueError: there are no states, or their chunks, left contexts or models differ.
        """
        if not states:
            raise ValueError("stack needs at least one state, but got none")
        first = states[0]
        for i, state in enumerate(states):
            if state.chunk_frames_50hz != first.chunk_frames_50hz or state.shapes() != first.shapes():
                raise ValueError(
                    f"states must be of the same model, chunk and left context to be stacked, but state 0 has chunk "
                    f"{first.chunk_frames_50hz}, left {first.left_context_frames_50hz} and {len(first.layers)} blocks, "
                    f"state {i} has chunk {state.chunk_frames_50hz}, left {state.left_context_frames_50hz} and "
                    f"{len(state.layers)} blocks (or blocks of other sizes); batch them separately"
                )
        if len(states) == 1:
            return first
        return StreamState.select([(state, slice(None)) for state in states])

    @staticmethod
    def select(parts: Sequence[tuple["StreamState", slice]]) -> "StreamState":
        """A new batch of streams of states with the same sizes, copied: of each state, the streams of the slice."""
        slices, flats = [rows for _, rows in parts], [state.to_flat() for state, _ in parts]
        flat = [
            torch.cat([tensor[rows] for tensor, rows in zip(tensors, slices, strict=True)])
            for tensors in zip(*flats, strict=True)
        ]
        return StreamState.from_flat(flat, chunk_frames_50hz=parts[0][0].chunk_frames_50hz)

    def unstack(self) -> list["StreamState"]:
        """One state of batch size 1 per stream; copies, or a paused stream would keep the whole batch in memory."""
        if self.batch_size == 1:
            return [self]
        return [self.select([(self, slice(n, n + 1))]) for n in range(self.batch_size)]

    def to_flat(self) -> list[Tensor]:
        """All tensors in the order in which published streaming models pass them.

        That is key, nonlin, value1, value2, conv1, conv2 of every block, then embed and processed_frames. The published
        layout differs: key and values are (L, N, ...), nonlin is (1, N, L, ...), conv1 and conv2 are (N, D, k//2) and
        embed is (N, C, 3, F').
        """
        return [*(tensor for layer in self.layers for tensor in layer), self.embed, self.processed_frames]

    @staticmethod
    def from_flat(tensors: Sequence[Tensor], *, chunk_frames_50hz: int) -> "StreamState":
        """The state whose `to_flat` returns `tensors`.

        Raises:
            ValueError: the number of tensors does not match a state, or their batch sizes differ.
        """
        num_layer_tensors = len(tensors) - _NUM_OTHER_TENSORS
        if num_layer_tensors < _NUM_LAYER_TENSORS or num_layer_tensors % _NUM_LAYER_TENSORS:
            raise ValueError(
                f"a state must have {_NUM_LAYER_TENSORS} tensors for each block and {_NUM_OTHER_TENSORS} more, but there "
                f"are {len(tensors)}"
            )
        batch_size = tensors[-1].shape[0]
        if any(tensor.shape[0] != batch_size for tensor in tensors):
            raise ValueError(
                f"every tensor of a state must have the batch as dimension 0, {batch_size} as processed_frames has, but "
                f"they have {[tensor.shape[0] for tensor in tensors]}; `to_flat` says how the published layout differs"
            )
        layers = tuple(
            LayerState(*tensors[i : i + _NUM_LAYER_TENSORS]) for i in range(0, num_layer_tensors, _NUM_LAYER_TENSORS)
        )
        return StreamState(
            chunk_frames_50hz=chunk_frames_50hz, layers=layers, embed=tensors[-2], processed_frames=tensors[-1]
        )


def layer_shapes(shape: LayerShape, left_frames: int) -> list[tuple[int, ...]]:
    """Shapes of the tensors of `LayerState` without the batch axis; `left_frames` is at the rate of the stack."""
    key, value = shape.num_heads * shape.query_head_dim, shape.num_heads * shape.value_head_dim
    conv = (shape.kernel_size // 2, shape.channels)
    return [(left_frames, key), (left_frames, 3 * shape.channels // 4), *[(left_frames, value)] * 2, conv, conv]


def _kept(past: Past | None) -> Tensor:
    assert past is not None and past.next is not None
    return past.next
