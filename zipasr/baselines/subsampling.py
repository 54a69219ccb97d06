"""Subsampling to a quarter of the rate: features (N, T, F) at 100 Hz -> frames (N, T', D) at 25 Hz, times sqrt(D).

`Conv2dSubsampling` (Conformer, Branchformer, E-Branchformer) uses no padding: T' = ((T - 1) // 2 - 1) // 2, and a valid
frame depends on valid features only. `SeparableSubsampling` (Squeezeformer) pads after the end: T' = ceil(T / 4). Images
have the layout (N, T, F, C), channels last, in which 2-D convolutions on a CPU are fastest.
Source: Gulati et al. 2020, arXiv:2005.08100, section 2; Kim et al. 2022, arXiv:2206.00888, section 3.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from zipasr.baselines.blocks import zero_padding
from zipasr.nn.convolution import convolve_image
from zipasr.nn.encoded import padding_mask

MIN_FRAMES = 7
"""Fewest features, and fewest mel bins, from which `Conv2dSubsampling` makes one frame."""


def output_length(num_frames: int) -> int:
    """Number of frames at 25 Hz that `Conv2dSubsampling` makes of `num_frames` features at 100 Hz."""
    return max(0, ((num_frames - 1) // 2 - 1) // 2)


def output_lengths(lens: Tensor) -> Tensor:
    """`output_length` of each entry of an integer tensor."""
    return (((lens - 1) // 2 - 1) // 2).clamp(min=0)


class Conv2dSubsampling(nn.Module):
    """Subsampling by two 3x3 convolutions of stride 2 with ReLU and a linear layer over channels and frequencies."""

    def __init__(self, num_features: int, conv_channels: int, channels: int, *, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, conv_channels, 3, stride=2)
        self.conv2 = nn.Conv2d(conv_channels, conv_channels, 3, stride=2)
        self.out = nn.Linear(conv_channels * output_length(num_features), channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, T, F), T >= 7, to (N, ((T - 1) // 2 - 1) // 2, D)."""
        image = convolve_image(features.unsqueeze(-1), self.conv1).relu()
        image = convolve_image(image, self.conv2).relu()
        return self.dropout(_scale(self.out(image.flatten(2)), self.out))


class SeparableSubsampling(nn.Module):
    """Subsampling by a 3x3 and a depthwise 3x3 convolution, both of stride 2, and a pointwise one."""

    def __init__(self, num_features: int, conv_channels: int, channels: int, *, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, conv_channels, 3, stride=2)
        self.depthwise = nn.Conv2d(conv_channels, conv_channels, 3, stride=2, groups=conv_channels)
        self.pointwise = nn.Linear(conv_channels, conv_channels)
        self.out = nn.Linear(conv_channels * ((num_features + 3) // 4), channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, lens: Tensor) -> Tensor:
        """Map (N, T, F) with `lens` (N,) valid frames to (N, ceil(T / 4), D)."""
        # Differs: the original convolves over the padding. Zeroed, the padding equals the end of the utterance.
        features = zero_padding(features, padding_mask(lens, features))
        image = convolve_image(_pad_after(features.unsqueeze(-1)), self.conv).relu()
        image = zero_padding(image, padding_mask((lens + 1) // 2, image))
        image = self.pointwise(convolve_image(_pad_after(image), self.depthwise)).relu()
        return self.dropout(_scale(self.out(image.flatten(2)), self.out))


def _pad_after(image: Tensor) -> Tensor:
    """Append two zeros to time and frequency of (N, T, F, C), so that stride 2 gives ceil(T / 2) and ceil(F / 2)."""
    return functional.pad(image, (0, 0, 0, 2, 0, 2))


def _scale(x: Tensor, out: nn.Linear) -> Tensor:
    """x · sqrt(D) in the dtype of the weights, so that the residual stream stays float32 under autocast."""
    return x.to(out.weight.dtype) * math.sqrt(x.shape[-1])
