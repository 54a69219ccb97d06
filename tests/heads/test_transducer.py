"""Golden: the original's predictor. Reference: slow predictor and joiner; the pruned loss with a band over all labels equals
the full lattice. Law: padding, order, sums. Contract: initialization, constraints, configuration."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.golden_files import assert_close_to, load_golden, seeded, weights
from zipasr.errors import ConfigError
from zipasr.heads.transducer import Predictor, TransducerConfig, TransducerHead
from zipasr.losses.lattice import LatticeKind
from zipasr.losses.transducer import full_transducer_loss, simple_transducer_loss
from zipasr.nn.encoded import Encoded

ENCODED = Encoded(seeded(3, 9, 12), torch.tensor([9, 7, 4]))
LABELS = torch.tensor([[1, 2, 3, 4], [4, 4, 0, 0], [5, 0, 0, 0]])
LABEL_LENS = torch.tensor([4, 2, 1])


def head(**settings: Any) -> TransducerHead:
    torch.manual_seed(0)
    config = TransducerConfig(**({"predictor_dim": 8, "joiner_dim": 10} | settings))
    return TransducerHead(config, encoder_channels=12, vocab_size=6, blank=0).eval()


def golden_predictor() -> tuple[Predictor, dict[str, Tensor]]:
    _, golden = load_golden("e_asr_model")
    predictor = Predictor(30, 32, 2)
    predictor.load_state_dict(weights(golden, "w.decoder."))
    return predictor.eval(), golden


def test_predictor_equals_golden() -> None:
    predictor, golden = golden_predictor()
    assert_close_to(predictor(functional.pad(golden["in.dec_y"], (1, 0), value=-1)), golden["out.decoder_pad"])
    assert_close_to(predictor(golden["in.dec_y2"]), golden["out.decoder_nopad"])


@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_predictor_equals_slow_code(context_size: int) -> None:
    torch.manual_seed(0)
    predictor = Predictor(6, 8, context_size).eval()
    ids = torch.tensor([[-1, -1, 0, 3, 5, 1]])
    y = predictor(ids)
    assert y.shape == (1, 7 - context_size, 8)
    table = torch.cat([predictor.embedding.weight, torch.zeros(1, 8)])  # id -1 is the last row
    for u in range(y.shape[1]):
        context = table[ids[0, u : u + context_size]]  # (context, D)
        if context_size == 1:
            torch.testing.assert_close(y[0, u], context[0])
            continue
        for d in range(8):
            group = slice(d // 4 * 4, d // 4 * 4 + 4)  # four channels in each group
            expected = (context[:, group].t() * predictor.conv.weight[d]).sum().relu()
            torch.testing.assert_close(y[0, u, d], expected)


@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_contexts_start_with_blank_and_exclude_later_labels(context_size: int) -> None:
    module = head(context_size=context_size)
    contexts = module.predict(LABELS)
    assert contexts.shape == (3, 5, 8)
    for u in range(5):
        ids = [-1] * (context_size - 1) + [0, *LABELS[0, :u].tolist()]
        expected = module.predictor(torch.tensor([ids[-context_size:]]))[0, 0]
        torch.testing.assert_close(contexts[0, u], expected)


def test_joiner_equals_slow_code_and_broadcasts() -> None:
    joiner = head().joiner
    frames, contexts = joiner.encoder_proj(ENCODED.frames), joiner.predictor_proj(seeded(3, 5, 8))
    logits = joiner(frames.unsqueeze(2), contexts.unsqueeze(1))
    assert logits.shape == (3, 9, 5, 6)
    expected = torch.tanh(frames[1, 2] + contexts[1, 3]) @ joiner.output.weight.t() + joiner.output.bias
    torch.testing.assert_close(logits[1, 2, 3], expected)


@pytest.mark.parametrize("prune_range", [5, 100])
def test_band_over_all_labels_gives_the_full_lattice(prune_range: int) -> None:
    module = head(prune_range=prune_range)
    contexts = module.predict(LABELS)
    logits = module.joiner(
        module.joiner.encoder_proj(ENCODED.frames).unsqueeze(2), module.joiner.predictor_proj(contexts).unsqueeze(1)
    )
    expected = full_transducer_loss(logits, LABELS, ENCODED.lens, LABEL_LENS, blank=0)
    losses = module.loss(ENCODED, LABELS, LABEL_LENS)
    assert losses.keys() == {"simple", "pruned"}
    torch.testing.assert_close(losses["pruned"], expected.sum())


def test_simple_loss_is_that_of_its_two_projections() -> None:
    module = head(lm_scale=0.3, am_scale=0.1)
    simple = simple_transducer_loss(
        module.simple_am(ENCODED.frames),
        module.simple_lm(module.predict(LABELS)),
        LABELS,
        ENCODED.lens,
        LABEL_LENS,
        blank=0,
        lm_scale=0.3,
        am_scale=0.1,
    )
    torch.testing.assert_close(module.loss(ENCODED, LABELS, LABEL_LENS)["simple"], simple.loss_N.sum())


def test_narrow_band_loses_paths() -> None:
    whole, narrow = (head(prune_range=r).loss(ENCODED, LABELS, LABEL_LENS) for r in (5, 2))
    assert narrow["pruned"] > whole["pruned"]
    assert narrow["pruned"].isfinite()
    torch.testing.assert_close(narrow["simple"], whole["simple"])


def test_loss_is_the_sum_over_the_batch() -> None:
    module = head()
    together = module.loss(ENCODED, LABELS, LABEL_LENS)
    alone = [
        module.loss(
            Encoded(ENCODED.frames[n : n + 1, :length], ENCODED.lens[n : n + 1]),
            LABELS[n : n + 1, : LABEL_LENS[n]],
            LABEL_LENS[n : n + 1],
        )
        for n, length in enumerate(ENCODED.lens.tolist())
    ]
    for name, loss in together.items():
        torch.testing.assert_close(loss, torch.stack([losses[name] for losses in alone]).sum())


def check_second_is_left_out(losses: dict[str, Tensor], expected: dict[str, Tensor], frames: Tensor) -> None:
    """The losses are those of the other utterances, and the second one has finite gradients of 0."""
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
    (losses["simple"] + losses["pruned"]).backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert not frames.grad[1].any()


@pytest.mark.parametrize(("lattice", "most"), [("regular", 8), ("modified", 2), ("constrained", 2)])
def test_more_labels_than_frames_can_emit_count_as_zero(lattice: LatticeKind, most: int) -> None:
    module = head(lattice=lattice)
    frames = ENCODED.frames.clone().requires_grad_()
    labels = seeded(2, most + 1).abs().long() % 5 + 1
    encoded = Encoded(frames[:2], torch.tensor([9, 2]))
    expected = module.loss(Encoded(frames[:1], torch.tensor([9])), labels[:1, :3], torch.tensor([3]))
    check_second_is_left_out(module.loss(encoded, labels, torch.tensor([3, most + 1])), expected, frames)
    for name, loss in module.loss(encoded, labels, torch.tensor([3, most])).items():
        assert loss.isfinite()
        assert loss > expected[name]


@pytest.mark.parametrize("label", [-1, 0, 6, 12])
def test_a_label_outside_the_vocabulary_is_refused(label: int) -> None:
    labels = LABELS.clone()
    labels[1, 1] = label
    with pytest.raises(ValueError, match=r"labels must be in \[0, 6\) and not blank \(0\).*check the tokenizer against"):
        head().loss(ENCODED, labels, LABEL_LENS)


@pytest.mark.parametrize("num_labels", [2, 0])
def test_an_utterance_without_frames_counts_as_zero(num_labels: int) -> None:
    module, rest = head(), [0, 2]
    frames = ENCODED.frames.clone().requires_grad_()
    encoded, label_lens = Encoded(frames, torch.tensor([9, 0, 4])), torch.tensor([4, num_labels, 1])
    expected = module.loss(Encoded(frames[rest], encoded.lens[rest]), LABELS[rest], label_lens[rest])
    check_second_is_left_out(module.loss(encoded, LABELS, label_lens), expected, frames)
    with pytest.raises(ValueError, match=r"frame_lens must be in \[1, 9\], as 9 frames are given, but spans -1 to 9"):
        module.loss(Encoded(frames, torch.tensor([9, -1, 4])), LABELS, label_lens)


def test_a_head_in_double_precision_has_losses_in_double_precision() -> None:
    expected = head().loss(ENCODED, LABELS, LABEL_LENS)
    losses = head().double().loss(Encoded(ENCODED.frames.double(), ENCODED.lens), LABELS, LABEL_LENS)
    for name, loss in losses.items():
        assert loss.dtype == torch.float64
        torch.testing.assert_close(loss.float(), expected[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_in_half_precision_has_losses_in_float32(dtype: torch.dtype) -> None:
    module, expected = head().to(dtype), head().loss(ENCODED, LABELS, LABEL_LENS)
    losses = module.loss(Encoded(ENCODED.frames.to(dtype), ENCODED.lens), LABELS, LABEL_LENS)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=2e-2, atol=2e-2)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_lengths_of_any_integer_type(dtype: torch.dtype) -> None:
    """Also where four labels in each of 70 frames are more than the type can count."""
    module, frames = head(), seeded(3, 70, 12)
    lens = torch.tensor([70, 7, 4])
    expected = module.loss(Encoded(frames, lens), LABELS, LABEL_LENS)
    for name, loss in module.loss(Encoded(frames, lens.to(dtype)), LABELS, LABEL_LENS.to(dtype)).items():
        assert torch.equal(loss, expected[name]), name


@pytest.mark.parametrize("padding", [0, 5, -1, -100])
def test_what_padding_holds_does_not_matter(padding: int) -> None:
    module = head(am_scale=0.1)  # this share depends on all label positions of the batch
    labels, frames = LABELS.clone(), ENCODED.frames.clone()
    labels[1, 2:], labels[2, 1:] = padding, padding
    frames[1, 7:], frames[2, 4:] = 50.0, -50.0
    expected = module.loss(ENCODED, LABELS, LABEL_LENS)
    for name, loss in module.loss(Encoded(frames, ENCODED.lens), labels, LABEL_LENS).items():
        torch.testing.assert_close(loss, expected[name])


def test_every_parameter_gets_a_finite_gradient() -> None:
    module = head().train()
    frames = ENCODED.frames.clone().requires_grad_()
    losses = module.loss(Encoded(frames, ENCODED.lens), LABELS, LABEL_LENS)
    (0.5 * losses["simple"] + losses["pruned"]).backward()
    for name, parameter in [*module.named_parameters(), ("frames", frames)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_losses_are_float32_of_finite_gradient(dtype: torch.dtype) -> None:
    module = head().train()
    expected = module.loss(ENCODED, LABELS, LABEL_LENS)
    frames = ENCODED.frames.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        losses = module.loss(Encoded(frames, ENCODED.lens), LABELS, LABEL_LENS)
    (0.5 * losses["simple"] + losses["pruned"]).backward()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=2e-2, atol=2e-2)
    assert frames.grad is not None
    assert frames.grad.isfinite().all()


def test_starts_as_in_the_original() -> None:
    torch.manual_seed(0)
    module = TransducerHead(TransducerConfig(), encoder_channels=512, vocab_size=500, blank=0)
    bound = 0.25 / math.sqrt(512)
    for linear in (module.joiner.encoder_proj, module.joiner.predictor_proj, module.simple_am, module.simple_lm):
        assert linear.weight.abs().max().item() == pytest.approx(bound, rel=1e-2)
        assert linear.bias.abs().max().item() == pytest.approx(0.025, rel=5e-2)
    assert module.joiner.output.weight.abs().max().item() == pytest.approx(4 * bound, rel=1e-2)
    assert module.predictor.embedding.weight.std().item() == pytest.approx(1.0, rel=1e-2)
    assert module.predictor.conv.weight.shape == (512, 4, 2)
    assert module.predictor.conv.bias is None


def test_constraints_are_those_of_the_published_recipe() -> None:
    predictor = head().predictor
    for balancer in (predictor.balancer1, predictor.balancer2):
        assert (balancer.min_positive, balancer.max_positive, balancer.prob) == (0.0, 1.0, 0.05)
        assert (balancer.min_abs, balancer.max_abs) == (0.5, 1.0)


def test_context_of_one_label_needs_no_convolution() -> None:
    assert [name for name, _ in Predictor(6, 8, 1).named_parameters()] == ["embedding.weight"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_size": 0}, "context_size must be at least 1"),
        ({"predictor_dim": 10}, "predictor_dim must be a multiple of 4"),
        ({"prune_range": 1}, "prune_range must be at least 2"),
        ({"predictor_dim": 0}, "predictor_dim must be at least 1, but is 0"),
        ({"joiner_dim": -3}, "joiner_dim must be at least 1, but is -3"),
        ({"lm_scale": 2.0}, "at most 1 together, but are 2.0 and 0.0"),
        ({"am_scale": -1.0}, "must be at least 0"),
        ({"lm_scale": 0.6, "am_scale": 0.5}, "at most 1 together"),
        ({"lm_scale": math.nan}, "must be at least 0"),
    ],
)
def test_impossible_configurations_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransducerConfig(**settings)
