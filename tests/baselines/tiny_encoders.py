"""A tiny configuration of every baseline encoder family, and the encoder that each builds."""

import dataclasses
from typing import Any

import torch

from zipasr import baselines

CONFIGS = (
    baselines.ConformerConfig(
        num_features=20, subsampling_channels=4, num_layers=2, channels=16, num_heads=2, feedforward=24, kernel_size=5
    ),
    baselines.SqueezeformerConfig(
        num_features=20,
        subsampling_channels=4,
        num_layers=4,
        reduce_at=1,
        recover_at=3,
        channels=16,
        num_heads=2,
        feedforward=24,
        kernel_size=5,
    ),
    baselines.BranchformerConfig(
        num_features=20, subsampling_channels=4, num_layers=2, channels=16, num_heads=2, gating_channels=24, kernel_size=5
    ),
    baselines.EBranchformerConfig(
        num_features=20,
        subsampling_channels=4,
        num_layers=2,
        channels=16,
        num_heads=2,
        feedforward=24,
        gating_channels=24,
        kernel_size=5,
        merge_kernel_size=7,
    ),
)
BUILDERS: dict[type, Any] = {
    baselines.ConformerConfig: baselines.Conformer,
    baselines.SqueezeformerConfig: baselines.Squeezeformer,
    baselines.BranchformerConfig: baselines.Branchformer,
    baselines.EBranchformerConfig: baselines.EBranchformer,
}


def build(config: Any, **settings: Any) -> Any:
    """The encoder of `config` with `settings` replaced, in eval mode, every parameter perturbed with a fixed seed."""
    torch.manual_seed(0)
    encoder = BUILDERS[type(config)](dataclasses.replace(config, **settings))
    with torch.no_grad():  # scales are initialized to 1 and gates near 0, which would hide mistakes
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return encoder.eval()


def without_dropout(config: Any) -> dict[str, float]:
    """Settings that make training deterministic."""
    return {name: 0.0 for name in ("dropout", "layer_drop") if hasattr(config, name)}
