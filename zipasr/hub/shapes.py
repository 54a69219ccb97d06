"""Configuration of a model from the shapes of its tensors under the original's names.

The number of attention heads cannot be inferred if the width of a head is not the published one; then the caller must give
it.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.hub.names import key_pattern
from zipasr.hub.settings import HEAD_SIZES, ModelSettings, Sizes
from zipasr.model import AsrConfig

logger = logging.getLogger(__name__)

_PUBLISHED_HEADS = {"query_head_dim": 32, "value_head_dim": 12, "pos_head_dim": 4}
_HEAD_TENSORS = {
    "query_head_dim": "self_attn_weights.in_proj",
    "value_head_dim": "self_attn1.in_proj",
    "pos_head_dim": "self_attn_weights.linear_pos",
}
_MAX_POS_DIM = 4096  # the published 48, and far more
_DECODER_HEAD_DIM = 64  # of the published attention decoder
# channels -> unmasked channels: the recipe's small, medium and large, and the extra large of the authors' package
_PUBLISHED_UNMASKED: dict[tuple[int, ...], tuple[int, ...]] = {
    (192, 256, 256, 256, 256, 256): (192, 192, 192, 192, 192, 192),
    (192, 256, 384, 512, 384, 256): (192, 192, 256, 256, 256, 192),
    (192, 256, 512, 768, 512, 256): (192, 192, 256, 320, 256, 192),
    (192, 384, 768, 1024, 768, 384): (192, 256, 320, 512, 320, 256),
}
EXPECTED = (
    "expected the Zipformer of icefall's `zipformer` recipes (egs/*/ASR/zipformer) or of the `zipformer` package; earlier "
    "recipes have other encoders"
)


def infer_config(tensors: Mapping[str, Tensor], settings: ModelSettings) -> AsrConfig:
    """The configuration of a model, with the special ids 0 and 1; see `AsrConfig.for_vocabulary`.

    Raises:
        CheckpointError: a tensor is missing or has an impossible shape.
        ConfigError: a setting is missing or contradicts the shapes.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    encoder = _encoder_config(shapes, settings)
    sizes = [
        _shape(shapes, key, 2)[0]
        for key in ("decoder.embedding.weight", "ctc_output.1.weight", "attention_decoder.decoder.embed.weight")
        if key in shapes
    ]
    if not sizes:
        raise CheckpointError(f"there is no decoder, ctc_output or attention_decoder in the checkpoint; {EXPECTED}")
    return AsrConfig(
        vocab_size=sizes[0],
        features=_features(encoder.num_features, settings),
        encoder=encoder,
        transducer=_transducer_config(shapes),
        ctc=CtcConfig() if "ctc_output.1.weight" in shapes else None,
        attention=_attention_config(shapes, settings),
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str, num_dims: int) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(f"there is no {key} in the checkpoint; {EXPECTED}")
    if len(shapes[key]) != num_dims or 0 in shapes[key]:
        raise CheckpointError(f"{key} must have {num_dims} axes, none of them empty, but is {shapes[key]}")
    return shapes[key]


def _count(shapes: Mapping[str, tuple[int, ...]], template: str) -> int:
    """Number of different indices at the # of `template`, which must be 0, 1, 2 and so on."""
    found = {int(match[1]) for key in shapes if (match := key_pattern(template).match(key))}
    if not found or found != set(range(len(found))):
        numbers = ", ".join(map(str, sorted(found))) or "nothing"
        raise CheckpointError(
            f"there must be {template} for # = 0, 1 and so on in the checkpoint, but # is {numbers}; {EXPECTED}"
        )
    return len(found)


def _encoder_config(shapes: Mapping[str, tuple[int, ...]], settings: ModelSettings) -> ZipformerConfig:
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
    unmasked = _per_stack(settings, "unmasked_channels", num_stacks)
    if unmasked is None:
        unmasked = _PUBLISHED_UNMASKED.get(channels, (min(channels),) * num_stacks)
    chunks, left_contexts = _training_chunks(downsample, kernel_sizes, settings)
    return ZipformerConfig(
        **_frontend_sizes(shapes, settings),
        channels=channels,
        unmasked_channels=unmasked,
        num_layers=tuple(num_layers),
        downsample=tuple(downsample),
        feedforward=tuple(_shape(shapes, f"{block}feed_forward2.in_proj.weight", 2)[0] for block in blocks),
        kernel_sizes=kernel_sizes,
        **_head_sizes(shapes, blocks, settings),
        pos_dim=_pos_dim(shapes, f"{blocks[0]}self_attn_weights.linear_pos.weight"),
        is_causal=is_causal,
        chunk_frames_50hz=chunks,
        left_context_frames_50hz=left_contexts,
    )


