"""Golden: position encodings, attention weights, both attentions and softmax of the original. Reference: the position
formula; the relative shift as a gather. Law: gradcheck, masks, dtype. Contract: what is random, and with which
probability."""

import math

import pytest
import torch
from torch import Tensor

from tests.golden_files import assert_close_to, batch_first, layer_tensors, load_golden, seeded
from zipasr.nn import attention, constraint
from zipasr.nn.attention import (
    AttentionWeights,
    NonlinAttention,
    RelativePositionalEncoding,
    SelfAttention,
    whitening_limit,
)
from zipasr.nn.past import Past
from zipasr.nn.schedule import set_step

KINDS = ["noncausal", "causal"]

# Position encodings


@pytest.mark.parametrize("channels", [48, 192])
@pytest.mark.parametrize(("num_frames", "left"), [(1, 0), (5, 0), (37, 0), (8, 3), (16, 64)])
def test_encoding_equals_golden(channels: int, num_frames: int, left: int) -> None:
    _, golden = load_golden("a_pos_enc")
    table = RelativePositionalEncoding(channels).eval()(num_frames, left)
    assert_close_to(table, golden[f"out.dim{channels}_T{num_frames}_left{left}"][0])


def test_encoding_of_long_input_equals_golden_and_the_table_grows() -> None:
    _, golden = load_golden("a_pos_enc")
    encoding = RelativePositionalEncoding(48).eval()
    table = encoding(3000)
    assert_close_to(table[[0, 1500, 2999, 5998]], golden["out.dim48_T3000_rows0_1500_2999_5998"][0])
    assert_close_to(encoding(37), golden["out.dim48_T37_left0"][0])


def test_a_table_that_grew_in_inference_mode_serves_training() -> None:
    encoding = RelativePositionalEncoding(48, dropout=0.0)
    with torch.inference_mode():
        grown = encoding(1500)
    assert torch.equal(grown, encoding(1500))
    weight = torch.ones(48, requires_grad=True)
    rows = encoding(37)
    (rows * weight).sum().backward()
    torch.testing.assert_close(weight.grad, rows.sum(0))


def test_encoding_with_length_factor_equals_golden() -> None:
    _, golden = load_golden("a_pos_enc")
    encoding = RelativePositionalEncoding(48, length_factor=3.0).eval()
    assert_close_to(encoding(5), golden["out.lf3_dim48_T5_left0"][0])


def test_encoding_equals_the_formula() -> None:
    num_frames, channels, left = 6, 8, 3
    table = RelativePositionalEncoding(channels).eval()(num_frames, left)
    length = math.sqrt(channels)
    for row, offset in enumerate(range(-(num_frames + left - 1), num_frames)):
        sign = (offset > 0) - (offset < 0)
        angle = math.atan(2 * math.pi / channels * length * sign * math.log((abs(offset) + length) / length))
        for k in range(1, channels // 2 + 1):
            assert table[row, 2 * k - 2].item() == pytest.approx(math.cos(k * angle), abs=1e-7)
            if k < channels // 2:
                assert table[row, 2 * k - 1].item() == pytest.approx(math.sin(k * angle), abs=1e-7)
        assert table[row, -1].item() == 1.0


def test_encoding_is_dropped_elementwise_while_training() -> None:
    torch.manual_seed(0)
    encoding = RelativePositionalEncoding(48)
    plain = encoding.eval()(200)
    dropped = encoding.train()(200)
    is_kept = dropped != 0
    assert (~is_kept).float().mean().item() == pytest.approx(0.15, abs=0.02)
    torch.testing.assert_close(dropped[is_kept], plain[is_kept] / 0.85)


def test_encoding_is_no_part_of_the_state() -> None:
    assert RelativePositionalEncoding(48).state_dict() == {}


# Relative shift


@pytest.mark.parametrize(("num_frames", "num_keys"), [(1, 1), (5, 5), (4, 9), (7, 7)])
def test_relative_shift_equals_a_gather(num_frames: int, num_keys: int) -> None:
    scores = seeded(2, 3, num_frames, num_frames + num_keys - 1, dtype=torch.float64).requires_grad_()
    columns = num_frames - 1 - torch.arange(num_frames)[:, None] + torch.arange(num_keys)
    expected = scores.gather(3, columns.expand(2, 3, -1, -1))
    ours = attention.RelativeShift.apply(scores)
    assert torch.equal(ours, expected)
    y_grad = seeded(*expected.shape, seed=1, dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(y, scores, y_grad)[0] for y in (ours, expected)))


