"""Golden: one Zipformer block and its Bypass, values and all gradients. Law: padding and masks; gradcheck. Contract: what
training enables, with the published schedules."""

import pytest
import torch
from torch import Tensor

from tests.golden_files import (
    assert_close_to,
    assert_gradients,
    batch_first,
    layer_tensors,
    load_golden,
    seeded,
)
from zipasr.encoder import layer as layer_module
from zipasr.encoder.layer import Bypass, LayerPast, LayerShape, ZipformerLayer
from zipasr.nn import constraint
from zipasr.nn.dropout import sequence_mask
from zipasr.nn.norm import BiasNorm
from zipasr.nn.past import Past
from zipasr.nn.schedule import Schedule, set_step


def golden_layer(kind: str) -> tuple[ZipformerLayer, dict[str, Tensor]]:
    meta, golden = load_golden(f"a_encoder_layer_{kind}")
    layer = ZipformerLayer(
        LayerShape(
            channels=meta["embed_dim"],
            feedforward=meta["feedforward_dim"],
            num_heads=meta["num_heads"],
            kernel_size=meta["cnn_module_kernel"],
            query_head_dim=meta["query_head_dim"],
            value_head_dim=meta["value_head_dim"],
            pos_head_dim=meta["pos_head_dim"],
            pos_dim=meta["pos_dim"],
            is_causal=meta["causal"],
        )
    )
    layer.load_state_dict(layer_tensors(golden))
    return layer.eval(), golden


def run(layer: ZipformerLayer, golden: dict[str, Tensor], x: Tensor, chunk: int = -1, has_mask: bool = True) -> Tensor:
    padding = golden["in.key_padding_mask"] if has_mask else torch.zeros(3, 21, dtype=torch.bool)
    mask = padding[:, None, None, :]
    if chunk > 0:
        mask = mask | golden[f"in.attn_mask_chunk{chunk}"]
    return layer(x, golden["in.pos_emb"][0].to(x.dtype), mask, padding, chunk)


@pytest.mark.parametrize(
    ("kind", "chunk", "has_mask", "name"),
    [
        ("noncausal", -1, True, "out.y"),
        ("noncausal", -1, False, "out.y_nomask"),
        ("causal", -1, True, "out.y"),
        ("causal", -1, False, "out.y_nomask"),
        ("causal", 4, True, "out.y_chunk4"),
        ("causal", 8, True, "out.y_chunk8"),
    ],
)
@pytest.mark.parametrize("grad", [True, False])
def test_values_equal_golden(kind: str, chunk: int, has_mask: bool, name: str, grad: bool) -> None:
    layer, golden = golden_layer(kind)
    with torch.set_grad_enabled(grad):
        y = run(layer, golden, batch_first(golden["in.x"]), chunk, has_mask)
    assert_close_to(y, batch_first(golden[name]))


@pytest.mark.parametrize("kind", ["noncausal", "causal"])
def test_float64_equals_golden(kind: str) -> None:
    layer, golden = golden_layer(kind)
    y = run(layer.double(), golden, batch_first(golden["in.x"]).double())
    assert_close_to(y, batch_first(golden["out.y_f64"]), 1e-9)


def test_one_chunk_of_a_stream_equals_golden() -> None:
    layer, golden = golden_layer("causal")
    batch_second = ("key", "val1", "val2")
    cached = {name: golden[f"in.stream.cached_{name}"].transpose(0, 1) for name in batch_second}
    cached["nonlin_attn"] = golden["in.stream.cached_nonlin_attn"][0]
    cached |= {name: golden[f"in.stream.cached_{name}"].transpose(1, 2) for name in ("conv1", "conv2")}
    past = LayerPast(*(Past(cached[name]) for name in ("key", "nonlin_attn", "val1", "val2", "conv1", "conv2")))
    padding = golden["in.stream.key_padding_mask"]
    x, positions = batch_first(golden["in.stream.x"]), golden["in.stream.pos_emb"][0]
    y = layer(x, positions, padding[:, None, None], padding[:, -x.shape[1] :], x.shape[1], past)
    assert_close_to(y, batch_first(golden["out.stream.y"]))
    after = {name: golden[f"out.stream.cached_{name}"].transpose(0, 1) for name in batch_second}
    after["nonlin_attn"] = golden["out.stream.cached_nonlin_attn"][0]
    after |= {name: golden[f"out.stream.cached_{name}"].transpose(1, 2) for name in ("conv1", "conv2")}
    for own, name in zip(past, ("key", "nonlin_attn", "val1", "val2", "conv1", "conv2"), strict=True):
        assert own is not None and own.next is not None
        assert_close_to(own.next, after[name], name=name)


