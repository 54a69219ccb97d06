"""Models to export: small, with random weights that differ from layer to layer."""

import dataclasses

import torch

from tests.tiny_model import tiny_asr_model, tiny_config
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.model import AsrModel


def perturbed(model: AsrModel, seed: int = 1) -> AsrModel:
    """Change every weight a little: untrained layers of a stack are equal, and a graph would merge them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 * parameter.abs().mean().clamp(min=0.01)
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def random_model(*, vocab_size: int | None = None, **heads: bool) -> AsrModel:
    """`tiny_asr_model`, perturbed, with a seed for which both heads emit many tokens."""
    return perturbed(tiny_asr_model(10, vocab_size=vocab_size, **heads))


def causal_model(conv_channels: tuple[int, int, int] = (4, 16, 128)) -> AsrModel:
    """A small causal model with both heads, two layers in one stack and kernels that are longer than short inputs."""
    config = tiny_config()
    assert isinstance(config.encoder, ZipformerConfig)
    encoder = dataclasses.replace(config.encoder, is_causal=True, num_layers=(1, 2, 1), conv_channels=conv_channels)
    torch.manual_seed(0)
    model = AsrModel(dataclasses.replace(config, encoder=encoder)).eval()
    assert model.transducer is not None
    with torch.no_grad():
        model.transducer.joiner.output.weight.mul_(20)  # as in `tiny_asr_model`
    return perturbed(model)
