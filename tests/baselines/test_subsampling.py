"""Reference: both subsamplings against a pixel-by-pixel convolution. Law: stated lengths are those of the output."""

import math

import pytest
import torch
from torch import Tensor

from tests.golden_files import seeded
from zipasr.baselines.subsampling import Conv2dSubsampling, SeparableSubsampling, output_length, output_lengths


def slow_conv(image: Tensor, weight: Tensor, bias: Tensor, *, size: tuple[int, int]) -> Tensor:
    """3x3 convolution, stride 2, of (T, F, C) to `size`, zero-padded at the end; weight (C', C or 1 if depthwise, 3, 3)."""
    out = torch.zeros(*size, len(weight))
    for t in range(size[0]):
        for f in range(size[1]):
            for c in range(len(weight)):
                seen = image[2 * t : 2 * t + 3, 2 * f : 2 * f + 3]
                seen = seen[:, :, c : c + 1] if weight.shape[1] < image.shape[2] else seen
                kernel = weight[c].permute(1, 2, 0)[: seen.shape[0], : seen.shape[1]]
                out[t, f, c] = (seen * kernel).sum() + bias[c]
    return out


@torch.no_grad()
def test_conv2d_equals_pixels() -> None:
    torch.manual_seed(0)
    subsampling, features = Conv2dSubsampling(12, 3, 5, dropout=0.1).eval(), seeded(1, 14, 12)
    image = slow_conv(features[0].unsqueeze(-1), subsampling.conv1.weight, subsampling.conv1.bias, size=(6, 5)).relu()
    image = slow_conv(image, subsampling.conv2.weight, subsampling.conv2.bias, size=(2, 2)).relu()
    torch.testing.assert_close(subsampling(features)[0], subsampling.out(image.flatten(1)) * math.sqrt(5))


@pytest.mark.parametrize("num_frames", [13, 14, 15, 16])
@torch.no_grad()
def test_separable_equals_pixels(num_frames: int) -> None:
    torch.manual_seed(0)
    subsampling, features = SeparableSubsampling(10, 3, 5, dropout=0.1).eval(), seeded(1, num_frames, 10)
    conv, depthwise = subsampling.conv, subsampling.depthwise
    image = slow_conv(features[0].unsqueeze(-1), conv.weight, conv.bias, size=((num_frames + 1) // 2, 5)).relu()
    image = slow_conv(image, depthwise.weight, depthwise.bias, size=(4, 3))
    want = subsampling.out(subsampling.pointwise(image).relu().flatten(1)) * math.sqrt(5)
    torch.testing.assert_close(subsampling(features, torch.tensor([num_frames]))[0], want)


def test_lengths_agree() -> None:
    lens = torch.arange(40)
    assert output_lengths(lens).tolist() == [output_length(n) for n in range(40)]
    assert output_length(3000) == 749
