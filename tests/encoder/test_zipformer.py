"""Golden: the whole encoder with padding, its stacks, every gradient norm, and the causal encoder at every chunk size. Law:
the content of padding, the order of a batch and later chunks change nothing; same seed, same output. Contract: parameter
counts, lengths, impossible configurations, behavior in training."""

import collections
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.encoder.encoders import CHUNKS, golden_encoder, small_config, small_encoder
from tests.golden_files import assert_close_to, assert_gradients, batch_first, encoder_tensors, load_golden, seeded
from zipasr.encoder import zipformer
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig, check_chunk
from zipasr.errors import ConfigError
from zipasr.nn.schedule import Schedule, ScheduledModule, set_step

# Goldens


@pytest.mark.parametrize("grad", [True, False])
def test_values_stacks_and_lengths_equal_golden(grad: bool) -> None:
    encoder, golden = golden_encoder("noncausal")
    outputs: list[Tensor] = []
    for stack in encoder.stacks:
        stack.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    with torch.set_grad_enabled(grad):
        encoded = encoder.encode_frames(batch_first(golden["in.x"]), golden["in.x_lens"])
    for i, output in enumerate(outputs):
        torch.testing.assert_close(output, batch_first(golden[f"out.stack{i}"]), rtol=0.0, atol=3e-4)
    torch.testing.assert_close(encoded.frames, batch_first(golden["out.y"]), rtol=0.0, atol=3e-4)
    assert torch.equal(encoded.lens, golden["out.y_lens"])


def test_one_utterance_without_padding_equals_golden() -> None:
    encoder, golden = golden_encoder("noncausal")
    frames = encoder.encode_frames(batch_first(golden["in.x"])[:1], golden["in.x_lens"][:1]).frames
    torch.testing.assert_close(frames, batch_first(golden["out.y_single_nomask"]), rtol=0.0, atol=3e-4)


@pytest.mark.parametrize(("chunk", "left"), CHUNKS)
def test_causal_values_equal_golden(chunk: int, left: int) -> None:
    encoder, golden = golden_encoder("causal")
    encoded = encoder.encode_frames(
        batch_first(golden["in.x"]), golden["in.x_lens"], chunk_frames_50hz=chunk, left_context_frames_50hz=left
    )
    expected = batch_first(golden[f"out.y_chunk{chunk}_left{left}"])
    torch.testing.assert_close(encoded.frames, expected, rtol=0.0, atol=1.5e-4)
    assert torch.equal(encoded.lens, golden["out.y_lens"])


@pytest.mark.parametrize(("kind", "name"), [("noncausal", "out.y_f64"), ("causal", "out.y_f64_chunk16_left64")])
def test_float64_equals_golden(kind: str, name: str) -> None:
    encoder, golden = golden_encoder(kind)
    chunk, left = (16, 64) if kind == "causal" else (-1, -1)
    with torch.no_grad():
        frames = (
            encoder.double()
            .encode_frames(
                batch_first(golden["in.x"]).double(),
                golden["in.x_lens"],
                chunk_frames_50hz=chunk,
                left_context_frames_50hz=left,
            )
            .frames
        )
    torch.testing.assert_close(frames, batch_first(golden[name]), rtol=0.0, atol=1e-9)


def test_gradients_equal_golden() -> None:
    encoder, golden = golden_encoder("noncausal")
    encoder.double()  # in float32, rounding of the processor would decide
    meta, gradients = load_golden("a_zipformer2_noncausal_grads")
    x = batch_first(golden["in.x"]).double().requires_grad_()
    encoder.encode_frames(x, golden["in.x_lens"]).frames.backward(batch_first(gradients["in.y_grad"]).double())
    assert x.grad is not None
    # The original's float32 is this far from float64; a wrong formula would be off by whole units. The largest difference is
    # that of one bias, whose gradient is a sum of terms that cancel: 1.6e-3.
    limits = collections.defaultdict(lambda: 1e-3, {"stacks.1.downsample.bias": 2e-3})
    assert_close_to(x.grad, batch_first(gradients["grad.x"]), 1e-3)
    for name, gradient in encoder_tensors(gradients, "grad.w.").items():
        assert_gradients(encoder, {name: gradient}, limits[name])
    norms = encoder_tensors(dict(zip(meta["names"], gradients["grad.norms"], strict=True)), "")
    own = dict(encoder.named_parameters())
    for name, norm in norms.items():
        gradient = own[name].grad
        actual = -1.0 if gradient is None else gradient.norm().item()  # -1: the original has no limit either
        assert actual == pytest.approx(norm.item(), rel=limits[name]), name