@pytest.mark.parametrize("kind", ["noncausal", "causal"])
def test_gradients_equal_golden(kind: str) -> None:
    layer, golden = golden_layer(kind)
    x = batch_first(golden["in.x"]).clone().requires_grad_()
    run(layer, golden, x).backward(batch_first(golden["in.y_grad"]))
    assert x.grad is not None
    assert_close_to(x.grad, batch_first(golden["grad.x"]))
    expected = layer_tensors(golden, "grad.w.")
    assert expected.keys() >= {name for name, p in layer.named_parameters() if p.grad is not None}
    assert_gradients(layer, expected, 2e-5)


def test_norm_equals_golden() -> None:
    layer, golden = golden_layer("noncausal")
    assert_close_to(layer.norm(batch_first(golden["in.x"])), batch_first(golden["out.norm"]))


def test_gradcheck() -> None:
    torch.manual_seed(0)
    shape = LayerShape(
        channels=8,
        feedforward=8,
        num_heads=2,
        kernel_size=3,
        query_head_dim=2,
        value_head_dim=2,
        pos_head_dim=2,
        pos_dim=4,
        is_causal=False,
    )
    layer = ZipformerLayer(shape).double().eval()
    positions, padding = seeded(7, 4, dtype=torch.float64), torch.tensor([[False] * 4, [False] * 3 + [True]])
    x = seeded(2, 4, 8, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, positions, padding[:, None, None, :], padding), (x,))


def test_padding_frames_do_not_matter() -> None:
    layer, golden = golden_layer("noncausal")
    x, padding = batch_first(golden["in.x"]), golden["in.key_padding_mask"].unsqueeze(-1)
    other = torch.where(padding, seeded(*x.shape, seed=9), x)
    difference = run(layer, golden, x) - run(layer, golden, other)
    assert difference.masked_fill(padding, 0.0).abs().max() < 1e-5


# Bypass


@pytest.mark.parametrize("step", [0, 10000, 20000, 30000])
def test_bypass_equals_golden(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraint, "chance", lambda prob: prob > 0.0)
    _, golden = load_golden("a_bypass")
    bypass = Bypass(16)
    bypass.load_state_dict({"scale": golden["w.bypass_scale"]})
    before, after = batch_first(golden["in.src_orig"]), batch_first(golden["in.src"])
    assert_close_to(bypass.eval()(before, after), batch_first(golden["out.eval"]))
    set_step(bypass.train(), step)
    assert bypass.value(layer_module._BYPASS_MIN) == pytest.approx(golden[f"out.scale_min_batch{step}"].item())
    y = bypass(before, after)
    assert_close_to(y, batch_first(golden[f"out.train_batch{step}"]))
    (y * before).sum().backward()
    assert bypass.scale.grad is not None
    assert_close_to(bypass.scale.grad, golden[f"grad.bypass_scale_batch{step}"])


def test_bypass_skips_whole_sequences_with_its_rate() -> None:
    torch.manual_seed(0)
    bypass = Bypass(4, skip_rate=Schedule(((0.0, 0.5), (10.0, 0.1))))
    before, after = seeded(500, 3, 4), seeded(500, 3, 4, seed=1)

    def skipped() -> Tensor:
        return (bypass(before, after) == before).flatten(1).all(1)

    assert not skipped().any()
    for step, rate in ((0.0, 0.5), (10.0, 0.1)):
        set_step(bypass, step)
        assert skipped().float().mean().item() == pytest.approx(rate, abs=0.07)
    bypass.eval()
    assert not skipped().any()
    assert torch.equal(bypass(before, after), before + 0.5 * (after - before))


# Training


def test_schedules_are_those_of_the_published_recipe() -> None:
    steps = (0.0, 4000.0, 16000.0, 50000.0)
    assert [layer_module.ATTENTION_SKIP(s) for s in steps] == [0.2, 0.05, 0.0, 0.0]
    assert [layer_module.CONV_SKIP(s) for s in steps] == [0.2, 0.05, 0.0, 0.0]
    assert [layer_module.FEED_FORWARD_SKIP(s) for s in (0.0, 4000.0, 50000.0)] == [0.1, 0.01, 0.0]
    assert [layer_module._CONST_ATTENTION(s) for s in (0.0, 4000.0, 50000.0)] == [0.25, 0.025, 0.025]
    assert [layer_module._BYPASS_MIN(s) for s in (0.0, 20000.0)] == [0.9, 0.2]
    for schedule in ("ATTENTION_SKIP", "CONV_SKIP", "FEED_FORWARD_SKIP", "_CONST_ATTENTION", "_BYPASS_MIN"):
        assert getattr(layer_module, schedule).default == 0.0


