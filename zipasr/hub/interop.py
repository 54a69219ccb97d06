"""Conversion of icefall checkpoints: `load_icefall(file, tokenizer)` returns an `AsrModel`. The only file that knows the
original's key names.

A checkpoint of icefall holds named tensors and no configuration. Keys and shapes are those of the published Zipformer recipe
(and of the authors' `zipformer` package, which kept them), and the configuration is inferred from the shapes. The number of
attention heads cannot be inferred if the width of a head is not the published one; then the caller must give it.
"""

# Differs: longer than 400 lines. Half of them are tables and arguments, and foreign names stay in one file.

import functools
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.model import AsrConfig, AsrModel
from zipasr.tokenizer import Tokenizer
from zipasr.torch_file import read_torch_file

logger = logging.getLogger(__name__)

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

_PUBLISHED_HEADS = {"query_head_dim": 32, "value_head_dim": 12, "pos_head_dim": 4}
_HEAD_TENSORS = {
    "query_head_dim": "self_attn_weights.in_proj",
    "value_head_dim": "self_attn1.in_proj",
    "pos_head_dim": "self_attn_weights.linear_pos",
}
_DECODER_HEAD_DIM = 64  # of the published attention decoder
# channels -> unmasked channels: the recipe's small, medium and large, and the extra large of the authors' package
_PUBLISHED_UNMASKED: dict[tuple[int, ...], tuple[int, ...]] = {
    (192, 256, 256, 256, 256, 256): (192, 192, 192, 192, 192, 192),
    (192, 256, 384, 512, 384, 256): (192, 192, 256, 256, 256, 192),
    (192, 256, 512, 768, 512, 256): (192, 192, 256, 320, 256, 192),
    (192, 384, 768, 1024, 768, 384): (192, 256, 320, 512, 320, 256),
}
VOCABULARY_FILES = ("bbpe.model", "bpe.model", "tokens.txt")
"""Names of vocabularies of recipes; the first one that is there says most."""
_EXPECTED = (
    "expected the Zipformer of icefall's `zipformer` recipes (egs/*/ASR/zipformer) or of the `zipformer` package; earlier "
    "recipes have other encoders"
)


class _Given(NamedTuple):
    """Facts about the model that the caller gave, None where they must be inferred."""

    num_heads: int | Sequence[int] | None
    query_head_dim: int | Sequence[int] | None
    value_head_dim: int | Sequence[int] | None
    pos_head_dim: int | Sequence[int] | None
    unmasked_channels: int | Sequence[int] | None
    attention_decoder_heads: int | None


# Differs: ten parameters, since each says what the file does not, and a config object would only repeat their names.
def load_icefall(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | str | os.PathLike[str],
    *,
    num_heads: int | Sequence[int] | None = None,
    query_head_dim: int | Sequence[int] | None = None,
    value_head_dim: int | Sequence[int] | None = None,
    pos_head_dim: int | Sequence[int] | None = None,
    unmasked_channels: int | Sequence[int] | None = None,
    attention_decoder_heads: int | None = None,
    which: Literal["model", "model_avg"] = "model",
    trust_pickle: bool = False,
) -> AsrModel:
    """Load a checkpoint file of icefall as a model in eval mode on the CPU.

    Args:
        path: `pretrained.pt`, `epoch-N.pt`, a file with the bare state dict, or the same tensors as safetensors.
        tokenizer: the vocabulary that the model was trained with, or the path of its sentencepiece `bpe.model`
            or `bbpe.model`, or of its `tokens.txt` where that holds characters (data/lang_char).
        num_heads: see `model_from_icefall`, also for the next five arguments.
        which: `model` for the weights at that step, `model_avg` for the running average in `epoch-N.pt`.
        trust_pickle: whether loading may run code, which a file needs that holds more than tensors and plain values. Set
            it only for files whose author you would also trust with a program.
    Raises:
        CheckpointError: the file is missing, damaged, of another kind, unsafe, or lacks tensors.
        ConfigError: an argument is missing or contradicts the shapes, or the tokenizer is another model's.
    """
    if which not in ("model", "model_avg"):
        raise ValueError(f"which must be model or model_avg, but is {which!r}")
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = open_tokenizer(tokenizer)
    given = _Given(num_heads, query_head_dim, value_head_dim, pos_head_dim, unmasked_channels, attention_decoder_heads)
    path = Path(path)
    content = read_torch_file(path, trust_pickle=trust_pickle)
    try:
        tensors = _checked_tensors(_state_dict(content, which))
        config = _infer_config(tensors, given)
        if tokenizer.vocab_size != config.vocab_size:
            raise ConfigError(
                f"the tokenizer must have as many entries as the model, {config.vocab_size}, but has "
                f"{tokenizer.vocab_size}; give the bpe.model, bbpe.model or tokens.txt that the model was trained with"
            )
        config = config.for_vocabulary(tokenizer)
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise CheckpointError(f"{key} has numbers that are not finite; use an earlier checkpoint of the training")
        return _build(config, tensors)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error


