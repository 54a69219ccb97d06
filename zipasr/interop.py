"""Icefall checkpoints -> ours. The only file that knows the original's key names.

A reference checkpoint is `{"model": state_dict}` without any configuration; keys and shapes are those of the published
Zipformer recipe (and of the authors' `zipformer` package, which kept them).
"""

import re
from collections.abc import Mapping

from torch import Tensor

_LAYER_RENAMES = (
    ("self_attn_weights.", "attention_weights."),
    ("self_attn1.", "self_attention1."),
    ("self_attn2.", "self_attention2."),
    ("conv_module1.", "conv1."),
    ("conv_module2.", "conv2."),
    ("depthwise_conv.causal_conv.weight", "depthwise.causal_weight"),
    ("depthwise_conv.causal_conv.bias", "depthwise.causal_bias"),
    ("depthwise_conv.chunkwise_conv.weight", "depthwise.chunkwise_weight"),
    ("depthwise_conv.chunkwise_conv.bias", "depthwise.chunkwise_bias"),
    ("depthwise_conv.chunkwise_conv_scale", "depthwise.edge_scale"),
    ("depthwise_conv.", "depthwise."),
    ("bypass.bypass_scale", "bypass.scale"),
    ("bypass_mid.bypass_scale", "bypass_mid.scale"),
)
_RENAMES = (
    (r"^encoder_embed\.conv\.0\.", "encoder.frontend.conv1."),
    (r"^encoder_embed\.conv\.4\.", "encoder.frontend.conv2."),
    (r"^encoder_embed\.conv\.7\.", "encoder.frontend.conv3."),
    (r"^encoder_embed\.convnext\.depthwise_conv\.", "encoder.frontend.convnext.depthwise."),
    (r"^encoder_embed\.convnext\.pointwise_conv(\d)\.", r"encoder.frontend.convnext.pointwise\1."),
    (r"^encoder_embed\.", "encoder.frontend."),
    (r"^encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.", r"encoder.stacks.\1.layers."),
    (r"^encoder\.encoders\.(\d+)\.downsample\.", r"encoder.stacks.\1.downsample."),
    (r"^encoder\.encoders\.(\d+)\.out_combiner\.bypass_scale", r"encoder.stacks.\1.bypass.scale"),
    (r"^encoder\.downsample_output\.", "encoder.output_downsample."),
    (r"^decoder\.", "transducer.predictor."),
    (r"^joiner\.encoder_proj\.", "transducer.joiner.encoder_proj."),
    (r"^joiner\.decoder_proj\.", "transducer.joiner.predictor_proj."),
    (r"^joiner\.output_linear\.", "transducer.joiner.output."),
    (r"^simple_am_proj\.", "transducer.simple_am."),
    (r"^simple_lm_proj\.", "transducer.simple_lm."),
    (r"^ctc_output\.1\.", "ctc.output."),
)


def rename_layer_key(key: str) -> str:
    """Our name of a parameter inside one block, from the original's."""
    if key == "bypass_scale":
        return "unused_scale"
    for theirs, ours in _LAYER_RENAMES:
        key = key.replace(theirs, ours)
    return key


def rename_key(key: str) -> str:
    """Our name of a parameter of the whole model, from the original's."""
    for pattern, replacement in _RENAMES:
        key, count = re.subn(pattern, replacement, key)
        if count:
            break
    layer = re.match(r"^(encoder\.stacks\.\d+\.layers\.\d+\.)(.*)$", key)
    return layer.group(1) + rename_layer_key(layer.group(2)) if layer else key


def rename_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reference state dict under our names; 1x1 convolutions become the linear layers they are."""
    renamed = {}
    for key, tensor in state_dict.items():
        name = rename_key(key.removeprefix("module."))
        if ".convnext.pointwise" in name and tensor.dim() == 4:
            tensor = tensor[:, :, 0, 0]
        renamed[name] = tensor
    return renamed