def test_constraints_are_those_of_the_published_recipe() -> None:
    layer, _ = golden_layer("noncausal")
    nonlin, ff2, ff3 = layer.balancer_nonlin, layer.balancer_ff2, layer.balancer_ff3
    for balancer in (nonlin, ff2, ff3):
        assert (balancer.min_positive, balancer.max_positive, balancer.prob) == (0.3, 0.7, 0.05)
    assert [nonlin.min_abs(s) for s in (0, 4000)] == [0.004, 0.02]
    assert [ff2.min_abs(s) for s in (0, 4000)] == [0.0, 0.1]
    assert [ff3.min_abs(s) for s in (0, 4000)] == [0.0, 0.2]
    assert [b.max_abs for b in (nonlin, ff2, ff3)] == [100.0, 2.0, 4.0]
    for balancer, min_abs in ((layer.balancer1, 0.2), (layer.balancer2, 0.1)):
        assert (balancer.min_positive, balancer.max_positive) == (0.45, 0.55)
        assert (balancer.min_abs, balancer.max_abs) == (min_abs, 4.0)
    assert (layer.whiten.limit(0), layer.whiten.limit(20000), layer.whiten.grad_scale) == (4.0, 12.0, 0.01)


def test_constraints_stand_where_the_original_has_them() -> None:
    layer, golden = golden_layer("noncausal")
    called: list[str] = []
    kinds = (constraint.Balancer, constraint.Whiten, BiasNorm, Bypass)
    for name, module in layer.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda module, inputs, output, name=name: called.append(name))
    run(layer.train(), golden, batch_first(golden["in.x"]))
    convolution = ["gate_balancer", "out_balancer", "whiten"]
    assert called == [
        *("attention_weights.balance_keys", "attention_weights.whiten_keys"),
        *("feed_forward1.hidden_balancer", "feed_forward1.out_whiten"),
        *("nonlin_attention.whiten1", "nonlin_attention.balancer", "nonlin_attention.whiten2", "balancer_nonlin"),
        "self_attention1.whiten",
        *(f"conv1.{name}" for name in convolution),
        *("feed_forward2.hidden_balancer", "feed_forward2.out_whiten", "balancer_ff2"),
        "bypass_mid",
        "self_attention2.whiten",
        *(f"conv2.{name}" for name in convolution),
        *("feed_forward3.hidden_balancer", "feed_forward3.out_whiten", "balancer_ff3"),
        *("balancer1", "norm", "bypass", "balancer2", "whiten"),
    ]


def test_training_without_chances_is_eval() -> None:
    """Before the first step every rate is zero, so training mode gives the values of eval mode."""
    layer, golden = golden_layer("noncausal")
    x = batch_first(golden["in.x"])
    expected = run(layer, golden, x)
    torch.testing.assert_close(run(layer.train(), golden, x), expected)


def test_one_mask_serves_the_three_attentions_and_fresh_ones_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, golden = golden_layer("noncausal")
    rates: list[float] = []

    def spy(x: Tensor, rate: float) -> Tensor:
        rates.append(rate)
        return sequence_mask(x, rate)

    monkeypatch.setattr(layer_module, "sequence_mask", spy)
    set_step(layer.train(), 0.0)
    run(layer, golden, batch_first(golden["in.x"]))
    assert rates == pytest.approx([0.2, 0.2, 0.1, 0.2, 0.1])  # attention, conv1, ff2, conv2, ff3
    rates.clear()
    set_step(layer, 20000.0)
    run(layer, golden, batch_first(golden["in.x"]))
    assert len(rates) == 2  # ff2 and ff3 end at 50,000


def test_skipped_modules_add_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every sequence skipped, only the first feed-forward module, the norm and the bypasses remain."""
    layer, golden = golden_layer("noncausal")
    x = batch_first(golden["in.x"])
    set_step(layer.train(), 0.0)
    layer.attention_weights.pos_drop_rate = 0.0
    for module in (layer.feed_forward1, layer.feed_forward2, layer.feed_forward3):
        module.out_proj.dropout = 0.0
    monkeypatch.setattr(layer_module, "sequence_mask", lambda x, rate: torch.zeros(x.shape[0], 1, 1))
    y = run(layer, golden, x)
    middle = x + (x + layer.feed_forward1(x) - x) * layer.bypass_mid.scale
    torch.testing.assert_close(y, x + (layer.norm(middle) - x) * layer.bypass.scale)


def test_constant_attention_keeps_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, golden = golden_layer("noncausal")
    weights = golden["out.attn_weights"].transpose(0, 1)
    set_step(layer.train(), 0.0)
    monkeypatch.setattr(layer_module, "chance", lambda prob: prob == 0.25)
    constant = layer._one_head(weights)
    for n, padding in enumerate(golden["in.key_padding_mask"]):
        expected = (~padding).float() / (~padding).sum()
        torch.testing.assert_close(constant[n], expected.expand(21, 21))
    assert torch.equal(layer.eval()._one_head(weights), weights[:, 0])
