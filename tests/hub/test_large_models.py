"""Contract: the largest published models fit, on the meta device; where the shapes do not say the heads, num_heads does."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.hub.icefall_models import icefall_state_dict
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import ConfigError
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.hub import ModelSettings
from zipasr.hub.shapes import infer_config
from zipasr.hub.weights import build_model
from zipasr.model import AsrConfig, AsrModel

XL = AsrConfig(
    vocab_size=500,
    encoder=ZipformerConfig(
        num_layers=(2, 2, 4, 5, 4, 2),
        feedforward=(512, 1024, 2048, 3072, 2048, 1024),
        channels=(192, 384, 768, 1024, 768, 384),
        unmasked_channels=(192, 256, 320, 512, 320, 256),
    ),
)
"""288 M parameters as published by soundsgoodai."""
MULTI_ZH_XL = AsrConfig(
    vocab_size=2000,
    encoder=ZipformerConfig(
        num_layers=(2, 3, 5, 6, 5, 3),
        feedforward=(1536, 2048, 3072, 4096, 3072, 1536),
        channels=(512, 768, 1024, 1536, 1024, 512),
        unmasked_channels=(512,) * 6,
        query_head_dim=48,
        value_head_dim=18,
        is_causal=True,
    ),
    transducer=TransducerConfig(predictor_dim=768, joiner_dim=768),
    ctc=CtcConfig(),
)
"""Published as 700 M parameters; these widths give 757.6 M."""


def tensors_of(config: AsrConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return icefall_state_dict(AsrModel(config))


def fitted(tensors: dict[str, Tensor], settings: ModelSettings) -> AsrConfig:
    """The configuration, after a check that every tensor fits it."""
    config = infer_config(tensors, settings)
    with torch.device("meta"):
        build_model(config, tensors)
    return config


def num_millions(tensors: dict[str, Tensor]) -> float:
    return sum(tensor.numel() for tensor in tensors.values()) / 1e6


def test_xl() -> None:
    tensors = tensors_of(XL)
    assert num_millions(tensors) == pytest.approx(288, abs=1.5)
    assert fitted(tensors, ModelSettings()) == XL


def test_xl_with_ctc_alone() -> None:
    """The authors' xlarge, with their vocabulary of 8,776 entries."""
    config = dataclasses.replace(XL, vocab_size=8776, transducer=None, ctc=CtcConfig())
    assert fitted(tensors_of(config), ModelSettings()) == config


def test_heads_of_700_million_parameters_must_be_given() -> None:
    tensors = tensors_of(MULTI_ZH_XL)
    assert num_millions(tensors) == pytest.approx(757.55, abs=0.01)
    with pytest.raises(ConfigError, match=r"stack 0 does not have heads of the published widths .* give num_heads"):
        infer_config(tensors, ModelSettings())
    assert fitted(tensors, ModelSettings(num_heads=(4, 4, 4, 8, 4, 4))) == MULTI_ZH_XL
    assert infer_config(tensors, ModelSettings(query_head_dim=48)) == MULTI_ZH_XL
    with pytest.raises(ConfigError, match="num_heads=7 cannot be true of stack 0"):
        infer_config(tensors, ModelSettings(num_heads=7))