def test_relative_shift_of_a_tensor_that_is_not_contiguous() -> None:
    whole = seeded(2, 9, 3, 5).transpose(1, 3)  # (2, 5, 3, 9)
    part = whole[1:, :, :, 2:]
    columns = 2 - torch.arange(3)[:, None] + torch.arange(5)
    ours = attention.RelativeShift.apply(part)
    assert torch.equal(ours, part.gather(3, columns.expand(1, 5, -1, -1)))


# Attention weights


def golden_weights(kind: str) -> tuple[AttentionWeights, dict[str, Tensor]]:
    meta, golden = load_golden(f"a_encoder_layer_{kind}")
    module = AttentionWeights(
        meta["embed_dim"],
        meta["pos_dim"],
        num_heads=meta["num_heads"],
        query_head_dim=meta["query_head_dim"],
        pos_head_dim=meta["pos_head_dim"],
    )
    load_part(module, golden, "attention_weights")
    return module.eval(), golden


def load_part(module: torch.nn.Module, golden: dict[str, Tensor], name: str) -> None:
    own = layer_tensors(golden)
    module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in own.items() if k.startswith(f"{name}.")})


def seen(golden: dict[str, Tensor]) -> Tensor:
    """The mask of the golden weights: padding only."""
    return golden["in.key_padding_mask"][:, None, None, :]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_equal_golden(kind: str) -> None:
    module, golden = golden_weights(kind)
    weights = module(batch_first(golden["in.x"]), golden["in.pos_emb"][0], seen(golden))
    assert_close_to(weights, golden["out.attn_weights"].transpose(0, 1))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (weights.masked_select(seen(golden).expand_as(weights)) == 0).all()


def test_weights_equal_slow_code() -> None:
    """The slow code computes one score at a time from the formula."""
    torch.manual_seed(0)
    num_frames, heads, dim, pos_dim = 5, 2, 3, 2
    module = AttentionWeights(8, 12, num_heads=heads, query_head_dim=dim, pos_head_dim=pos_dim).double().eval()
    x, positions = seeded(1, num_frames, 8, dtype=torch.float64), seeded(2 * num_frames - 1, 12, dtype=torch.float64)
    mask = torch.ones(num_frames, num_frames, dtype=torch.bool).triu(2)
    projected = module.in_proj(x)[0]
    query, key = projected[:, : heads * dim], projected[:, heads * dim : 2 * heads * dim]
    pos_query, encoded = projected[:, 2 * heads * dim :], module.linear_pos(positions)
    scores = torch.full((heads, num_frames, num_frames), -1000.0, dtype=torch.float64)
    for h in range(heads):
        q, k = (m[:, h * dim : (h + 1) * dim] for m in (query, key))
        p, r = (m[:, h * pos_dim : (h + 1) * pos_dim] for m in (pos_query, encoded))
        for i in range(num_frames):
            for j in range(num_frames):
                if not mask[i, j]:
                    scores[h, i, j] = q[i] @ k[j] + p[i] @ r[num_frames - 1 - i + j]
    torch.testing.assert_close(module(x, positions, mask)[0], scores.softmax(-1))


def test_rows_with_every_key_masked_are_uniform_and_finite() -> None:
    module, golden = golden_weights("noncausal")
    weights = module(batch_first(golden["in.x"]), golden["in.pos_emb"][0], torch.tensor(True))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 21))


def test_softmax_equals_golden() -> None:
    """The original has its own softmax, whose gradient equals that of PyTorch's."""
    _, golden = load_golden("b_misc_grads")
    x = golden["in.softmax.x"].clone().requires_grad_()
    y = x.softmax(-1)
    y.backward(golden["in.pen.y_grad"])
    assert x.grad is not None
    assert_close_to(y, golden["out.softmax.y"])
    assert_close_to(x.grad, golden["grad.softmax.x"])


