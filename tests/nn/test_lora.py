"""Low-rank adapters. Law: new adapters change nothing, the merged model equals the adapted one, saving and loading is
bit-exact. Contract: which layers are selected, and the error if none is."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.train.tones import minute_model
from zipasr.errors import ConfigError
from zipasr.model import AsrModel
from zipasr.nn.lora import (
    LoraConfig,
    LoraLinear,
    add_lora,
    lora_layers,
    lora_state_dict,
    merged_copy,
    merged_state_dict,
    unmerged_state_dict,
)
from zipasr.nn.schedule import set_step
from zipasr.nn.swoosh import SwooshLinear

EVERYWHERE = LoraConfig(rank=4, targets=("*",))


def adapted(config: LoraConfig = EVERYWHERE, *, is_trained: bool = True) -> AsrModel:
    """A model with adapters, whose trained matrices B are random."""
    model = copy.deepcopy(minute_model())
    torch.manual_seed(1)
    add_lora(model, config)
    if is_trained:
        for layer in lora_layers(model).values():
            nn.init.normal_(layer.lora_b, std=0.3)
    return model


def losses(model: AsrModel) -> dict[str, Tensor]:
    torch.manual_seed(2)
    features, lens = torch.randn(2, 80, 80), torch.tensor([80, 71])
    labels = torch.randint(3, 14, (2, 5))
    torch.manual_seed(3)
    return model(features, lens, labels, torch.tensor([5, 4]))


@pytest.mark.parametrize("is_training", [False, True])
def test_at_the_start_nothing_changes(is_training: bool) -> None:
    """Values are equal to the bit, in training too: the dropout of a layer draws as often with an adapter as without."""
    plain, model = copy.deepcopy(minute_model()).train(is_training), adapted(is_trained=False).train(is_training)
    for each in (plain, model):
        set_step(each, 100.0)
    expected, found = losses(plain), losses(model)
    assert expected.keys() == found.keys()
    for name, loss in expected.items():
        assert torch.equal(loss, found[name]), name


def test_merged_equals_wrapped() -> None:
    plain, model = minute_model().eval(), adapted().eval()
    features, lens = torch.randn(2, 80, 80, generator=torch.Generator().manual_seed(0)), torch.tensor([80, 71])
    with torch.no_grad():
        before, expected = (each.encode(features, lens).frames for each in (plain, model))
        merged = merged_copy(model)
        found = merged.encode(features, lens).frames
    assert (expected - before).abs().max() > 0.1  # the adapters have an effect
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert [n for n, p in merged.named_parameters() if p.requires_grad] == [
        n for n, p in plain.named_parameters() if p.requires_grad
    ]
    for name, tensor in merged_state_dict(model).items():
        assert torch.equal(tensor, merged.state_dict()[name]), name


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Linear(6, 5, bias=False), SwooshLinear(6, 5, "swoosh_left")])
def test_formula_and_gradients_of_one_layer(layer: nn.Linear | SwooshLinear) -> None:
    """y = W h + scale · B A h with h the input or its activation; A, B and the input get gradients, W does not."""
    layer = copy.deepcopy(layer).double()
    wrapped = LoraLinear(layer, LoraConfig(rank=2, alpha=6.0))
    nn.init.normal_(wrapped.lora_b)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    h = torch.nn.functional.softplus(x - 4.0) - 0.08 * x - 0.035 if isinstance(layer, SwooshLinear) else x
    weight = layer.weight + 3.0 * wrapped.lora_b @ wrapped.lora_a
    expected = h @ weight.t() + (layer.bias if layer.bias is not None else 0.0)
    torch.testing.assert_close(wrapped(x), expected)
    torch.testing.assert_close(wrapped.merged_weight(), weight.detach())
    slope = torch.randn_like(expected)
    for p in (x, wrapped.lora_a, wrapped.lora_b):
        (found,) = torch.autograd.grad((wrapped(x) * slope).sum(), p)
        (wanted,) = torch.autograd.grad((expected * slope).sum(), p, retain_graph=True)
        torch.testing.assert_close(found, wanted)
    assert not any(p.requires_grad for p in layer.parameters())


def test_saved_and_loaded_to_the_bit() -> None:
    model, other = adapted(), adapted(is_trained=False)
    tensors = unmerged_state_dict(other, merged_state_dict(model), lora_state_dict(model))
    assert tensors.keys() == other.state_dict().keys()
    other.load_state_dict(tensors)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_model_without_adapters_is_itself() -> None:
    model = minute_model()
    assert (
        merged_state_dict(model).keys()
        == model.state_dict().keys()
        == unmerged_state_dict(model, model.state_dict(), {}).keys()
    )
    assert lora_state_dict(model) == {}


def test_published_targets_are_the_default() -> None:
    """The targets are queries, keys, values and feed-forward modules of the encoder; no convolution, no head."""
    names = add_lora(copy.deepcopy(minute_model()), LoraConfig())
    per_layer = {
        "attention_weights.in_proj",
        "self_attention1.in_proj",
        "self_attention2.in_proj",
        "nonlin_attention.in_proj",
        *(f"feed_forward{i}.{part}_proj" for i in (1, 2, 3) for part in ("in", "out")),
    }
    assert names == sorted(names, key=[n for n, _ in minute_model().named_modules()].index)
    assert set(names) == {f"encoder.stacks.{i}.layers.0.{part}" for i in (0, 1) for part in per_layer}


def test_targets_name_layers_or_modules() -> None:
    model = copy.deepcopy(minute_model())
    names = add_lora(model, LoraConfig(targets=("ctc.output", "transducer.joiner", "encoder.stacks.0.*.conv1.in_proj")))
    joiner = [f"transducer.joiner.{part}" for part in ("encoder_proj", "predictor_proj", "output")]
    assert names == ["encoder.stacks.0.layers.0.conv1.in_proj", *joiner, "ctc.output"]
    assert list(lora_layers(model)) == names


def test_excluded_modules_get_none() -> None:
    model = copy.deepcopy(minute_model())
    names = add_lora(model, LoraConfig(), excluded=("encoder.stacks.0",))
    assert names and all(name.startswith("encoder.stacks.1.") for name in names)
    with pytest.raises(ConfigError, match=r"outside encoder, but 'encoder.\*attention"):
        add_lora(copy.deepcopy(minute_model()), LoraConfig(), excluded=("encoder",))


def test_a_target_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'ctc.outptu' matches none; the nearest layers are ctc.output"):
        add_lora(copy.deepcopy(minute_model()), LoraConfig(targets=("ctc.outptu",)))


def test_a_layer_gets_one_adapter() -> None:
    """Another call leaves the layers inside adapters alone, and refuses targets that have one."""
    model = adapted(LoraConfig(rank=4))
    before = list(lora_layers(model))
    expected = losses(model.eval())
    with pytest.raises(ConfigError, match=rf"'\*' selects {before[0]}, which has an adapter already; use merged_copy first"):
        add_lora(model, EVERYWHERE)
    with pytest.raises(ConfigError, match="which has an adapter already"):
        add_lora(model, LoraConfig(targets=(before[-1],)))
    with pytest.raises(ConfigError, match="matches none"):
        add_lora(model, LoraConfig(targets=(f"{before[0]}.base",)))
    assert list(lora_layers(model)) == before

    assert add_lora(model, LoraConfig(rank=2, targets=("ctc",))) == ["ctc.output"]
    assert set(lora_layers(model)) == {*before, "ctc.output"}
    for name, loss in losses(model.eval()).items():
        assert torch.equal(loss, expected[name]), name
    assert merged_state_dict(model).keys() == minute_model().state_dict().keys()
    names = add_lora(merged_copy(model), EVERYWHERE)
    assert set(before) < set(names) and not any(name.endswith(".base") for name in names)
    others = add_lora(copy.deepcopy(model), EVERYWHERE, excluded=("encoder", "ctc"))
    assert others and not any(name.startswith(("encoder.", "ctc.")) for name in others)


@pytest.mark.parametrize("layer", [nn.Linear(3, 3), SwooshLinear(3, 3, "swoosh_left")])
def test_a_layer_alone_is_refused(layer: nn.Linear | SwooshLinear) -> None:
    with pytest.raises(ConfigError, match=f"is itself a {type(layer).__name__}; put it into a module"):
        add_lora(layer, EVERYWHERE)
    assert add_lora(nn.Sequential(layer), EVERYWHERE) == ["0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"targets": ()}, "at least one layer"),
    ],
)
def test_wrong_configurations(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**changes)