def model_from_icefall(
    state_dict: Mapping[str, Tensor],
    *,
    num_heads: int | Sequence[int] | None = None,
    query_head_dim: int | Sequence[int] | None = None,
    value_head_dim: int | Sequence[int] | None = None,
    pos_head_dim: int | Sequence[int] | None = None,
    unmasked_channels: int | Sequence[int] | None = None,
    attention_decoder_heads: int | None = None,
) -> AsrModel:
    """Convert a state dict of icefall to a model in eval mode.

    The four sizes of attention heads are needed only if they are not the published ones (32, 12 and 4 per head); then
    any one of them determines the others. They and `unmasked_channels` are a number for all stacks or one entry per stack.

    Args:
        state_dict: tensors under the original's names, of any floating-point type, with or without `module.` in front.
        num_heads: attention heads of the encoder, `--num-heads` of the recipe.
        query_head_dim: width of a query and a key of one head.
        value_head_dim: width of a value of one head.
        pos_head_dim: width of a positional query of one head.
        unmasked_channels: `--encoder-unmasked-dim`, which matters only for further training. Default: the published
            value; for other shapes the width of the narrowest stack, whose channels all stacks have.
        attention_decoder_heads: heads of the attention decoder; default: 64 channels each, as published.
    Raises:
        CheckpointError: a tensor is missing or unknown or has an impossible shape.
        ConfigError: an argument is missing or contradicts the shapes.
    """
    given = _Given(num_heads, query_head_dim, value_head_dim, pos_head_dim, unmasked_channels, attention_decoder_heads)
    tensors = _checked_tensors(state_dict)
    return _build(_infer_config(tensors, given), tensors)


# Names


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
        if match := _pattern(old).match(key):
            for number in match.groups():
                new = new.replace("#", number, 1)
            return new + key[match.end() :]
    return key


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)"))


def _replace_parts(key: str, rows: Sequence[tuple[str, str]]) -> str:
    for old, new in rows:
        key = key.replace(old, new)
    return key


def _swapped(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(new, old) for old, new in rows]


# Configuration


def _checked_tensors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {}
    for key, tensor in state_dict.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            if isinstance(tensor, Mapping):
                raise CheckpointError(
                    f"{key} must be a tensor, but is another dict: give the state dict itself, checkpoint['model'], or let "
                    "load_icefall open the file"
                )
            kind = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{key} must be a tensor of floating-point numbers, but is {kind}; {_EXPECTED}")
        tensors[key.removeprefix("module.")] = tensor
    if len(tensors) != len(state_dict):
        raise CheckpointError("the state dict has keys that differ only by `module.` in front; remove one of each pair")
    return tensors


def _infer_config(tensors: Mapping[str, Tensor], given: _Given) -> AsrConfig:
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    encoder = _encoder_config(shapes, given)
    sizes = [
        _shape(shapes, key, 2)[0]
        for key in ("decoder.embedding.weight", "ctc_output.1.weight", "attention_decoder.decoder.embed.weight")
        if key in shapes
    ]
    if not sizes:
        raise CheckpointError(f"there is no decoder, ctc_output or attention_decoder in the checkpoint; {_EXPECTED}")
    return AsrConfig(
        vocab_size=sizes[0],
        features=FbankConfig(num_mel_bins=encoder.num_features),
        encoder=encoder,
        transducer=_transducer_config(shapes),
        ctc=CtcConfig() if "ctc_output.1.weight" in shapes else None,
        attention=_attention_config(shapes, given),
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str, num_dims: int) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(f"there is no {key} in the checkpoint; {_EXPECTED}")
    if len(shapes[key]) != num_dims or 0 in shapes[key]:
        raise CheckpointError(f"{key} must have {num_dims} axes, none of them empty, but is {shapes[key]}")
    return shapes[key]