def test_position_term_is_dropped_as_often_as_its_schedule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    module, golden = golden_weights("noncausal")
    x, positions, mask = batch_first(golden["in.x"]), golden["in.pos_emb"][0], seen(golden)
    asked: list[float] = []
    monkeypatch.setattr(attention, "chance", lambda prob: asked.append(prob) or prob >= 0.5)
    with_positions = module(x, positions, mask)
    assert asked == []
    module.train()
    torch.testing.assert_close(module(x, positions, mask), with_positions)  # no step was set
    set_step(module, 0.0)
    without = module(x, positions, mask)
    torch.testing.assert_close(without, module.eval()(x, torch.zeros_like(positions), mask))
    assert (without - with_positions).abs().max() > 1e-3
    set_step(module.train(), 2000.0)
    module(x, positions, mask)
    set_step(module, 4000.0)
    module(x, positions, mask)
    assert asked == [0.0, 0.1, 0.5, 0.1, 0.25, 0.1, 0.0, 0.1]  # position term, penalty of large scores


def test_large_scores_are_pushed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    module, golden = golden_weights("noncausal")
    monkeypatch.setattr(attention, "chance", lambda prob: prob == 0.1)
    monkeypatch.setattr(constraint, "chance", lambda prob: False)
    x = (100.0 * batch_first(golden["in.x"])).requires_grad_()
    weights = module.train()(x, golden["in.pos_emb"][0], seen(golden))
    weights.backward(torch.zeros_like(weights))
    assert x.grad is not None
    assert x.grad.abs().max() > 0.0
    with torch.no_grad():
        query, key = (y.unflatten(-1, (4, 8)) for y in module.in_proj(x).split([32, 32, 16], -1)[:2])
        shrunk = x - 1e-2 * x.grad
        query2, key2 = (y.unflatten(-1, (4, 8)) for y in module.in_proj(shrunk).split([32, 32, 16], -1)[:2])
    size, size2 = (torch.einsum("nihd,njhd->nhij", q, k).abs().mean() for q, k in ((query, key), (query2, key2)))
    assert size2 < size


def test_weights_start_as_in_the_original() -> None:
    torch.manual_seed(0)
    module = AttentionWeights(256, 48, num_heads=4, query_head_dim=32, pos_head_dim=4)
    scale, bound = 32**-0.25, 1 / math.sqrt(256)
    assert module.in_proj.weight.shape == (4 * (32 + 32 + 4), 256)
    assert module.in_proj.weight.abs().max().item() == pytest.approx(scale * bound, rel=1e-2)
    assert module.in_proj.bias.abs().max().item() == pytest.approx(0.1 * scale, rel=5e-2)
    assert module.linear_pos.bias is None
    assert module.linear_pos.weight.abs().max().item() == pytest.approx(0.05 / math.sqrt(48), rel=2e-2)


def test_constraints_are_those_of_the_published_recipe() -> None:
    module = AttentionWeights(32, 48, num_heads=4, query_head_dim=8, pos_head_dim=4)
    keys, whiten = module.balance_keys, module.whiten_keys
    assert (keys.min_positive, keys.max_positive, keys.min_abs, keys.max_abs) == (0.4, 0.6, 0.0, 100.0)
    assert (keys.prob, keys.grad_scale) == (0.025, 0.04)
    assert (whiten.num_groups, whiten.grad_scale) == (4, 0.025)
    assert (whiten.limit(0), whiten.limit(20000), whiten.limit.default) == (3.0, 6.0, 3.0)
    values = SelfAttention(32, num_heads=4, value_head_dim=6).whiten
    assert (values.limit(0), values.limit(20000), values.grad_scale) == (7.5, 22.5, 0.01)
    nonlin = NonlinAttention(32)
    assert (nonlin.whiten1.limit(0), nonlin.whiten1.limit(20000)) == (5.0, 10.0)
    assert (nonlin.whiten2.limit(0), nonlin.whiten2.limit(20000)) == (5.0, 15.0)
    gate = nonlin.balancer
    assert [gate.min_positive(s) for s in (0, 20000)] == [0.25, 0.05]
    assert [gate.max_positive(s) for s in (0, 20000)] == [0.75, 0.95]
    assert (gate.min_abs, gate.max_abs) == (0.5, 5.0)


