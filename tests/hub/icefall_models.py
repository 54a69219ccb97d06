"""A small model of our own, and its weights as icefall writes them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.tiny_model import tiny_tokenizer
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.features import FbankConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.hub import original_key
from zipasr.model import AsrConfig, AsrModel


def small_model(
    num_heads: tuple[int, ...] = (1, 2),
    head_dims: tuple[int | tuple[int, ...], ...] = (32, 12, 4),
    num_features: int = 80,
    **settings: Any,
) -> AsrModel:
    """A small model with a transducer and a CTC head; `settings` are those of its encoder."""
    encoder = ZipformerConfig(
        num_features=num_features,
        conv_channels=(2, 4, 8),
        channels=(32, 48),
        unmasked_channels=(32, 32),
        num_layers=(1, 2),
        downsample=(1, 2),
        feedforward=(32, 48),
        num_heads=num_heads,
        kernel_sizes=(15, 7),
        query_head_dim=head_dims[0],
        value_head_dim=head_dims[1],
        pos_head_dim=head_dims[2],
        pos_dim=8,
        **settings,
    )
    torch.manual_seed(0)
    return AsrModel(
        AsrConfig(
            vocab_size=tiny_tokenizer().vocab_size,
            features=FbankConfig(num_mel_bins=num_features),
            encoder=encoder,
            transducer=TransducerConfig(predictor_dim=16, joiner_dim=24),
            ctc=CtcConfig(),
        )
    ).eval()


def icefall_state_dict(model: AsrModel) -> dict[str, Tensor]:
    """The weights of our model under the original's names and in its shapes."""
    tensors = {original_key(name): tensor.clone() for name, tensor in model.state_dict().items()}
    for key, tensor in tensors.items():
        if "pointwise_conv" in key and tensor.dim() == 2:
            tensors[key] = tensor[:, :, None, None]
    return tensors


def assert_same_weights(model: AsrModel, expected: Mapping[str, Tensor]) -> None:
    """Check that the weights of a model are float32 and equal the expected ones bit by bit."""
    own = model.state_dict()
    assert own.keys() == expected.keys()
    for name, tensor in expected.items():
        assert own[name].dtype == torch.float32
        assert torch.equal(own[name], tensor), name
