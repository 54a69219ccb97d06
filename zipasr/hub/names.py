"""Names of parameters: those of the original's checkpoints, and ours.

Keys are those of icefall's Zipformer recipes, which the authors' `zipformer` package kept. Tensors have the same shapes in
both, except that 1x1 convolutions are linear layers here.
"""

import functools
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

# (theirs, ours): key prefixes. The first match applies; # stands for a number.
_PREFIXES = (
    ("encoder_embed.conv.0.", "encoder.frontend.conv1."),
    ("encoder_embed.conv.4.", "encoder.frontend.conv2."),
    ("encoder_embed.conv.7.", "encoder.frontend.conv3."),
    ("encoder_embed.convnext.depthwise_conv.", "encoder.frontend.convnext.depthwise."),
    ("encoder_embed.convnext.pointwise_conv#.", "encoder.frontend.convnext.pointwise#."),
    ("encoder_embed.", "encoder.frontend."),
    ("encoder.encoders.0.layers.#.", "encoder.stacks.0.layers.#."),
    ("encoder.encoders.#.encoder.layers.#.", "encoder.stacks.#.layers.#."),
    ("encoder.encoders.#.layers.#.", "encoder.stacks.#.layers.#."),  # a stack that is not downsampled
    ("encoder.encoders.#.downsample.", "encoder.stacks.#.downsample."),
    ("encoder.encoders.#.out_combiner.bypass_scale", "encoder.stacks.#.bypass.scale"),
    ("encoder.downsample_output.", "encoder.output_downsample."),
    ("decoder.", "transducer.predictor."),
    ("joiner.encoder_proj.", "transducer.joiner.encoder_proj."),
    ("joiner.decoder_proj.", "transducer.joiner.predictor_proj."),
    ("joiner.output_linear.", "transducer.joiner.output."),
    ("simple_am_proj.", "transducer.simple_am."),
    ("simple_lm_proj.", "transducer.simple_lm."),
    ("ctc_output.1.", "ctc.output."),
    ("attention_decoder.decoder.embed.", "attention.embedding."),
    ("attention_decoder.decoder.output_layer.", "attention.output."),
    ("attention_decoder.decoder.layers.#.", "attention.layers.#."),
)
# (theirs, ours): parts of keys inside a block. All matches apply, in this order.
_BLOCK_PARTS = (
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
_DECODER_LAYER_PARTS = (
    ("norm_self_attn.", "self_norm."),
    ("norm_src_attn.", "cross_norm."),
    ("norm_ff.", "feed_forward_norm."),
    ("self_attn.", "self_attention."),
    ("src_attn.", "cross_attention."),
    ("linear_q.", "query."),
    ("linear_k.", "key."),
    ("linear_v.", "value."),
    ("feed_forward.0.", "feed_forward.in_proj."),
    ("feed_forward.3.", "feed_forward.out_proj."),
)
_UNUSED_SCALE = ("bypass_scale", "unused_scale")
_OUR_LAYER = re.compile(r"(encoder\.stacks\.\d+\.layers\.\d+\.|attention\.layers\.\d+\.)(.*)")


def rename_layer_key(key: str) -> str:
    """Return our name of a parameter inside one block, given the original's."""
    return _UNUSED_SCALE[1] if key == _UNUSED_SCALE[0] else _replace_parts(key, _BLOCK_PARTS)


def rename_key(key: str) -> str:
    """Return our name of a parameter of the whole model, given the original's; an unknown name is returned unchanged."""
    key = _replace_prefix(key, _PREFIXES)
    layer = _OUR_LAYER.fullmatch(key)
    if layer is None:
        return key
    is_block = key.startswith("encoder.")
    return layer[1] + (rename_layer_key(layer[2]) if is_block else _replace_parts(layer[2], _DECODER_LAYER_PARTS))


def original_key(name: str) -> str:
    """Return the original's name of a parameter, given ours: the inverse of `rename_key`."""
    if layer := _OUR_LAYER.fullmatch(name):
        inner = _replace_parts(layer[2], _swapped(_BLOCK_PARTS if name.startswith("encoder.") else _DECODER_LAYER_PARTS))
        name = layer[1] + (_UNUSED_SCALE[0] if layer[2] == _UNUSED_SCALE[1] else inner)
    return _replace_prefix(name, _swapped(_PREFIXES))


def rename_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of icefall under our names, with 1x1 convolutions as linear layers."""
    renamed = {}
    for key, tensor in state_dict.items():
        name = rename_key(key.removeprefix("module."))
        if ".convnext.pointwise" in name and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        renamed[name] = tensor
    return renamed


def _replace_prefix(key: str, rows: Sequence[tuple[str, str]]) -> str:
    for old, new in rows:
        if match := key_pattern(old).match(key):
            for number in match.groups():
                new = new.replace("#", number, 1)
            return new + key[match.end() :]
    return key


@functools.cache
def key_pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)"))


def _replace_parts(key: str, rows: Sequence[tuple[str, str]]) -> str:
    for old, new in rows:
        key = key.replace(old, new)
    return key


def _swapped(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(new, old) for old, new in rows]