# Parameters and lengths


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (
            {
                "channels": (192, 256, 256, 256, 256, 256),
                "unmasked_channels": (192,) * 6,
                "num_layers": (2,) * 6,
                "feedforward": (512, 768, 768, 768, 768, 768),
            },
            21_377_826,
        ),
        ({}, 63_382_150),
        (
            {
                "channels": (192, 256, 512, 768, 512, 256),
                "unmasked_channels": (192, 192, 256, 320, 256, 192),
                "num_layers": (2, 2, 4, 5, 4, 2),
                "feedforward": (512, 768, 1536, 2048, 1536, 768),
            },
            146_013_641,
        ),
        ({"is_causal": True}, 66_110_931 - 65_549_011 + 63_382_150),
    ],
    ids=["small", "medium", "large", "causal medium"],
)
def test_number_of_parameters_is_the_published_one(settings: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        encoder = Zipformer(ZipformerConfig(**settings))
    assert sum(p.numel() for p in encoder.frontend.parameters()) == 611_953
    assert sum(p.numel() for p in encoder.parameters()) == 611_953 + count


@pytest.mark.parametrize("num_frames", [9, 10, 11, 12, 13, 14, 50, 99])
def test_output_length_equals_the_number_of_frames(num_frames: int) -> None:
    encoder = small_encoder().eval()
    encoded = encoder(seeded(1, num_frames, 20), torch.tensor([num_frames]))
    length = encoder.output_length(num_frames)
    assert length == ((num_frames - 7) // 2 + 1) // 2
    assert encoded.frames.shape == (1, length, encoder.output_channels)
    assert encoded.lens.tolist() == [length]


def test_output_length_of_too_short_input_is_zero() -> None:
    assert [small_encoder().output_length(n) for n in range(10)] == [0] * 9 + [1]


def test_each_output_channel_comes_from_the_last_stack_that_has_it() -> None:
    outputs = [torch.full((1, 2, width), float(i)) for i, width in enumerate((16, 24, 32, 24, 20))]
    joined = zipformer.join_outputs(outputs)
    assert joined[0, 0].tolist() == [4.0] * 20 + [3.0] * 4 + [2.0] * 8


# Arguments and configurations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": (1, 1, 1)}, "num_layers must have one entry per stack"),
        ({"unmasked_channels": (16, 16, 24)}, "unmasked_channels must have one entry per stack"),
        ({"downsample": (1, 2, 4, 2, 1)}, "downsample must have one entry per stack"),
        ({"feedforward": (16,)}, "feedforward must have one entry per stack"),
        ({"num_heads": (2, 2)}, "num_heads must have one entry per stack"),
        ({"kernel_sizes": (7, 7, 7)}, "kernel_sizes must have one entry per stack"),
        ({"channels": (16, 24, 32, 24, 16)}, "must have one entry per stack"),
        ({"kernel_sizes": (7, 8, 5, 7)}, "kernel_sizes must be odd, but stack 1 has 8"),
        ({"unmasked_channels": (16, 16, 40, 20)}, "unmasked_channels must not exceed channels, but stack 2 has 40"),
        ({"channels": (16, 24, 30, 24)}, "multiples of 4"),
        ({"feedforward": (16, 24, 30, 24)}, "multiples of 4"),
        ({"num_layers": (1, 0, 1, 1)}, "at least one layer"),
        ({"num_heads": (2, 0, 2, 2)}, "at least one layer, head"),
        ({"downsample": (1, 0, 4, 2)}, "downsampling >= 1"),
        ({"downsample": (2, 2, 4, 2)}, "first entry of downsample must be 1"),
        ({"pos_dim": 7}, "pos_dim must be even"),
        ({"is_causal": True, "chunk_frames_50hz": (8, 10)}, "not a multiple of 4"),
        ({"is_causal": True, "chunk_frames_50hz": (0,)}, "chunk_frames_50hz must be -1 or a positive multiple"),
        ({"is_causal": True, "chunk_frames_50hz": (-8,)}, "chunk_frames_50hz must be -1 or a positive multiple"),
        ({"is_causal": True, "chunk_frames_50hz": (4,), "left_context_frames_50hz": (4,)}, "left_context_frames_50hz"),
        ({"is_causal": True, "chunk_frames_50hz": (64,), "left_context_frames_50hz": (4,)}, "but 4 frames give 4"),
        ({"is_causal": True, "chunk_frames_50hz": (-1,), "left_context_frames_50hz": (-7,)}, "or more, but is -7"),
        ({"unmasked_channels": (16, 0, 16, 16)}, "unmasked_channels must be 1 or more, but stack 1 has 0"),
        ({"feedforward": (16, 24, 0, 24)}, "multiples of 4"),
        ({"kernel_sizes": (7, -1, 5, 7)}, "kernel_sizes must be odd"),
        ({"pos_dim": 0}, "pos_dim must be even and 2 or more"),
        ({"channels": ()}, "channels must have one entry for each stack"),
        ({"conv_embed_rate": 3}, "conv_embed_rate must be 2, or 4"),
        ({"conv_channels": (0, 8, 8)}, "conv_channels 1 or more"),
        ({"num_features": 4}, "num_features must be 7 or more"),
        ({"pos_dropout": 1.0}, "pos_dropout must be at least 0 and below 1, but is 1.0"),
        ({"pos_dropout": math.nan}, "pos_dropout must be at least 0 and below 1, but is nan"),
        ({"dropout": Schedule(((0.0, 1.5), (9.0, 0.1)))}, "^dropout must be at least 0 and below 1, but is 1.5"),
        ({"dropout": Schedule(((0.0, 0.3), (9.0, math.nan)))}, "^dropout must be at least 0 and below 1, but is nan"),
        ({"dropout": Schedule(((0.0, 0.3),), default=-0.1)}, "^dropout must be at least 0 and below 1, but is -0.1"),
    ],
)
def test_impossible_configurations_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(**settings)