def _pos_dim(shapes: Mapping[str, tuple[int, ...]], key: str) -> int:
    """Width of the position encoding, whose table of 2000 rows is in memory but not in the file."""
    pos_dim = _shape(shapes, key, 2)[1]
    if pos_dim > _MAX_POS_DIM:
        raise CheckpointError(f"{key} must have at most {_MAX_POS_DIM} columns, but has {pos_dim}; {EXPECTED}")
    return pos_dim


def _features(num_mel_bins: int, settings: ModelSettings) -> FbankConfig:
    given: dict[str, Any] = {
        "kind": settings.features,
        "low_freq_hz": settings.low_freq_hz,
        "high_freq_hz": settings.high_freq_hz,
    }
    return FbankConfig(num_mel_bins=num_mel_bins, **{name: value for name, value in given.items() if value is not None})


def _training_chunks(
    downsample: Sequence[int], kernel_sizes: Sequence[int], settings: ModelSettings
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The chunks and left contexts of the training, as set or published, but those that this encoder does not allow."""
    default = ZipformerConfig()
    reach = max(kernel // 2 * factor for kernel, factor in zip(kernel_sizes, downsample, strict=True))
    step = math.lcm(*downsample)
    asked = _frames(settings.chunk_frames_50hz, default.chunk_frames_50hz)
    chunks = tuple(chunk for chunk in asked if chunk == -1 or (chunk > 0 and chunk % step == 0))
    asked_left = _frames(settings.left_context_frames_50hz, default.left_context_frames_50hz)
    left_contexts = tuple(
        left
        for left in asked_left
        if left == -1 or all(min(left, max(1, left // chunk) * chunk) >= reach for chunk in chunks if chunk != -1)
    )
    if not chunks or not left_contexts:
        raise ConfigError(
            f"chunk_frames_50hz must have multiples of {step}, and left_context_frames_50hz numbers from {reach} on, for "
            f"this encoder, but they are {asked} and {asked_left}; correct them"
        )
    return chunks, left_contexts


def _frames(asked: Sizes | None, default: tuple[int, ...]) -> tuple[int, ...]:
    return default if asked is None else (asked,) if isinstance(asked, int) else tuple(asked)


def _frontend_sizes(shapes: Mapping[str, tuple[int, ...]], settings: ModelSettings) -> dict[str, Any]:
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
    possible = range(num_features - 1, num_features + 3)
    if settings.num_mel_bins is not None:
        if settings.num_mel_bins not in possible:
            raise ConfigError(
                f"num_mel_bins must be from {possible[0]} to {possible[-1]} for these weights, but is "
                f"{settings.num_mel_bins}"
            )
        num_features = settings.num_mel_bins
    elif num_features != ZipformerConfig().num_features:
        logger.warning("The model has from %d to %d mel bins; assuming %d.", possible[0], possible[-1], num_features)
    return {"conv_channels": conv_channels, "num_features": num_features}


def _per_stack(settings: ModelSettings, name: str, num_stacks: int) -> tuple[int, ...] | None:
    """A caller's argument expanded to one entry per stack, or None if it was not given."""
    value = getattr(settings, name)
    if value is None:
        return None
    entries = tuple(value) if isinstance(value, Sequence) else (value,) * num_stacks
    if len(entries) != num_stacks or any(type(entry) is not int or entry < 1 for entry in entries):
        raise ConfigError(
            f"{name} must be an integer of at least 1, or {num_stacks} such integers, one per stack, but is {value!r}"
        )
    return entries


def _head_sizes(shapes: Mapping[str, tuple[int, ...]], blocks: Sequence[str], settings: ModelSettings) -> dict[str, Any]:
    """Number of heads and their widths, as fields of the configuration."""
    arguments = {name: _per_stack(settings, name, len(blocks)) for name in HEAD_SIZES}
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


def _attention_config(shapes: Mapping[str, tuple[int, ...]], settings: ModelSettings) -> AttentionConfig | None:
    decoder, heads = "attention_decoder.decoder.", settings.attention_decoder_heads
    if f"{decoder}embed.weight" not in shapes:
        if heads is not None:
            raise ConfigError(f"attention_decoder_heads is {heads}, but there is no attention_decoder in the checkpoint")
        return None
    dim = _shape(shapes, f"{decoder}layers.0.self_attn.linear_q.weight", 2)[0]
    if heads is None and dim % _DECODER_HEAD_DIM == 0:
        heads = dim // _DECODER_HEAD_DIM
    elif heads is None and settings.num_heads is not None:
        heads = settings.num_heads if isinstance(settings.num_heads, int) else settings.num_heads[0]
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