def test_whitening_limit_grows_and_defaults_to_its_start() -> None:
    limit = whitening_limit(4.0, 3.0)
    assert (limit(0.0), limit(10000.0), limit(20000.0), limit.default) == (4.0, 8.0, 12.0, 4.0)


# Self-attention and non-linear attention


@pytest.mark.parametrize("kind", KINDS)
def test_self_attention_equals_golden(kind: str) -> None:
    meta, golden = load_golden(f"a_encoder_layer_{kind}")
    module = SelfAttention(meta["embed_dim"], num_heads=meta["num_heads"], value_head_dim=meta["value_head_dim"])
    load_part(module, golden, "self_attention1")
    y = module.eval()(batch_first(golden["in.x"]), golden["out.attn_weights"].transpose(0, 1))
    assert_close_to(y, batch_first(golden["out.self_attn1"]))


@pytest.mark.parametrize("kind", KINDS)
def test_nonlin_attention_equals_golden(kind: str) -> None:
    meta, golden = load_golden(f"a_encoder_layer_{kind}")
    module = NonlinAttention(meta["embed_dim"])
    load_part(module, golden, "nonlin_attention")
    y = module.eval()(batch_first(golden["in.x"]), golden["out.attn_weights"][0])
    assert_close_to(y, batch_first(golden["out.nonlin_attention"]))


@pytest.mark.parametrize(("num_frames", "left"), [(1, 0), (128, 0), (129, 0), (300, 0), (16, 64), (150, 40)])
@pytest.mark.parametrize("kind", ["nothing", "padding", "chunks"])
def test_blocks_of_inference_equal_the_whole(num_frames: int, left: int, kind: str) -> None:
    weights_of = AttentionWeights(8, 6, num_heads=2, query_head_dim=3, pos_head_dim=2).double().eval()
    x, keys = seeded(2, num_frames, 8, dtype=torch.float64), num_frames + left
    positions = seeded(2 * num_frames + left - 1, 6, dtype=torch.float64)
    mask = torch.zeros(2, 1, 1, keys, dtype=torch.bool)
    if kind == "padding":
        mask[1, :, :, keys // 2 :] = True
    elif kind == "chunks":
        rows, columns = torch.arange(num_frames).unsqueeze(1) // 10, torch.arange(-left, num_frames) // 10
        mask = mask | (columns > rows) | (columns < rows - 3)
    past = (lambda: Past(seeded(2, left, 6, dtype=torch.float64))) if left else (lambda: None)
    expected = weights_of(x, positions, mask, past())
    assert expected.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(weights_of(x, positions, mask, past()), expected.detach())


def test_gradcheck_of_the_three() -> None:
    torch.manual_seed(0)
    weights_of = AttentionWeights(8, 6, num_heads=2, query_head_dim=3, pos_head_dim=2).double().eval()
    attend, nonlin = SelfAttention(8, num_heads=2, value_head_dim=3).double(), NonlinAttention(8).double()
    positions = seeded(7, 6, dtype=torch.float64)
    mask = torch.tensor([[False] * 4, [False] * 3 + [True]])[:, None, None]

    def run(x: Tensor) -> Tensor:
        weights = weights_of(x, positions, mask)
        return attend(x, weights) + nonlin(x, weights[:, 0])

    assert torch.autograd.gradcheck(run, (seeded(2, 4, 8, dtype=torch.float64).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type(dtype: torch.dtype) -> None:
    weights_of = AttentionWeights(8, 6, num_heads=2, query_head_dim=3, pos_head_dim=2).to(dtype).eval()
    attend, nonlin = SelfAttention(8, num_heads=2, value_head_dim=3).to(dtype), NonlinAttention(8).to(dtype)
    x = seeded(2, 4, 8).to(dtype)
    weights = weights_of(x, seeded(7, 6).to(dtype), torch.tensor(False))
    with torch.no_grad():
        in_blocks = weights_of(x, seeded(7, 6).to(dtype), torch.tensor(False))
    assert {weights.dtype, in_blocks.dtype, attend(x, weights).dtype, nonlin(x, weights[:, 0]).dtype} == {dtype}