def test_chunks_do_not_concern_a_configuration_that_is_not_causal() -> None:
    assert small_config(chunk_frames_50hz=(10,)).chunk_frames_50hz == (10,)


def test_left_context_of_64_frames_suits_the_published_kernels() -> None:
    config = ZipformerConfig(is_causal=True)
    check_chunk(config, 16, 64)
    check_chunk(config, 16, -1)
    check_chunk(config, -1, -1)
    with pytest.raises(ConfigError, match="half the kernel"):
        check_chunk(config, 16, 32)  # stack 3: 7 frames of 8


@pytest.mark.parametrize(
    ("features", "lens", "settings", "message"),
    [
        (torch.zeros(2, 30), torch.tensor([30, 30]), {}, r"features must be \(N, T >= 9, 20\)"),
        (torch.zeros(2, 30, 80), torch.tensor([30, 30]), {}, r"features must be \(N, T >= 9, 20\)"),
        (torch.zeros(2, 8, 20), torch.tensor([8, 8]), {}, r"features must be \(N, T >= 9, 20\)"),
        (torch.zeros(2, 30, 20), torch.tensor([30]), {}, r"lens must be \(2,\)"),
        (torch.zeros(2, 30, 20), torch.tensor([1.0, 0.75]), {}, "lens must count frames, as int64, but is torch.float32"),
        (torch.zeros(2, 30, 20), torch.tensor([30, 30]), {"chunk_frames_50hz": 16}, "is_causal=True"),
    ],
)
def test_wrong_arguments_are_refused(features: Tensor, lens: Tensor, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_encoder().eval()(features, lens, **settings)


def test_a_chunk_that_does_not_suit_the_model_is_refused() -> None:
    encoder = small_encoder(is_causal=True).eval()
    with pytest.raises(ValueError, match="not a multiple of 4"):
        encoder(torch.zeros(1, 40, 20), torch.tensor([40]), chunk_frames_50hz=10)


# Laws


def test_what_padding_frames_hold_does_not_matter_after_conv_embed() -> None:
    """Lengths are multiples of every factor; otherwise the last group of a Downsample reaches into the padding."""
    encoder, golden = golden_encoder("noncausal")
    x, lens = batch_first(golden["in.x"])[:, :56], torch.tensor([56, 40, 16])
    padding = (torch.arange(56) >= lens[:, None]).unsqueeze(-1)
    other = torch.where(padding, 10.0 * seeded(*x.shape), x)
    first, second = (encoder.encode_frames(frames, lens).frames for frames in (x, other))
    for n, length in enumerate(lens.tolist()):
        torch.testing.assert_close(first[n, : length // 2], second[n, : length // 2], rtol=0.0, atol=3e-4)


def test_padding_to_a_whole_group_changes_nothing() -> None:
    """With lengths that are multiples of every factor, an utterance alone and next to longer ones gives the same frames."""
    encoder = small_encoder().eval()
    frames, lens = seeded(3, 32, 16), torch.tensor([32, 24, 8])
    together = encoder.encode_frames(frames, lens)
    for n, length in enumerate(lens.tolist()):
        alone = encoder.encode_frames(frames[n : n + 1, :length], lens[n : n + 1])
        torch.testing.assert_close(together.frames[n, : length // 2], alone.frames[0], rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("is_causal", [False, True])
def test_order_of_the_batch_does_not_matter(is_causal: bool) -> None:
    encoder = small_encoder(is_causal=is_causal).eval()
    features, lens, order = seeded(4, 60, 20), torch.tensor([60, 33, 47, 20]), torch.tensor([2, 0, 3, 1])
    there, back = encoder(features, lens), encoder(features[order], lens[order])
    torch.testing.assert_close(there.frames[order], back.frames, rtol=0.0, atol=1e-5)
    assert torch.equal(there.lens[order], back.lens)


@pytest.mark.parametrize(("chunk", "left"), [(8, -1), (8, 16), (16, 16)])
def test_later_chunks_are_not_seen(chunk: int, left: int) -> None:
    encoder = small_encoder(is_causal=True).eval()
    frames, lens = seeded(2, 64, 16), torch.tensor([64, 64])
    settings = {"chunk_frames_50hz": chunk, "left_context_frames_50hz": left}
    plain = encoder.encode_frames(frames, lens, **settings).frames
    for end in range(chunk, 64, chunk):
        changed = torch.cat([frames[:, :end], 5.0 * seeded(2, 64 - end, 16, seed=1)], dim=1)
        y = encoder.encode_frames(changed, lens, **settings).frames
        torch.testing.assert_close(y[:, : end // 2], plain[:, : end // 2], rtol=0.0, atol=1e-5)
        assert not torch.allclose(y[:, end // 2 :], plain[:, end // 2 :])


def test_left_context_of_attention_is_bounded() -> None:
    mask = zipformer._chunk_mask(12, 2, 4, torch.device("cpu"))
    assert mask is not None
    for target in range(12):
        seen = [source for source in range(12) if not mask[target, source]]
        first = max(0, target // 2 - 2) * 2
        assert seen == list(range(first, target // 2 * 2 + 2))


def test_a_chunk_longer_than_the_utterance_is_no_chunk() -> None:
    encoder = small_encoder(is_causal=True).eval()
    frames, lens = seeded(1, 24, 16), torch.tensor([24])
    whole = encoder.encode_frames(frames, lens).frames
    torch.testing.assert_close(encoder.encode_frames(frames, lens, chunk_frames_50hz=32).frames, whole)


def test_float32_features_of_any_length_give_finite_frames() -> None:
    encoder = small_encoder().eval()
    features = seeded(3, 40, 20)
    features[1] = -23.025850929940457  # padding only
    encoded = encoder(features, torch.tensor([40, 40, 0]))
    assert encoded.frames.isfinite().all()
    assert encoded.lens.tolist() == [8, 8, 0]


# Training


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("step", [None, 0.0, 5000.0, 60000.0])
def test_training_gives_finite_gradients_for_every_used_parameter(is_causal: bool, step: float | None) -> None:
    encoder = small_encoder(is_causal=is_causal).train()
    if step is not None:
        set_step(encoder, step)
    used = [parameter for name, parameter in encoder.named_parameters() if not name.endswith("unused_scale")]
    for seed in range(100):  # most forward passes drop position terms at first
        torch.manual_seed(seed)
        encoded = encoder(seeded(4, 60, 20, seed=seed), torch.tensor([60, 50, 40, 20]))
        encoded.frames.square().mean().backward()
        if all(parameter.grad is not None for parameter in used):
            break
    for name, parameter in encoder.named_parameters():
        if name.endswith("unused_scale"):
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_unused_scale_requires_no_gradient() -> None:
    """Otherwise data parallelism would wait for a gradient that never comes."""
    encoder = small_encoder()
    names = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    assert names == {name for name, _ in encoder.named_parameters() if name.endswith("unused_scale")}
    assert len(names) == 5


@pytest.mark.parametrize("is_causal", [False, True])
def test_same_seed_same_training_output_and_gradient(is_causal: bool) -> None:
    encoder = small_encoder(is_causal=is_causal).train()
    set_step(encoder, 100.0)

    def run(seed: int) -> tuple[Tensor, list[Tensor | None]]:
        for module in encoder.modules():
            if hasattr(module, "max_prob"):
                module.prob = module.max_prob
        encoder.zero_grad()
        torch.manual_seed(seed)
        frames = encoder(seeded(3, 60, 20), torch.tensor([60, 50, 40])).frames
        frames.square().mean().backward()
        return frames.detach(), [p.grad for p in encoder.parameters()]

    first, first_gradients = run(1)
    second, second_gradients = run(1)
    assert torch.equal(first, second)
    for one, other in zip(first_gradients, second_gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]
    assert not torch.equal(run(2)[0], first)


def test_set_step_reaches_the_whole_encoder_and_changes_it() -> None:
    encoder = small_encoder().train()
    set_step(encoder, 0.0)
    modules = [module for module in encoder.modules() if isinstance(module, ScheduledModule)]
    assert len(modules) > 50
    assert all(module.step == 0.0 for module in modules)
    first = encoder.stacks[0].layers[0].bypass
    rates = []
    for step in (0.0, 100000.0):
        set_step(encoder, step)
        rates.append((first.value(first.skip_rate), encoder.frontend.convnext.value(encoder.frontend.convnext.skip_rate)))
    assert rates == [(0.5, 0.2), (pytest.approx(0.035), 0.015)]


def test_warm_up_of_the_layers_is_spread_over_the_stacks() -> None:
    """Stack i starts its warm-up at 4000 (i + 1) / (number of stacks + 1)."""
    encoder = small_encoder()
    begins = [stack.layers[0].bypass.skip_rate.points[0][0] for stack in encoder.stacks]
    assert begins == pytest.approx([800.0, 1600.0, 2400.0, 3200.0])
    assert encoder.stacks[1].layers[1].bypass.skip_rate.points[0][0] == pytest.approx(2000.0)
    assert encoder.stacks[3].layers[0].bypass.skip_rate.points[1][0] == pytest.approx(4000.0)


def test_feature_masks_keep_the_lower_channels_and_nest() -> None:
    torch.manual_seed(0)
    encoder = small_encoder().train()
    masks = encoder._feature_masks(torch.zeros(3000, 5, 16))
    unmasked = encoder.config.unmasked_channels
    kept = []
    for mask, channels, lowest in zip(masks, encoder.config.channels, unmasked, strict=True):
        assert mask is not None
        assert mask.shape == (3000, 1, channels)
        middle = lowest + (channels - lowest) // 2
        assert (mask[:, :, :lowest] == 1).all()
        for part in (mask[:, 0, lowest:middle], mask[:, 0, middle:]):
            assert (part == part[:, :1]).all()
        if middle < channels:
            kept.append((mask[:, 0, lowest], mask[:, 0, -1]))
    for lower, upper in kept:
        assert (upper <= lower).all()
        assert lower.mean().item() == pytest.approx(7 / 8, abs=0.03)
        assert upper.mean().item() == pytest.approx(49 / 64, abs=0.03)
        assert torch.equal(lower, kept[0][0])  # the same draw in every stack
    assert encoder.eval()._feature_masks(torch.zeros(2, 5, 16)) == [None] * 4


def test_training_draws_every_chunk_and_left_context(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = small_encoder(is_causal=True).train()
    drawn = {encoder._chunk(None, None) for _ in range(300)}
    assert drawn == {(c, left) for c in (8, 16) for left in (16, 32, -1)} | {(-1, -1)}
    assert encoder._chunk(8, 16) == (8, 16)
    assert {encoder.eval()._chunk(None, None) for _ in range(20)} == {(-1, -1)}
    plain = small_encoder().train()
    assert {plain._chunk(None, None) for _ in range(20)} == {(-1, -1)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_residual_stream_is_float32_and_gradients_are_finite(dtype: torch.dtype) -> None:
    """As in the original, only the outputs that modules add are in half precision."""
    encoder = small_encoder().train()
    set_step(encoder, 1000.0)
    dtypes: set[torch.dtype] = set()
    for name, module in encoder.named_modules():
        if name == "frontend" or (name.startswith("stacks") and name.count(".") in (1, 3)):
            module.register_forward_hook(
                lambda module, _, output: dtypes.add(output.dtype) if isinstance(output, Tensor) else None
            )
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=dtype):
        frames = encoder(seeded(2, 60, 20), torch.tensor([60, 50])).frames
    frames.square().mean().backward()
    assert frames.dtype == torch.float32
    assert dtypes == {torch.float32}
    for name, parameter in encoder.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_stays_in_it(dtype: torch.dtype) -> None:
    encoder = small_encoder().eval()
    features, lens = seeded(2, 60, 20), torch.tensor([60, 50])
    expected = encoder(features, lens).frames
    with torch.no_grad():
        frames = encoder.to(dtype)(features.to(dtype), lens).frames
    assert frames.dtype == dtype
    assert_close_to(frames, expected, 0.1)


def test_configuration_is_a_value() -> None:
    config = small_config()
    assert config == small_config()
    assert dataclasses.replace(config, is_causal=True) != config


def test_lengths_and_contexts_that_cannot_be() -> None:
    model = Zipformer(ZipformerConfig(is_causal=True)).eval()
    features = torch.zeros(1, 50, 80)
    with pytest.raises(ValueError, match="lens must be within 0 and T = 50"):
        model(features, torch.tensor([51]))
    with pytest.raises(ValueError, match="has an effect only in chunks"):
        model(features, torch.tensor([50]), left_context_frames_50hz=64)
    with pytest.raises(ConfigError, match="left_context_frames_50hz must be -1 \\(everything\\) or more"):
        model(features, torch.tensor([50]), chunk_frames_50hz=16, left_context_frames_50hz=-2)
    with pytest.raises(ConfigError, match="at least one size"):
        ZipformerConfig(is_causal=True, chunk_frames_50hz=())
