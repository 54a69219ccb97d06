"""Ablations. Contract: the parameters in table 5 of the paper, refused combinations. Reference: what each switch removes.
Run: every variant trains. Law: padding and batch order change nothing in any variant."""

import dataclasses
from typing import Any

import pytest
import torch

from tests.encoder.encoders import small_config
from tests.golden_files import seeded
from zipasr.encoder.ablation import AblationConfig, NormedInput
from zipasr.encoder.layer import Bypass
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig
from zipasr.errors import ConfigError
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.norm import BiasNorm
from zipasr.nn.schedule import set_step

VARIANTS: dict[str, dict[str, Any]] = {
    "zipformer": {},
    "conformer pair": {"block": "conformer_pair"},
    "no nonlin attention": {"has_nonlin_attention": False},
    "no nonlin attention, own weights": {"has_nonlin_attention": False, "has_shared_attention_weights": False},
    "no bypass": {"has_bypass": False},
    "layer norm": {"norm": "layer_norm"},
    "swoosh right": {"activation": "swoosh_right"},
    "swish": {"activation": "swish"},
    "module norms": {"has_module_norms": True},
    "no balancer": {"has_balancer": False},
    "no whitener": {"has_whitener": False},
}


TWO_STACKS: dict[str, Any] = {
    "channels": (16, 24),
    "unmasked_channels": (16, 16),
    "num_layers": (1, 2),
    "downsample": (1, 2),
    "feedforward": (16, 24),
    "num_heads": (2, 2),
    "kernel_sizes": (7, 7),
}
"""One stack of each kind, at 50 Hz and at a lower rate, with one layer and with two."""


def variant(name: str, **settings: Any) -> Zipformer:
    torch.manual_seed(0)
    return Zipformer(small_config(**TWO_STACKS, ablation=AblationConfig(**VARIANTS[name]), **settings))


def loud(encoder: Zipformer) -> Zipformer:
    """Give the module weights so large that every part matters."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                parameter.mul_(3.0)
    return encoder


def test_default_is_zipformer() -> None:
    assert ZipformerConfig().ablation == AblationConfig()
    torch.manual_seed(0)
    plain = Zipformer(small_config(**TWO_STACKS)).state_dict()
    same = variant("zipformer").state_dict()
    assert plain.keys() == same.keys()
    assert all(torch.equal(plain[name], same[name]) for name in plain)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_trains(name: str) -> None:
    encoder = variant(name).train()
    set_step(encoder, 20_000.0)  # where hardly anything is skipped
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.02)
    features, lens = seeded(3, 50, encoder.config.num_features), torch.tensor([50, 41, 30])
    target = None
    losses = []
    reached: set[str] = set()
    for seed in range(6):
        torch.manual_seed(seed % 2)
        frames = encoder(features, lens).frames
        target = seeded(*frames.shape, seed=5) if target is None else target
        loss = (frames - target).square().mean()
        loss.backward()
        for parameter_name, parameter in encoder.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), parameter_name
                reached.add(parameter_name)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert min(losses[-2:]) < min(losses[:2])
    assert reached == {parameter_name for parameter_name, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("zipformer", "no balancer", "no whitener")])
def test_every_variant_of_the_function_computes_something_else(name: str) -> None:
    features, lens = seeded(2, 60, 20), torch.tensor([60, 50])
    base, other = loud(variant("zipformer")).eval(), loud(variant(name)).eval()
    own = other.state_dict()
    shared = {k: v for k, v in base.state_dict().items() if k in own and v.shape == own[k].shape}
    other.load_state_dict(shared, strict=False)
    with torch.no_grad():
        assert not torch.allclose(base(features, lens).frames, other(features, lens).frames, atol=1e-3)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_what_follows_an_utterance_does_not_matter(name: str, is_causal: bool) -> None:
    encoder = loud(variant(name, is_causal=is_causal)).eval()
    frames, lens = seeded(2, 32, encoder.config.channels[0]), torch.tensor([32, 16])
    chunks = {"chunk_frames_50hz": 8, "left_context_frames_50hz": 16} if is_causal else {}
    with torch.no_grad():
        expected = encoder.encode_frames(frames[1:, :24], lens[1:], **chunks)
        both = encoder.encode_frames(
            frames.clone().index_put_((torch.tensor([1]), torch.tensor([30])), torch.tensor(9.0)), lens, **chunks
        )
    torch.testing.assert_close(both.frames[1, :8], expected.frames[0, :8], rtol=0.0, atol=1e-5)
    assert both.lens.tolist() == [16, 8]


def test_switches_remove_what_they_say() -> None:
    def kinds(name: str) -> set[type]:
        return {type(module) for module in variant(name).stacks[0].modules()}

    assert Bypass in kinds("zipformer") and Bypass not in kinds("no bypass")
    assert BiasNorm in kinds("zipformer") and BiasNorm not in kinds("layer norm")
    assert torch.nn.LayerNorm in kinds("layer norm")
    assert Bypass in {type(module) for module in variant("no bypass").stacks[1].children()}
    layer = variant("module norms").stacks[0].layers[0]
    assert [name for name, module in layer.named_children() if isinstance(module, NormedInput)] == [
        *("attention_weights", "self_attention1", "self_attention2", "feed_forward1", "feed_forward2", "feed_forward3"),
        *("nonlin_attention", "conv1", "conv2"),
    ]
    assert all(m.prob == 0.0 for m in variant("no balancer").modules() if isinstance(m, Balancer))
    assert all(m.grad_scale == 0.0 for m in variant("no whitener").modules() if isinstance(m, Whiten))
    assert all(m.grad_scale > 0.0 for m in variant("no balancer").modules() if isinstance(m, Whiten))


@pytest.mark.parametrize("num_frames", [9, 10, 11, 12, 13, 14, 50, 99])
def test_conv_embed_at_rate_4_gives_the_frames_that_it_says(num_frames: int) -> None:
    encoder = Zipformer(small_config(conv_embed_rate=4)).eval()
    encoded = encoder(seeded(1, num_frames, 20), torch.tensor([num_frames]))
    assert encoded.frames.shape[1] == encoder.output_length(num_frames) == int(encoded.lens) == (num_frames - 5) // 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv_embed_rate": 4, "is_causal": True}, "conv_embed_rate must be 2 for a causal model, but is 4"),
        ({"query_head_dim": (4, 4)}, "query_head_dim must have one entry per stack, 6 as channels has, but has 2"),
        ({"value_head_dim": 0}, "stack 0 must have at least"),
    ],
)
def test_impossible_combinations_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(ZipformerConfig(), **settings)


def test_two_ablations_of_which_one_has_no_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be true with conformer_pair"):
        AblationConfig(block="conformer_pair", has_nonlin_attention=False)


@pytest.mark.parametrize("name", ["block", "norm", "activation"])
def test_unknown_kinds_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be one of .*, but is 'other'"):
        AblationConfig(**{name: "other"})


def test_head_widths_of_each_stack() -> None:
    config = small_config()
    num_stacks = len(config.channels)
    one = dataclasses.replace(config, query_head_dim=(4,) * num_stacks, value_head_dim=(4,) * num_stacks)
    torch.manual_seed(0)
    expected = Zipformer(dataclasses.replace(config, query_head_dim=4, value_head_dim=4)).state_dict()
    torch.manual_seed(0)
    actual = Zipformer(one).state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    wide = Zipformer(dataclasses.replace(one, query_head_dim=(4,) * (num_stacks - 1) + (8,)))
    rows = [stack.layers[0].attention_weights.in_proj.weight.shape[0] for stack in wide.stacks]
    assert rows[-1] > rows[0]
