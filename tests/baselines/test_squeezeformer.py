"""Reference: the time reduction frame by frame, and the U-Net written out. Law: the receptive field of recovered frames."""

import pytest
import torch

from tests.baselines.tiny_encoders import CONFIGS, build
from tests.golden_files import seeded
from zipasr.baselines import SqueezeformerConfig
from zipasr.baselines.attention import relative_positions
from zipasr.baselines.squeezeformer import TimeReduction

CONFIG = next(config for config in CONFIGS if isinstance(config, SqueezeformerConfig))


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8])
@torch.no_grad()
def test_reduction_equals_loops(num_frames: int) -> None:
    torch.manual_seed(0)
    reduce, x = TimeReduction(6), seeded(1, num_frames + 2, 6)
    mask = torch.arange(num_frames + 2).unsqueeze(0) >= num_frames
    weight, bias = reduce.depthwise.weight[:, 0], reduce.depthwise.bias
    want = []
    for t in range((num_frames + 1) // 2):
        seen = range(2 * t, min(2 * t + 5, num_frames))
        want.append(bias + sum(weight[:, s - 2 * t] * x[0, s] for s in seen))
    y = reduce(x, mask)
    assert y.shape[1] == (num_frames + 3) // 2
    torch.testing.assert_close(y[0, : len(want)], reduce.pointwise(torch.stack(want)))


@pytest.mark.parametrize("num_frames", [1, 5, 36, 37, 41])
@torch.no_grad()
def test_unet_spelled_out(num_frames: int) -> None:
    encoder, lens = build(CONFIG), torch.tensor([num_frames])
    features = seeded(1, num_frames, 20)
    x = encoder.norm(encoder.subsampling(features, lens))
    fine, coarse = (torch.zeros(1, n, dtype=torch.bool) for n in (x.shape[1], (x.shape[1] + 1) // 2))
    skip = encoder.first_blocks[0](x, relative_positions(x), fine)
    x = encoder.reduce(skip, fine)
    for block in encoder.reduced_blocks:
        x = block(x, relative_positions(x), coarse)
    x = torch.stack([skip[:, t] + encoder.recover(x[:, t // 2]) for t in range(skip.shape[1])], dim=1)
    x = encoder.last_blocks[0](x, relative_positions(x), fine)
    torch.testing.assert_close(encoder(features, lens).frames, x)


def test_blocks_are_where_the_configuration_says() -> None:
    encoder = build(CONFIG, num_layers=6, reduce_at=0, recover_at=6)
    assert [len(blocks) for blocks in (encoder.first_blocks, encoder.reduced_blocks, encoder.last_blocks)] == [0, 6, 0]
    assert encoder(torch.zeros(1, 30, 20), torch.tensor([30])).frames.shape == (1, 8, 16)
