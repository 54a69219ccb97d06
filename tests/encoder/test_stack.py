"""Golden: Downsample and upsample of the original. Reference: slow loops. Contract: layer skips, equal first layers."""

import math

import pytest
import torch

from tests.golden_files import assert_close_to, batch_first, load_golden, seeded
from zipasr.encoder.layer import LayerShape
from zipasr.encoder.stack import Downsample, ZipformerStack, upsample

CASES = sorted(key.removeprefix("in.ds") for key in load_golden("a_downsample_upsample")[1] if key.startswith("in.ds"))


@pytest.mark.parametrize("case", CASES)
def test_downsample_and_upsample_equal_golden(case: str) -> None:
    _, golden = load_golden("a_downsample_upsample")
    factor, num_frames = (int(number) for number in case.split("_T"))
    module = Downsample(factor)
    module.load_state_dict({"bias": golden[f"w.ds{factor}.bias"]})
    y = module(batch_first(golden[f"in.ds{case}"]))
    assert_close_to(y, batch_first(golden[f"out.ds{case}"]))
    expected = batch_first(golden[f"out.up{case}"])
    assert_close_to(upsample(y, factor, expected.shape[1]), expected)
    assert_close_to(upsample(y, factor, num_frames), expected[:, :num_frames])


@pytest.mark.parametrize("num_frames", range(1, 10))
def test_downsample_equals_slow_code(num_frames: int) -> None:
    module = Downsample(4)
    with torch.no_grad():
        module.bias.copy_(torch.tensor([0.1, -0.4, 0.8, 0.0]))
    weights = [math.exp(b) / sum(math.exp(c) for c in module.bias.tolist()) for b in module.bias.tolist()]
    x = seeded(2, num_frames, 3)
    y = module(x)
    assert y.shape == (2, math.ceil(num_frames / 4), 3)
    for j in range(y.shape[1]):
        expected = sum(w * x[:, min(4 * j + k, num_frames - 1)] for k, w in enumerate(weights))
        torch.testing.assert_close(y[:, j], expected)


def test_downsample_starts_as_a_mean() -> None:
    x = seeded(2, 8, 3)
    torch.testing.assert_close(Downsample(2)(x), x.unflatten(1, (4, 2)).mean(2))


def stack(factor: int, num_layers: int = 3) -> ZipformerStack:
    torch.manual_seed(0)
    shape = LayerShape(
        channels=16,
        feedforward=16,
        num_heads=2,
        kernel_size=3,
        query_head_dim=4,
        value_head_dim=4,
        pos_head_dim=2,
        pos_dim=8,
        is_causal=True,
    )
    return ZipformerStack(shape, num_layers=num_layers, downsample_factor=factor, pos_dropout=0.15, warmup=(1000.0, 1600.0))


def test_layers_of_a_stack_start_alike() -> None:
    first, *others = (layer.state_dict() for layer in stack(2).layers)
    for other in others:
        assert all(torch.equal(other[name], tensor) for name, tensor in first.items())
    parameters = [p for layer in stack(2).layers for p in layer.parameters()]
    assert len({p.data_ptr() for p in parameters}) == len(parameters)  # equal values, not shared tensors


@pytest.mark.parametrize("factor", [1, 4])
def test_each_layer_is_skipped_until_its_turn_in_the_warm_up(factor: int) -> None:
    final = 0.035 * math.sqrt(factor)
    for i, layer in enumerate(stack(factor).layers):
        rate = layer.bypass.skip_rate
        assert rate.points == ((1000.0 + 200.0 * i, 0.5), (1200.0 + 200.0 * i, pytest.approx(final)))
        assert rate.default == 0.0
        assert layer.bypass_mid.skip_rate == 0.0


def test_a_stack_is_skipped_nowhere_as_a_whole() -> None:
    assert stack(2).bypass.skip_rate == 0.0
    assert not hasattr(stack(1), "bypass")


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("num_frames", [8, 9, 11])
def test_output_is_as_long_as_the_input(factor: int, num_frames: int) -> None:
    x, padding = seeded(2, num_frames, 16), torch.zeros(2, num_frames, dtype=torch.bool)
    assert stack(factor).eval()(x, None, None, padding, -1).shape == x.shape


def test_feature_mask_silences_channels_inside_the_stack_only() -> None:
    """Masked channels enter each layer as zeros, so their values do not affect the other channels."""
    module = stack(1).eval()
    x, padding = seeded(2, 9, 16), torch.zeros(2, 9, dtype=torch.bool)
    mask = torch.ones(2, 1, 16)
    mask[:, :, 12:] = 0.0
    other = x.clone()
    other[:, :, 12:] = 7.0
    y = module(x, mask, None, padding, -1)
    assert (y[:, :, 12:] == 0).all()
    assert torch.equal(y, module(other, mask, None, padding, -1))
    downsampled = stack(2).eval()
    y = downsampled(x, mask, None, padding, -1)
    torch.testing.assert_close(y[:, :, 12:], 0.5 * x[:, :, 12:])  # the bypass around it keeps the input
