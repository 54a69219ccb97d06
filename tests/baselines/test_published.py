"""Contract: parameters and FLOPs of every published size.

Source: Yao et al. 2024, arXiv:2310.11230, table 2. FLOPs are those of linear layers, convolutions and matrix products on 30
s, 2 per multiply-add; the paper's own tool also counts some element-wise operations, hence a tolerance of 2.5 %.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.baselines.tiny_encoders import BUILDERS
from zipasr.baselines import branchformer, conformer, e_branchformer, squeezeformer

GFLOPS = [
    (conformer.small, 29.1),
    (conformer.medium, 77.0),
    (conformer.large, 294.2),
    (squeezeformer.extra_small, 18.2),
    (squeezeformer.small, 33.7),
    (squeezeformer.small_medium, 47.6),
    (squeezeformer.medium, 88.4),
    (squeezeformer.medium_large, 183.3),
    (squeezeformer.large, 333.7),
    (branchformer.base, 238.3),
    (e_branchformer.base, 78.1),
    (e_branchformer.large, 284.4),
]


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return BUILDERS[type(config)](config).eval()


def encoder_parameters(config: Any) -> int:
    return sum(parameter.numel() for parameter in on_meta(config).parameters())


def size_name(value: Any) -> str:
    return f"{value.__module__.split('.')[-1]}.{value.__name__}" if callable(value) else str(value)


@pytest.mark.parametrize(("size", "gflops"), GFLOPS, ids=size_name)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@torch.no_grad()
def test_flops(size: Callable[[], Any], gflops: float, device: str) -> None:
    encoder = on_meta(size())
    with FlopCounterMode(display=False) as counter:
        encoder(torch.empty(1, 3000, 80, device="meta"), torch.full((1,), 3000, device=device))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, rel=0.025)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def icefall_head(channels: int) -> int:
    """Parameters of the recipe's transducer head: frame scores, predictor and joiner for 500 BPE pieces."""
    vocab, width = 500, 512
    predictor = vocab * width + 2 * width + linear(width, vocab)  # embedding and depthwise convolution over 2 labels
    joiner = linear(vocab, width) + linear(width, vocab)
    return linear(channels, vocab) + predictor + joiner


@pytest.mark.parametrize(
    ("size", "total"),
    [(conformer.small, 9_789_436), (conformer.medium, 28_417_500), (conformer.large, 122_457_052)],
    ids=size_name,
)
def test_conformer_parameters(size: Callable[[], Any], total: int) -> None:
    config = size()
    assert encoder_parameters(config) + icefall_head(config.channels) == total


@pytest.mark.parametrize(
    ("size", "formula", "published"),
    [
        (squeezeformer.extra_small, 9.03, 9.0),
        (squeezeformer.small, 18.57, 18.6),
        (squeezeformer.small_medium, 28.18, 28.2),
        (squeezeformer.medium, 55.62, 55.6),
        (squeezeformer.medium_large, 125.03, 125.1),
        (squeezeformer.large, 236.25, 236.3),
    ],
    ids=size_name,
)
def test_squeezeformer_parameters(size: Callable[[], Any], formula: float, published: float) -> None:
    """Encoder and CTC layer for 128 pieces; running averages are not parameters."""
    config = size()
    millions = (encoder_parameters(config) + linear(config.channels, 128)) / 1e6
    assert millions == pytest.approx(formula, abs=0.005)
    assert millions == pytest.approx(published, rel=0.005)


def espnet_heads(channels: int) -> int:
    """Parameters of 6 Transformer decoder layers and a CTC layer for 5000 BPE pieces.

    A decoder layer attends to itself and to the encoder (4 linear layers each) and has a feed-forward module of 2048 and
    three LayerNorms; the decoder adds an embedding, a LayerNorm and an output layer of its own.
    """
    vocab, hidden = 5000, 2048
    attention = 4 * linear(channels, channels)
    layer = 2 * attention + linear(channels, hidden) + linear(hidden, channels) + 3 * 2 * channels
    decoder = vocab * channels + 6 * layer + 2 * channels + linear(channels, vocab)
    return decoder + linear(channels, vocab)


def test_branchformer_parameters() -> None:
    parameters = encoder_parameters(branchformer.base())
    assert parameters == 83_969_024
    assert (parameters + espnet_heads(512)) / 1e6 == pytest.approx(116.2, rel=0.01)


def test_e_branchformer_parameters() -> None:
    assert encoder_parameters(e_branchformer.large()) + espnet_heads(512) == 148_923_152
    assert (encoder_parameters(e_branchformer.base()) + espnet_heads(256)) / 1e6 == pytest.approx(41.1, rel=0.001)


def test_e_branchformer_of_another_recipe() -> None:
    """The formula also holds for another recipe (LibriSpeech-100), with 38.47 M published parameters."""
    config = e_branchformer.EBranchformerConfig(
        subsampling_channels=256, num_layers=12, channels=256, num_heads=4, feedforward=1024, gating_channels=1024
    )
    assert (encoder_parameters(config) + espnet_heads(256)) / 1e6 == pytest.approx(38.47, abs=0.005)
