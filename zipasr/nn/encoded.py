"""The interface between encoders and heads: `Encoded`, an encoder's output; `Encoder`, its protocol; and the input check.

An encoder maps features (N, T, F) at 100 Hz to frames (N, T', D) at 25 Hz.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zipasr.nn.placement import moved


class Encoded(NamedTuple):
    """Output of an encoder: frames and their valid lengths."""

    frames: Tensor
    """(N, T, D) at 25 Hz; frames beyond `lens` are undefined."""
    lens: Tensor
    """(N,) valid frames, int64, on the device of the input lengths, possibly the CPU while `frames` are elsewhere."""

    @property
    def is_padding_NT(self) -> Tensor:
        """Bool (N, T), True beyond `lens`, on the device of `frames`."""
        return padding_mask(self.lens, self.frames)


def join_batches(batches: Sequence[Encoded]) -> Encoded:
    """The utterances of several batches, in order, as one; there must be a batch."""
    if len(batches) == 1:
        return batches[0]
    utterances = [frames_TD for batch in batches for frames_TD in batch.frames]
    return Encoded(pad_sequence(utterances, batch_first=True), torch.cat([batch.lens for batch in batches]))


def padding_mask(lens: Tensor, x: Tensor) -> Tensor:
    """Bool mask (N, T) on the device of `x` (N, T, ...): True at the frames beyond `lens` (N,)."""
    return torch.arange(x.shape[1], device=x.device) >= moved(lens, x.device).unsqueeze(1)


class Encoder(Protocol):
    """The encoder interface that heads and trainer rely on."""

    output_channels: int
    """D of `Encoded.frames`."""

    def __call__(self, features: Tensor, lens: Tensor) -> Encoded:
        """Encode features (N, T, F) at 100 Hz with `lens` (N,) valid frames."""

    def output_length(self, num_frames: int) -> int:
        """Number of output frames at 25 Hz for `num_frames` features at 100 Hz."""


def check_input(features: Tensor, lens: Tensor, *, num_features: int, min_frames: int) -> None:
    """Raise ValueError unless features are (N, T >= min_frames, num_features) and 0 <= lens <= T.

    Lengths on an accelerator are not read, because the host would have to wait for them.
    """
    if features.dim() != 3 or features.shape[2] != num_features or features.shape[1] < min_frames:
        raise ValueError(
            f"features must be (N, T >= {min_frames}, {num_features}), but are {tuple(features.shape)}; "
            "pad short input with features.PADDING_VALUE"
        )
    if lens.shape != features.shape[:1]:
        raise ValueError(f"lens must be ({features.shape[0]},), but is {tuple(lens.shape)}")
    if lens.is_floating_point() or lens.dtype == torch.bool:
        raise ValueError(f"lens must count frames, as int64, but is {lens.dtype}; turn shares into (share * T).long()")
    if lens.device.type == "cpu" and len(lens) and not 0 <= int(lens.min()) <= int(lens.max()) <= features.shape[1]:
        raise ValueError(f"lens must be within 0 and T = {features.shape[1]}, but are {lens.tolist()}")