def _count(shapes: Mapping[str, tuple[int, ...]], template: str) -> int:
    """Number of different indices at the # of `template`, which must be 0, 1, 2 and so on."""
    found = {int(match[1]) for key in shapes if (match := _pattern(template).match(key))}
    if not found or found != set(range(len(found))):
        numbers = ", ".join(map(str, sorted(found))) or "nothing"
        raise CheckpointError(
            f"there must be {template} for # = 0, 1 and so on in the checkpoint, but # is {numbers}; {_EXPECTED}"
        )
    return len(found)


def _encoder_config(shapes: Mapping[str, tuple[int, ...]], given: _Given) -> ZipformerConfig:
    num_stacks = _count(shapes, "encoder.encoders.#.")
    blocks, num_layers, downsample = [], [], []
    for i in range(num_stacks):
        stack = f"encoder.encoders.{i}."
        layers = f"{stack}layers." if f"{stack}layers.0.norm.bias" in shapes else f"{stack}encoder.layers."
        num_layers.append(_count(shapes, f"{layers}#."))
        blocks.append(f"{layers}0.")
        downsample.append(_shape(shapes, f"{stack}downsample.bias", 1)[0] if f"{stack}downsample.bias" in shapes else 1)
    is_causal = any(".depthwise_conv.causal_conv." in key for key in shapes)
    kernel = f"conv_module1.depthwise_conv.{'chunkwise_conv.' if is_causal else ''}weight"
    kernel_sizes = tuple(_shape(shapes, block + kernel, 3)[2] for block in blocks)
    channels = tuple(_shape(shapes, f"{block}norm.bias", 1)[0] for block in blocks)
    unmasked = _per_stack(given, "unmasked_channels", num_stacks)
    if unmasked is None:
        unmasked = _PUBLISHED_UNMASKED.get(channels, (min(channels),) * num_stacks)
    chunks, left_contexts = _training_chunks(downsample, kernel_sizes)
    return ZipformerConfig(
        **_frontend_sizes(shapes),
        channels=channels,
        unmasked_channels=unmasked,
        num_layers=tuple(num_layers),
        downsample=tuple(downsample),
        feedforward=tuple(_shape(shapes, f"{block}feed_forward2.in_proj.weight", 2)[0] for block in blocks),
        kernel_sizes=kernel_sizes,
        **_head_sizes(shapes, blocks, given),
        pos_dim=_shape(shapes, f"{blocks[0]}self_attn_weights.linear_pos.weight", 2)[1],
        is_causal=is_causal,
        chunk_frames_50hz=chunks,
        left_context_frames_50hz=left_contexts,
    )


