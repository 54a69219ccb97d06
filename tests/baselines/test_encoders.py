"""Requirements of every encoder family. Law: padding, the order of a batch and the batch itself change nothing; every input
gives `output_length` frames. Run: one step of Adam lowers the loss, every parameter gets a gradient. Contract: refused input
and configurations, JSON."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.baselines.tiny_encoders import CONFIGS, build, without_dropout
from tests.golden_files import seeded
from zipasr.config import from_json, to_json
from zipasr.errors import ConfigError

pytestmark = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
LENS = (61, 35, 0, 42)


def padded_batch(fill: float, num_frames: int = 64) -> tuple[Tensor, Tensor]:
    """Four utterances with the same valid features every time; the padding is random around `fill`."""
    features = fill + seeded(len(LENS), num_frames, 20, seed=int(fill))
    for n, length in enumerate(LENS):
        features[n, :length] = seeded(length, 20, seed=n)
    return features, torch.tensor(LENS)


@torch.no_grad()
def test_padding_and_batch_change_nothing(config: Any) -> None:
    encoder = build(config)
    frames, lens = encoder(*padded_batch(3.0))
    other, _ = encoder(*padded_batch(-20.0, num_frames=83))
    assert frames.isfinite().all()
    assert lens.tolist() == [encoder.output_length(length) for length in LENS]
    for n, length in enumerate(lens.tolist()):
        torch.testing.assert_close(frames[n, :length], other[n, :length], atol=1e-5, rtol=1e-4)
        if length:
            alone = encoder(seeded(1, LENS[n], 20, seed=n), torch.tensor([LENS[n]])).frames
            torch.testing.assert_close(frames[n : n + 1, :length], alone, atol=1e-5, rtol=1e-4)


def test_padding_may_be_nan(config: Any) -> None:
    """Neither frames nor gradients depend on it."""
    results = []
    for fill in (3.0, math.nan):
        encoder, (features, lens) = build(config), padded_batch(3.0)
        for n, length in enumerate(LENS):
            features[n, length:] += fill
        frames, frame_lens = encoder(features, lens)
        valid = torch.cat([frames[n, :length] for n, length in enumerate(frame_lens.tolist())])
        valid.sin().sum().backward()
        results.append([valid, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_order_changes_nothing(config: Any) -> None:
    encoder, (features, lens) = build(config), padded_batch(1.0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        encoder(features[order], lens[order]).frames, encoder(features, lens).frames[order], atol=1e-5, rtol=1e-4
    )


def test_padding_changes_nothing_in_training(config: Any) -> None:
    frames, buffers = [], []
    for fill in (3.0, -20.0):
        encoder = build(config, **without_dropout(config)).train()
        frames.append(encoder(*padded_batch(fill)).frames)
        buffers.append(torch.cat([torch.zeros(1), *(buffer for buffer in encoder.buffers())]))
    for n, length in enumerate(LENS):
        own = slice(0, encoder.output_length(length))
        torch.testing.assert_close(frames[0][n, own], frames[1][n, own], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(buffers[0], buffers[1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_every_length(config: Any) -> None:
    encoder = build(config)
    least = next(n for n in itertools.count() if encoder.output_length(n))
    for num_frames in range(least, least + 24):
        frames, lens = encoder(torch.zeros(1, num_frames, 20), torch.tensor([num_frames]))
        assert frames.shape == (1, encoder.output_length(num_frames), encoder.output_channels)
        assert lens.tolist() == [frames.shape[1]]
        assert frames.isfinite().all()
    assert [encoder.output_length(n) for n in range(least)] == [0] * least
    assert encoder.output_length(3000) in (749, 750)  # at 25 Hz


@torch.no_grad()
def test_same_output_twice(config: Any) -> None:
    encoder, batch = build(config), padded_batch(0.0)
    assert torch.equal(encoder(*batch).frames, encoder(*batch).frames)


def test_every_parameter_learns(config: Any) -> None:
    encoder = build(config, **without_dropout(config)).train()
    frames, lens = encoder(*padded_batch(0.0))
    valid = torch.arange(frames.shape[1]) < lens.unsqueeze(1)
    (frames[valid] * seeded(*frames[valid].shape)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_loss_falls(config: Any) -> None:
    encoder, (features, lens) = build(config).train(), padded_batch(0.0)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    target = seeded(*encoder(features, lens).frames.shape)

    def loss() -> Tensor:
        frames, frame_lens = encoder(features, lens)
        valid = torch.arange(frames.shape[1]) < frame_lens.unsqueeze(1)
        return (frames - target)[valid].square().mean()

    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(loss())
        losses[-1].backward()
        optimizer.step()
    assert torch.stack(losses[-5:]).mean() < 0.8 * losses[0]


@torch.no_grad()
def test_bfloat16_autocast_is_near(config: Any) -> None:
    encoder, batch = build(config), padded_batch(0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames = encoder(*batch).frames
    assert (frames.float() - encoder(*batch).frames).abs().mean() < 0.05


def test_refuses_wrong_input(config: Any) -> None:
    encoder = build(config)
    with pytest.raises(ValueError, match=r"features must be \(N, T >= \d, 20\), but are \(1, 40, 21\)"):
        encoder(torch.zeros(1, 40, 21), torch.tensor([40]))
    with pytest.raises(ValueError, match="features must be"):
        encoder(torch.zeros(1, 0, 20), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"lens must be \(1,\), but is \(2,\)"):
        encoder(torch.zeros(1, 40, 20), torch.tensor([40, 40]))
    for length in (-1, 41):
        with pytest.raises(ValueError, match="lens must be within 0 and T = 40"):
            encoder(torch.zeros(1, 40, 20), torch.tensor([length]))


WRONG = {
    "num_features": 0,
    "subsampling_channels": 0,
    "num_layers": 0,
    "channels": 15,
    "num_heads": 3,
    "feedforward": 0,
    "gating_channels": 25,
    "kernel_size": 4,
    "merge_kernel_size": 0,
    "dropout": 1.0,
    "layer_drop": -0.1,
    "reduce_at": 3,
    "recover_at": 5,
}


def test_refuses_wrong_configurations(config: Any) -> None:
    for field in dataclasses.fields(config):
        with pytest.raises(ConfigError, match=field.name):
            dataclasses.replace(config, **{field.name: WRONG[field.name]})


def test_json_and_back(config: Any) -> None:
    assert from_json(type(config), to_json(config)) == config
