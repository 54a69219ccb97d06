"""Contract: every key of the published checkpoints finds its place and shape in ours, and nothing is left over."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden_files import FOLDER
from zipasr.heads.ctc import CtcConfig
from zipasr.interop import rename_key, rename_layer_key, rename_state_dict
from zipasr.model import AsrConfig, AsrModel, large, medium, small

PRESETS = {"S": small, "M": medium, "L": large}


def published(size: str) -> dict[str, Tensor]:
    """The tensors of a published checkpoint without their content, attention decoder left out."""
    shapes: dict[str, Any] = json.loads((FOLDER / "f_state_dict_names.json").read_text())[size]
    return {
        name: torch.empty(shape, device="meta")
        for name, shape in shapes.items()
        if not name.startswith("attention_decoder.")
    }


@pytest.mark.parametrize("size", list(PRESETS))
def test_every_published_key_and_shape_is_ours(size: str) -> None:
    config: AsrConfig = PRESETS[size]()
    with torch.device("meta"):
        model = AsrModel(AsrConfig(encoder=config.encoder, transducer=config.transducer, ctc=CtcConfig()))
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in rename_state_dict(published(size)).items()}
    assert theirs == ours


def test_renaming_never_makes_two_keys_one() -> None:
    keys = published("M")
    assert len({rename_key(key) for key in keys}) == len(keys)


def test_prefix_of_data_parallelism_is_dropped() -> None:
    renamed = rename_state_dict({"module.joiner.output_linear.bias": torch.zeros(3)})
    assert list(renamed) == ["transducer.joiner.output.bias"]


def test_pointwise_convolutions_become_linear_layers() -> None:
    weight = torch.arange(6.0).reshape(3, 2, 1, 1)
    renamed = rename_state_dict({"encoder_embed.convnext.pointwise_conv1.weight": weight})
    assert torch.equal(renamed["encoder.frontend.convnext.pointwise1.weight"], weight[:, :, 0, 0])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("bypass_scale", "unused_scale"),
        ("bypass.bypass_scale", "bypass.scale"),
        ("bypass_mid.bypass_scale", "bypass_mid.scale"),
        ("conv_module2.depthwise_conv.weight", "conv2.depthwise.weight"),
        ("conv_module1.depthwise_conv.chunkwise_conv_scale", "conv1.depthwise.edge_scale"),
        ("conv_module1.depthwise_conv.chunkwise_conv.bias", "conv1.depthwise.chunkwise_bias"),
        ("self_attn_weights.linear_pos.weight", "attention_weights.linear_pos.weight"),
        ("feed_forward3.out_proj.bias", "feed_forward3.out_proj.bias"),
    ],
)
def test_keys_of_a_block(theirs: str, ours: str) -> None:
    assert rename_layer_key(theirs) == ours
    assert rename_key(f"encoder.encoders.2.encoder.layers.1.{theirs}") == f"encoder.stacks.2.layers.1.{ours}"
    assert rename_key(f"encoder.encoders.0.layers.1.{theirs}") == f"encoder.stacks.0.layers.1.{ours}"


def test_unknown_keys_are_kept_so_that_loading_can_refuse_them() -> None:
    assert rename_key("something.else") == "something.else"