def _training_chunks(downsample: Sequence[int], kernel_sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The published chunks and left contexts, except those that this encoder's shape does not allow."""
    default = ZipformerConfig()
    reach = max(kernel // 2 * factor for kernel, factor in zip(kernel_sizes, downsample, strict=True))
    chunks = tuple(chunk for chunk in default.chunk_frames_50hz if chunk == -1 or chunk % math.lcm(*downsample) == 0)
    left_contexts = tuple(
        left
        for left in default.left_context_frames_50hz
        if left == -1 or all(min(left, max(1, left // chunk) * chunk) >= reach for chunk in chunks if chunk != -1)
    )
    return chunks, left_contexts


def _frontend_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Channels of Conv-Embed, and mel bins F, inferred from its F' = ((F - 1) // 2 - 1) // 2 frequencies."""
    conv_channels = tuple(_shape(shapes, f"encoder_embed.conv.{i}.weight", 4)[0] for i in (0, 4, 7))
    columns = _shape(shapes, "encoder_embed.out.weight", 2)[1]
    num_frequencies, rest = divmod(columns, conv_channels[2])
    if rest:
        raise CheckpointError(
            f"encoder_embed.out.weight must have a multiple of {conv_channels[2]} columns, the channels of "
            f"encoder_embed.conv.7, but has {columns}"
        )
    # F = 4F' + 3 to 4F' + 6 give the same F'. One of the four is a multiple of 4, as 80 and all other usual numbers are.
    num_features = 4 * num_frequencies + 4
    if num_features != ZipformerConfig().num_features:
        logger.warning(
            "The model has from %d to %d mel bins; assuming %d.", num_features - 1, num_features + 2, num_features
        )
    return {"conv_channels": conv_channels, "num_features": num_features}


def _per_stack(given: _Given, name: str, num_stacks: int) -> tuple[int, ...] | None:
    """A caller's argument expanded to one entry per stack, or None if it was not given."""
    value = getattr(given, name)
    if value is None:
        return None
    entries = tuple(value) if isinstance(value, Sequence) else (value,) * num_stacks
    if len(entries) != num_stacks or any(type(entry) is not int or entry < 1 for entry in entries):
        raise ConfigError(
            f"{name} must be an integer of at least 1, or {num_stacks} such integers, one per stack, but is {value!r}"
        )
    return entries


def _head_sizes(shapes: Mapping[str, tuple[int, ...]], blocks: Sequence[str], given: _Given) -> dict[str, Any]:
    """Number of heads and their widths, as fields of the configuration."""
    arguments = {name: _per_stack(given, name, len(blocks)) for name in ("num_heads", *_PUBLISHED_HEADS)}
    stacks = []
    for i, block in enumerate(blocks):
        known = {name: entries[i] for name, entries in arguments.items() if entries is not None}
        stacks.append(_stack_heads(shapes, i, block, known))
    per_stack = {name: tuple(sizes[name] for sizes in stacks) for name in arguments}
    widths = {name: sizes[0] if len(set(sizes)) == 1 else sizes for name, sizes in per_stack.items() if name != "num_heads"}
    return {"num_heads": per_stack["num_heads"], **widths}


def _stack_heads(shapes: Mapping[str, tuple[int, ...]], i: int, block: str, known: dict[str, int]) -> dict[str, int]:
    """Number of heads H and their widths in one stack, from the shapes and one known size.

    in_proj has H (2 query + pos) rows, linear_pos H pos and self_attn1 H value, so that the shapes give the three widths
    times H, and H follows from any one size that is known.
    """
    keys = {name: f"{block}{part}.weight" for name, part in _HEAD_TENSORS.items()}
    rows, values, positions = (_shape(shapes, key, 2)[0] for key in keys.values())
    totals = {"query_head_dim": (rows - positions) // 2, "value_head_dim": values, "pos_head_dim": positions}
    if rows <= positions or (rows - positions) % 2:
        raise CheckpointError(
            f"{keys['query_head_dim']} must have an even number of rows beside {positions}, but has {rows}"
        )
    if known:
        name, size = next(iter(known.items()))
        num_heads = size if name == "num_heads" else totals[name] // size
    else:
        known, num_heads = _PUBLISHED_HEADS, positions // _PUBLISHED_HEADS["pos_head_dim"]
        if any(total != num_heads * known[name] for name, total in totals.items()):
            raise ConfigError(
                f"stack {i} does not have heads of the published widths 32, 12 and 4, since it has {_listed(totals, keys)}; "
                "give num_heads as it was trained, which may be "
                f"{', '.join(str(n) for n in range(1, rows) if math.gcd(*totals.values()) % n == 0)}"
            )
    for name, total in totals.items():
        if num_heads < 1 or total % num_heads or known.get(name, total // num_heads) * num_heads != total:
            asked = ", ".join(f"{argument}={size}" for argument, size in known.items())
            raise ConfigError(
                f"{asked} cannot be true of stack {i}, which has {_listed(totals, keys)}; correct the arguments"
            )
    return {"num_heads": num_heads, **{name: total // num_heads for name, total in totals.items()}}


def _listed(totals: Mapping[str, int], keys: Mapping[str, str]) -> str:
    return ", ".join(f"num_heads·{name} = {total} ({keys[name]})" for name, total in totals.items())


def _transducer_config(shapes: Mapping[str, tuple[int, ...]]) -> TransducerConfig | None:
    if "decoder.embedding.weight" not in shapes:
        return None
    return TransducerConfig(
        predictor_dim=_shape(shapes, "decoder.embedding.weight", 2)[1],
        joiner_dim=_shape(shapes, "joiner.encoder_proj.weight", 2)[0],
        context_size=_shape(shapes, "decoder.conv.weight", 3)[2] if "decoder.conv.weight" in shapes else 1,
    )


def _attention_config(shapes: Mapping[str, tuple[int, ...]], given: _Given) -> AttentionConfig | None:
    decoder, heads = "attention_decoder.decoder.", given.attention_decoder_heads
    if f"{decoder}embed.weight" not in shapes:
        if heads is not None:
            raise ConfigError(f"attention_decoder_heads is {heads}, but there is no attention_decoder in the checkpoint")
        return None
    dim = _shape(shapes, f"{decoder}layers.0.self_attn.linear_q.weight", 2)[0]
    if heads is None and dim % _DECODER_HEAD_DIM == 0:
        heads = dim // _DECODER_HEAD_DIM
    elif heads is None and given.num_heads is not None:
        heads = given.num_heads if isinstance(given.num_heads, int) else given.num_heads[0]
        logger.warning("Assuming that the attention decoder has as many heads as the encoder, %d.", heads)
    if type(heads) is not int or heads < 1 or dim % heads:
        raise ConfigError(
            f"attention_decoder_heads must be given and divide the {dim} rows of {decoder}layers.0.self_attn.linear_q, "
            f"which are not a multiple of the published {_DECODER_HEAD_DIM} per head, but is {heads}"
        )
    return AttentionConfig(
        num_layers=_count(shapes, f"{decoder}layers.#."),
        dim=_shape(shapes, f"{decoder}embed.weight", 2)[1],
        attention_dim=dim,
        num_heads=heads,
        feedforward=_shape(shapes, f"{decoder}layers.0.feed_forward.0.weight", 2)[0],
    )


def _build(config: AsrConfig, tensors: Mapping[str, Tensor]) -> AsrModel:
    model = AsrModel(config).eval()
    own, renamed = model.state_dict(), rename_state_dict(tensors)
    theirs = {rename_key(key): key for key in tensors}
    wrong = [f"{original_key(name)} is missing" for name in own if name not in renamed]
    for key in tensors:
        name = rename_key(key)
        is_ours_or_repeated = name == key or theirs[name] != key
        if name not in own or is_ours_or_repeated:
            wrong.append(f"{key} is unknown")
    wrong += [
        f"{theirs[name]} must be {tuple(own[name].shape)}, but is {tuple(tensor.shape)}"
        for name, tensor in renamed.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"the checkpoint is not a complete Zipformer: {'; '.join(wrong[:5])}{more}; {_EXPECTED}")
    model.load_state_dict(renamed)
    return model


# Files


def open_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Open the vocabulary of an icefall model: `bbpe.model`, `bpe.model`, `tokens.txt` of characters, or a folder with one.

    Raises:
        CheckpointError: there is no vocabulary, or it is of another kind.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in VOCABULARY_FILES if (path / name).is_file()), path / "bpe.model")
    if not path.is_file():
        raise CheckpointError(
            f"{path} must be the vocabulary that the recipe made, data/lang_bpe_*/bpe.model, data/lang_bbpe_*/bbpe.model or "
            "data/lang_char/tokens.txt, but there is no such file; give its path"
        )
    return Tokenizer.from_file(path)


def _state_dict(content: Any, which: str) -> Mapping[str, Tensor]:
    """The state dict in the content of a file: one of its entries, or all of it."""
    if isinstance(content, Mapping) and isinstance(content.get(which), Mapping):
        return content[which]
    is_bare = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if which == "model" and is_bare and content:
        return content
    found = ", ".join(str(key) for key in list(content)[:10]) if isinstance(content, Mapping) else type(content).__name__
    cure = "only epoch-N.pt and checkpoint-N.pt of a training run have model_avg" if which == "model_avg" else _EXPECTED
    raise CheckpointError(f"there must be a state dict under {which!r}, but the file holds {found or 'nothing'}; {cure}")
