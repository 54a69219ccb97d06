"""What every encoder gives to every head: `Encoded`, and what an encoder must offer to be one: `Encoder`.

An encoder takes features (N, T, F) at 100 Hz and gives frames (N, T', D) at 25 Hz.
"""

from typing import NamedTuple, Protocol

from torch import Tensor


class Encoded(NamedTuple):
    """Output of an encoder."""

    frames: Tensor
    """(N, T, D) at 25 Hz; rows beyond `lens` hold no meaning."""
    lens: Tensor
    """(N,) valid frames, int64."""


class Encoder(Protocol):
    """What the heads and the trainer need from an encoder."""

    output_channels: int
    """D of `Encoded.frames`."""

    def __call__(self, features: Tensor, lens: Tensor) -> Encoded:
        """Encode features (N, T, F) with `lens` (N,) valid frames."""

    def output_length(self, num_frames: int) -> int:
        """Frames at 25 Hz that come from `num_frames` features at 100 Hz."""
