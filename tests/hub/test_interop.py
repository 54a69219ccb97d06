"""Contract: the configuration of every published model follows from the shapes of its tensors, whose names convert to ours
and back; anything that does not fit is refused with the original's names. Golden: the original's weights give its
numbers."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden_files import FOLDER, batch_first, load_golden, weights
from tests.hub.icefall_models import assert_same_weights, icefall_state_dict, small_model
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.hub import model_from_icefall, original_key, rename_key, rename_layer_key, rename_state_dict
from zipasr.model import AsrConfig, AsrModel, large, medium, small

PRESETS = {"S": small, "M": medium, "L": large}
HEADS = {
    "transducer": ("decoder.", "joiner.", "simple_"),
    "ctc": ("ctc_output.",),
    "aed": ("attention_decoder.",),
}


def published(size: str, heads: str = "transducer+ctc+aed") -> dict[str, Tensor]:
    """The tensors of a published checkpoint with these heads, on the meta device; "-causal" at the end makes it causal."""
    shapes: dict[str, list[int]] = json.loads((FOLDER / "f_state_dict_names.json").read_text())[size]
    is_causal = heads.endswith("-causal")
    prefixes = tuple(p for head in heads.removesuffix("-causal").split("+") for p in HEADS[head])
    chosen: dict[str, list[int]] = {}
    for key, shape in shapes.items():
        if not key.startswith(("encoder.", "encoder_embed.", *prefixes)):
            continue
        block, depthwise, parameter = key.partition("depthwise_conv.")
        if is_causal and depthwise and "convnext" not in block:
            small_shape = [shape[0], 1, (shape[2] + 1) // 2] if parameter == "weight" else shape
            chosen[f"{block}depthwise_conv.causal_conv.{parameter}"] = small_shape
            chosen[f"{block}depthwise_conv.chunkwise_conv.{parameter}"] = shape
            if parameter == "weight":
                chosen[f"{block}depthwise_conv.chunkwise_conv_scale"] = [2, shape[0], shape[2]]
        else:
            chosen[key] = shape
    return {key: torch.empty(shape, device="meta") for key, shape in chosen.items()}


def config_of(tensors: Mapping[str, Tensor], **arguments: Any) -> AsrConfig:
    """The configuration derived from the shapes and checked by fitting the tensors, without memory for either."""
    with torch.device("meta"):
        return model_from_icefall({key: tensor.to("meta") for key, tensor in tensors.items()}, **arguments).config


# Published models

COUNTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "f_param_counts.json").read_text())


@pytest.mark.parametrize("name", list(COUNTS))
def test_published_models_give_our_presets(name: str) -> None:
    size, heads = name.split("/")
    preset: AsrConfig = PRESETS[size]()
    expected = dataclasses.replace(
        preset,
        encoder=dataclasses.replace(preset.encoder, is_causal=heads.endswith("-causal")),
        transducer=TransducerConfig() if "transducer" in heads else None,
        ctc=CtcConfig() if "ctc" in heads else None,
        attention=AttentionConfig() if "aed" in heads else None,
    )
    tensors = published(size, heads)
    assert config_of(tensors) == expected
    assert sum(tensor.numel() for tensor in tensors.values()) == COUNTS[name]["total"]
    with torch.device("meta"):
        ours = AsrModel(expected).state_dict()
    assert {key: t.shape for key, t in rename_state_dict(tensors).items()} == {key: t.shape for key, t in ours.items()}
    assert sum(tensor.numel() for tensor in ours.values()) == COUNTS[name]["total"]


def test_context_of_one_label_and_other_vocabularies() -> None:
    """The published AISHELL model is one such model."""
    tensors = published("M", "transducer")
    del tensors["decoder.conv.weight"]
    for key, tensor in tensors.items():
        if not key.startswith("encoder") and tensor.shape[0] == 500:
            tensors[key] = tensor.new_empty(4336, *tensor.shape[1:])
    expected = dataclasses.replace(medium(), vocab_size=4336, transducer=TransducerConfig(context_size=1))
    assert config_of(tensors) == expected
    assert sum(tensor.numel() for tensor in tensors.values()) == 73_412_551


@pytest.mark.parametrize("heads", ["transducer+ctc+aed", "transducer-causal"])
def test_names_lead_to_ours_and_back(heads: str) -> None:
    keys = published("M", heads)
    assert len({rename_key(key) for key in keys}) == len(keys)
    assert [original_key(rename_key(key)) for key in keys] == list(keys)


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


def test_pointwise_convolutions_become_linear_layers() -> None:
    weight = torch.arange(6.0).reshape(3, 2, 1, 1)
    renamed = rename_state_dict({"encoder_embed.convnext.pointwise_conv1.weight": weight})
    assert torch.equal(renamed["encoder.frontend.convnext.pointwise1.weight"], weight[:, :, 0, 0])


# Goldens

ALL_HEAD_SIZES = {"num_heads": 4, "query_head_dim": 8, "value_head_dim": 6, "pos_head_dim": 4}


@pytest.mark.parametrize(
    "arguments",
    [
        ALL_HEAD_SIZES,
        *({name: size, "attention_decoder_heads": 4} for name, size in ALL_HEAD_SIZES.items()),
        {"num_heads": [4, 4, 4, 4, 4, 4]},
    ],
    ids=["all", *ALL_HEAD_SIZES, "per stack"],
)
def test_golden_model(arguments: dict[str, Any]) -> None:
    _, golden = load_golden("e_asr_model")
    model = model_from_icefall(weights(golden), **arguments)
    assert not model.training
    assert model.config.encoder.num_heads == (4,) * 6
    assert model.config.encoder.head_dims(3) == (8, 6, 4)
    assert model.config.encoder.query_head_dim == 8
    assert model.config.attention == AttentionConfig(num_layers=2, dim=32, attention_dim=32, num_heads=4, feedforward=64)
    assert model.config.transducer == TransducerConfig(predictor_dim=32, joiner_dim=40)
    with torch.no_grad():
        encoded = model.encode(golden["in.x"], golden["in.x_lens"])
        log_probs = model.ctc_log_probs(encoded.frames)
    torch.testing.assert_close(encoded.frames, golden["out.encoder_out"], rtol=0.0, atol=3e-4)
    torch.testing.assert_close(log_probs, golden["out.ctc_output"], rtol=0.0, atol=3e-4)


@pytest.mark.parametrize(("kind", "chunk"), [("noncausal", None), ("causal", (16, 64))])
def test_golden_encoders_with_heads_per_stack(kind: str, chunk: tuple[int, int] | None) -> None:
    meta, golden = load_golden(f"a_zipformer2_{kind}")
    _, whole = load_golden("e_asr_model")
    tensors = {f"encoder.{key}": tensor for key, tensor in weights(golden).items()}
    tensors |= {key: tensor for key, tensor in weights(whole).items() if key.startswith("encoder_embed.")}
    tensors |= {"ctc_output.1.weight": torch.zeros(30, 96), "ctc_output.1.bias": torch.zeros(30)}
    model = model_from_icefall(tensors, num_heads=(4, 4, 4, 8, 4, 4))
    encoder = model.encoder
    assert isinstance(encoder, Zipformer)
    assert encoder.config.num_layers == (1, 2, 1, 1, 1, 1)
    assert encoder.config.downsample == (1, 2, 4, 8, 4, 2)
    assert encoder.config.is_causal == (kind == "causal")
    assert encoder.config.kernel_sizes == (31, 31, 15, 15, 15, 31)
    assert encoder.config.unmasked_channels == (32,) * 6
    frames, lens = batch_first(golden["in.x"]), golden["in.x_lens"]
    settings = {} if chunk is None else {"chunk_frames_50hz": chunk[0], "left_context_frames_50hz": chunk[1]}
    with torch.no_grad():
        encoded = encoder.encode_frames(frames, lens, **settings)
    expected = golden["out.y" if chunk is None else f"out.y_chunk{chunk[0]}_left{chunk[1]}"]
    torch.testing.assert_close(encoded.frames, batch_first(expected), rtol=0.0, atol=3e-4)
    assert config_of(tensors, num_heads=meta_heads(meta), unmasked_channels=24).encoder.unmasked_channels == (24,) * 6  # type: ignore[union-attr]


def meta_heads(meta: dict[str, Any]) -> list[int]:
    return [int(number) for number in meta["num_heads"].split(",")]


# The shapes of a small model


def test_small_model_comes_back(model: AsrModel, state_dict: dict[str, Tensor]) -> None:
    loaded = model_from_icefall(state_dict)
    assert loaded.config == model.config
    assert_same_weights(loaded, model.state_dict())


def test_widths_of_heads_may_differ_between_stacks() -> None:
    model = small_model(num_heads=(2, 4), head_dims=((8, 16), (6, 4), (4, 2)))
    for arguments in ({"num_heads": (2, 4)}, {"query_head_dim": (8, 16)}, {"pos_head_dim": (4, 2), "num_heads": (2, 4)}):
        assert model_from_icefall(icefall_state_dict(model), **arguments).config == model.config  # type: ignore[arg-type]


def test_a_stack_without_downsampling_may_follow() -> None:
    model = small_model()
    tensors = {
        key.replace("encoders.1.encoder.", "encoders.1."): tensor
        for key, tensor in icefall_state_dict(model).items()
        if not key.startswith(("encoder.encoders.1.downsample.", "encoder.encoders.1.out_combiner."))
    }
    loaded = model_from_icefall(tensors)
    assert loaded.config.encoder == dataclasses.replace(model.config.encoder, downsample=(1, 1))


@pytest.mark.parametrize("num_features", [40, 64])
def test_other_numbers_of_mel_bins_are_the_multiple_of_four(num_features: int, caplog: pytest.LogCaptureFixture) -> None:
    config = model_from_icefall(icefall_state_dict(small_model(num_features=num_features))).config
    assert config.encoder.num_features == config.features.num_mel_bins == num_features
    assert f"assuming {num_features}" in caplog.text


def test_chunks_of_training_fit_any_causal_encoder() -> None:
    """A kernel of 63 at 25 Hz reaches back 62 frames at 50 Hz; one of 131 reaches too far for a context of 64."""
    tensors = icefall_state_dict(small_model(is_causal=True))
    for key, tensor in tensors.items():
        if "encoders.1." in key and "depthwise_conv" in key and tensor.shape[-1] in (7, 4):
            size = {7: 131, 4: 66}[tensor.shape[-1]]
            tensors[key] = torch.zeros(*tensor.shape[:-1], size)
    encoder = model_from_icefall(tensors).config.encoder
    assert isinstance(encoder, ZipformerConfig)
    assert encoder.kernel_sizes == (15, 131)
    assert encoder.chunk_frames_50hz == (16, 32, 64, -1)
    assert encoder.left_context_frames_50hz == (256, -1)


def test_attention_decoder_heads_follow_the_encoder_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _, golden = load_golden("e_asr_model")
    assert "attention decoder" not in caplog.text
    model_from_icefall(weights(golden), num_heads=4)
    assert "attention decoder has as many heads as the encoder, 4" in caplog.text


# Arguments that are missing or wrong


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            {},
            (
                "stack 0 does not have heads of the published widths",
                "num_heads·query_head_dim = 32 (encoder.encoders.0.layers.0.self_attn_weights.in_proj.weight)",
                "num_heads·value_head_dim = 24 (encoder.encoders.0.layers.0.self_attn1.in_proj.weight)",
                "give num_heads as it was trained, which may be 1, 2, 4, 8",
            ),
        ),
        ({"num_heads": 3}, ("num_heads=3 cannot be true of stack 0", "query_head_dim = 32")),
        (
            {"num_heads": (4, 4, 4, 4, 8, 4), "query_head_dim": 8},
            ("num_heads=8, query_head_dim=8 cannot be true of stack 4", "encoder.encoders.4.encoder.layers.0."),
        ),
        ({"value_head_dim": 48}, ("value_head_dim=48 cannot be true of stack 0",)),
        ({"num_heads": (4, 4)}, ("num_heads must be an integer of at least 1, or 6 such integers", "but is (4, 4)")),
        ({"num_heads": 4.0}, ("num_heads must be an integer of at least 1", "but is 4.0")),
        ({"num_heads": 0}, ("num_heads must be an integer of at least 1",)),
        ({"num_heads": "4,4,4,4,4,4"}, ("num_heads must be an integer of at least 1",)),
        ({"query_head_dim": 8}, ("attention_decoder_heads must be given and divide the 32 rows", "but is None")),
        ({"num_heads": 4, "attention_decoder_heads": 5}, ("attention_decoder_heads must be given and divide", "is 5")),
        ({"num_heads": 4, "unmasked_channels": 64}, ("unmasked_channels must not exceed channels",)),
    ],
)
def test_missing_and_contradicting_arguments(arguments: dict[str, Any], parts: tuple[str, ...]) -> None:
    _, golden = load_golden("e_asr_model")
    with pytest.raises(ConfigError) as error:
        model_from_icefall(weights(golden), **arguments)
    for part in parts:
        assert part in str(error.value)


def test_heads_of_a_decoder_that_is_not_there(state_dict: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="attention_decoder_heads is 4, but there is no attention_decoder"):
        model_from_icefall(state_dict, attention_decoder_heads=4)


# Tensors that are missing, left over or wrong

NORM = "encoder.encoders.1.encoder.layers.1.norm.log_scale"
KEYS = "encoder.encoders.0.layers.0.self_attn_weights.in_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, rf"{NORM} is missing; expected the Zipformer"),
        ({"encoder.encoders.0.layers.0.bypass_scale": None}, r"encoder\.encoders\.0\.layers\.0\.bypass_scale is missing"),
        ({KEYS: None}, rf"there is no {KEYS} in the checkpoint"),
        ({KEYS: torch.zeros(3)}, rf"{KEYS} must have 2 axes, none of them empty, but is \(3,\)"),
        ({KEYS: torch.zeros(69, 32)}, rf"{KEYS} must have an even number of rows beside 4, but has 69"),
        ({"extra.weight": torch.zeros(2)}, r"extra\.weight is unknown"),
        ({"ctc.output.weight": torch.zeros(48, 48)}, r"ctc\.output\.weight is unknown"),
        ({"joiner.output_linear.bias": torch.zeros(7)}, r"joiner\.output_linear\.bias must be \(48,\), but is \(7,\)"),
        (
            {"encoder_embed.convnext.pointwise_conv1.weight": torch.zeros(24, 8, 3, 3)},
            r"pointwise_conv1\.weight must be \(24, 8\), but is \(24, 8, 3, 3\)",
        ),
        ({"encoder_embed.out.weight": torch.zeros(32, 151)}, "must have a multiple of 8 columns"),
        ({"joiner.output_linear.bias": torch.zeros(48, dtype=torch.int8)}, "must be a tensor of .*, but is torch.int8"),
        ({"joiner.output_linear.bias": [1.0]}, "joiner.output_linear.bias must be a tensor of .*, but is list"),
        ({f"module.{NORM}": torch.zeros(())}, "differ only by `module.`"),
        (
            {"encoder.encoders.1.encoder.layers.7.norm.bias": torch.zeros(48)},
            r"layers\.#\. for # = 0.* but # is 0, 1, 7",
        ),
    ],
)
def test_tensors_that_do_not_fit(state_dict: dict[str, Tensor], change: dict[str, Any], message: str) -> None:
    tensors = {key: tensor for key, tensor in (state_dict | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        model_from_icefall(tensors)


def test_both_ways_to_name_a_stack_at_once(state_dict: dict[str, Tensor]) -> None:
    twice = {key.replace("encoders.1.encoder.", "encoders.1."): t for key, t in state_dict.items() if "1.encoder." in key}
    with pytest.raises(CheckpointError, match=r"is unknown; .* and \d+ more"):
        model_from_icefall(state_dict | twice)


def test_models_of_other_kinds(state_dict: dict[str, Tensor]) -> None:
    without_heads = {key: tensor for key, tensor in state_dict.items() if key.startswith("encoder")}
    with pytest.raises(CheckpointError, match="there is no decoder, ctc_output or attention_decoder"):
        model_from_icefall(without_heads)
    with pytest.raises(
        CheckpointError, match=r"there must be encoder\.encoders\.#\. .* earlier recipes have other encoders"
    ):
        model_from_icefall({"encoder.layers.0.weight": torch.zeros(2)})
