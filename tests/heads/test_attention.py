"""The attention decoder. Golden: logits, loss, scores and gradients of the original. Reference: positions by the formula.
Law: padding, batch order, future labels and other sequences change nothing. Run: it learns from the frames. Contract:
refused arguments, half precision."""

import math

import pytest
import torch
from torch import Tensor

from tests.golden_files import assert_close_to, assert_gradients, load_golden, seeded, weights
from zipasr.errors import ConfigError
from zipasr.heads import attention
from zipasr.heads.attention import AttentionConfig, AttentionHead
from zipasr.hub import rename_state_dict
from zipasr.nn.attention import sinusoids
from zipasr.nn.encoded import Encoded


def head(**settings: float) -> AttentionHead:
    torch.manual_seed(0)
    config = AttentionConfig(num_layers=2, dim=16, attention_dim=24, num_heads=4, feedforward=32, **settings)
    return AttentionHead(config, encoder_channels=20, vocab_size=15, sos_eos=1).eval()


def ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = rename_state_dict({f"attention_decoder.{name}": tensor for name, tensor in tensors.items()})
    return {name.removeprefix("attention."): tensor for name, tensor in renamed.items()}


def golden_case() -> tuple[AttentionHead, Encoded, Tensor, Tensor, dict[str, Tensor]]:
    meta, golden = load_golden("g_aed")
    config = AttentionConfig(
        num_layers=meta["num_decoder_layers"],
        dim=meta["decoder_dim"],
        attention_dim=meta["attention_dim"],
        num_heads=meta["num_heads"],
        feedforward=meta["feedforward_dim"],
        label_smoothing=meta["label_smoothing"],
    )
    module = AttentionHead(
        config, encoder_channels=meta["memory_dim"], vocab_size=meta["vocab_size"], sos_eos=meta["sos_id"]
    )
    module.load_state_dict(ours(weights(golden)))
    labels = torch.split(golden["in.y.values"], golden["in.y.lens"].tolist())
    labels_NS = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
    return module.eval(), Encoded(golden["in.encoder_out"], golden["in.lens"]), labels_NS, golden["in.y.lens"], golden


ENCODED = Encoded(seeded(3, 9, 20), torch.tensor([9, 7, 4]))
LABELS = torch.tensor([[3, 4, 5], [6, 6, 0], [7, 0, 0]])
LABEL_LENS = torch.tensor([3, 2, 1])


# Goldens


def test_logits_and_scores_equal_golden() -> None:
    module, encoded, labels, label_lens, golden = golden_case()
    logits = module(encoded, labels.unsqueeze(1), label_lens.unsqueeze(1)).squeeze(1)
    assert_close_to(logits, golden["out.logits"])
    log_probs = module.log_probs(encoded, labels.unsqueeze(1), label_lens.unsqueeze(1)).squeeze(1)
    assert_close_to(log_probs, -golden["out.nll"])


def test_loss_and_gradients_equal_golden() -> None:
    module, encoded, labels, label_lens, golden = golden_case()
    frames = encoded.frames.requires_grad_()
    losses = module.loss(Encoded(frames, encoded.lens), labels, label_lens)
    assert losses.keys() == {"attention"}
    assert_close_to(losses["attention"], golden["out.loss"])
    losses["attention"].backward()
    assert frames.grad is not None
    assert_close_to(frames.grad, golden["grad.enc"])
    expected = ours(weights(golden, "grad.w."))
    assert expected.keys() == dict(module.named_parameters()).keys()
    # the bias of the keys adds the same value to all scores of a query, so its gradient is only rounding
    assert_gradients(module, {name: grad for name, grad in expected.items() if not name.endswith("key.bias")})


# References


def test_positions_are_those_of_the_formula() -> None:
    found = sinusoids(torch.arange(7), 6)
    for position in range(7):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert found[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_scores_are_pushed_back_while_training_only() -> None:
    """Where a score exceeds 50, its gradient grows by 1e-4.

    The bias of the queries shows it, as the loss itself is 0.
    """
    gradients = {}
    for is_training in (False, True):
        module = attention._Attention(4, 4, 4, 1).train(is_training)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
            module.query.bias.fill_(10.0)
            module.key.bias.fill_(10.0)
        (0.0 * module(torch.zeros(1, 2, 4), torch.zeros(1, 3, 4), torch.zeros(1, 2, 3, dtype=torch.bool))).sum().backward()
        gradients[is_training] = module.query.bias.grad
    assert torch.equal(gradients[False], torch.zeros(4))
    # 2 queries, 3 keys; d score / d query bias = 10 / sqrt(4)
    torch.testing.assert_close(gradients[True], torch.full((4,), 2 * 3 * 1e-4 * 5.0))


# Laws


def test_loss_is_the_sum_over_the_batch_in_any_order() -> None:
    module = head()
    expected = module.loss(ENCODED, LABELS, LABEL_LENS)["attention"]
    each = [
        module.loss(Encoded(ENCODED.frames[[n]], ENCODED.lens[[n]]), LABELS[[n]], LABEL_LENS[[n]])["attention"]
        for n in range(3)
    ]
    torch.testing.assert_close(sum(each), expected)
    order = [2, 0, 1]
    shuffled = module.loss(Encoded(ENCODED.frames[order], ENCODED.lens[order]), LABELS[order], LABEL_LENS[order])
    torch.testing.assert_close(shuffled["attention"], expected)


@pytest.mark.parametrize("padding", [0, 5, -1, -100, 999])
def test_what_padding_holds_does_not_matter(padding: int) -> None:
    module = head()
    labels = torch.nn.functional.pad(LABELS, (0, 2), value=padding)
    labels[1, 2:], labels[2, 1:] = padding, padding
    frames = torch.nn.functional.pad(ENCODED.frames, (0, 0, 0, 3), value=7.0)
    frames[1, 7:], frames[2, 4:] = 50.0, -50.0
    padded = Encoded(frames, ENCODED.lens)
    expected = module.loss(ENCODED, LABELS, LABEL_LENS)["attention"]
    torch.testing.assert_close(module.loss(padded, labels, LABEL_LENS)["attention"], expected)
    scores = module.log_probs(padded, labels.unsqueeze(1), LABEL_LENS.unsqueeze(1)).squeeze(1)
    assert torch.equal(scores[:, 4:], torch.zeros(3, 2))
    alone = module.log_probs(ENCODED, LABELS.unsqueeze(1), LABEL_LENS.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(scores[:, :4], alone)


def test_gradients_of_padding_are_zero() -> None:
    module = head().train()
    frames = ENCODED.frames.clone().requires_grad_()
    module.loss(Encoded(frames, ENCODED.lens), LABELS, LABEL_LENS)["attention"].backward()
    assert frames.grad is not None
    assert frames.grad[1, 7:].abs().max() == frames.grad[2, 4:].abs().max() == 0.0
    assert frames.grad[2, :4].abs().min() > 0.0


def test_the_future_is_not_seen() -> None:
    module = head()
    lens = torch.tensor([[3]])
    one = Encoded(ENCODED.frames[:1], ENCODED.lens[:1])
    first, second = (module(one, torch.tensor([[ids]]), lens) for ids in ([3, 4, 5], [3, 4, 9]))
    torch.testing.assert_close(first[0, 0, :3], second[0, 0, :3])
    assert (first[0, 0, 3] - second[0, 0, 3]).abs().max() > 1e-3


def test_sequences_of_one_utterance_do_not_see_each_other() -> None:
    module = head()
    sequences = torch.tensor([[[3, 4, 5], [9, 0, 0], [0, 0, 0]], [[6, 6, 0], [6, 7, 8], [2, 0, 0]], [[7, 0, 0]] * 3])
    lens = torch.tensor([[3, 1, 0], [2, 3, 1], [1, 1, 1]])
    together = module.log_probs(ENCODED, sequences, lens)
    assert together.shape == (3, 3, 4)
    for k in range(3):
        alone = module.log_probs(ENCODED, sequences[:, [k]], lens[:, [k]])
        torch.testing.assert_close(together[:, [k]], alone)


def test_scores_are_a_distribution_over_what_may_follow() -> None:
    """The probabilities of a prefix's continuations, summed over every next label and the end, give that of the prefix."""
    module = head()
    one = Encoded(ENCODED.frames[:1], ENCODED.lens[:1])
    sequences = torch.tensor([[[3, v] for v in range(15)]])
    log_probs = module.log_probs(one, sequences, torch.full((1, 15), 2))
    assert log_probs[0, :, 1].exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    end = module.log_probs(one, torch.tensor([[[3]]]), torch.tensor([[1]]))[0, 0, 1].item()
    assert end == pytest.approx(log_probs[0, 1, 1].item(), abs=1e-5)  # the end is label 1


def test_without_frames_scores_are_finite_and_free_of_padding() -> None:
    module = head()
    arguments = (torch.tensor([[[3, 4]]]), torch.tensor([[2]]))
    found = [module.log_probs(Encoded(fill * torch.ones(1, 3, 20), torch.tensor([0])), *arguments) for fill in (1.0, -9.0)]
    assert found[0].isfinite().all()
    assert torch.equal(*found)
    empty = module.log_probs(Encoded(torch.zeros(1, 0, 20), torch.tensor([0])), *arguments)
    torch.testing.assert_close(empty, found[0])


# Run


def test_learns_to_use_the_frames() -> None:
    """Training on eight random utterances with random labels raises the likelihood of the labels from chance to almost 1."""
    module = head(label_smoothing=0.0, dropout=0.0).train()
    encoded = Encoded(seeded(8, 9, 20, seed=1), torch.full((8,), 9))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, 15, (8, 4), generator=generator)
    label_lens = torch.tensor([4, 4, 4, 4, 3, 3, 2, 1])
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    losses = []
    for _ in range(120):
        loss = module.loss(encoded, labels, label_lens)["attention"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / int((label_lens + 1).sum()))
    assert losses[0] > 2.0
    assert losses[-1] < 0.1


# Contracts


def test_a_head_in_half_precision_has_a_loss_in_float32() -> None:
    module, expected = head().bfloat16(), head().loss(ENCODED, LABELS, LABEL_LENS)["attention"]
    loss = module.loss(Encoded(ENCODED.frames.bfloat16(), ENCODED.lens), LABELS, LABEL_LENS)["attention"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=2e-2)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


def test_gradients_in_double_precision() -> None:
    module = head().double()
    frames = ENCODED.frames[:, :5].double().requires_grad_()

    def loss(frames: torch.Tensor) -> torch.Tensor:
        return module.loss(Encoded(frames, ENCODED.lens.clamp(max=5)), LABELS, LABEL_LENS)["attention"]

    assert loss(frames).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, frames)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_float32_of_finite_gradient(dtype: torch.dtype) -> None:
    module = head()
    frames = ENCODED.frames.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = module.loss(Encoded(frames, ENCODED.lens), LABELS, LABEL_LENS)["attention"]
    assert loss.dtype == torch.float32
    loss.backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    torch.testing.assert_close(loss, module.loss(ENCODED, LABELS, LABEL_LENS)["attention"], rtol=1e-2, atol=1e-2)


def test_dropout_works_while_training_only() -> None:
    module = head(dropout=0.5)
    arguments = (ENCODED, LABELS.unsqueeze(1), LABEL_LENS.unsqueeze(1))
    assert torch.equal(module(*arguments), module(*arguments))
    module.train()
    assert not torch.equal(module(*arguments), module(*arguments))


def test_lengths_may_be_elsewhere_than_labels() -> None:
    """The meta device stands for an accelerator; it refuses operands of another device likewise."""
    targets = head()._targets(LABELS.to("meta"), LABEL_LENS)
    assert targets.device.type == "meta" and targets.shape == (len(LABELS), LABELS.shape[1] + 1)


def test_labels_may_be_empty() -> None:
    module = head()
    loss = module.loss(ENCODED, torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))["attention"]
    assert loss.item() == pytest.approx(module.loss(ENCODED, LABELS, torch.zeros(3, dtype=torch.int64))["attention"].item())


@pytest.mark.parametrize(
    ("labels", "lens", "message"),
    [
        (torch.zeros(3, 2), torch.ones(3, 1), r"labels must be \(N, K, S\)"),
        (torch.ones(2, 1, 2), torch.ones(2, 1), "with N = 3 utterances"),
        (torch.ones(3, 1, 2), torch.ones(3, 2), r"label_lens \(N, K\)"),
        (torch.ones(3, 0, 2), torch.ones(3, 0), "at least one sequence"),
        (torch.ones(3, 1, 2), torch.full((3, 1), 3), r"label_lens must be in \[0, 2\]"),
        (torch.full((3, 1, 2), 15), torch.ones(3, 1), r"labels must be in \[0, 15\) up to .* but 3 are not"),
        (torch.full((3, 1, 2), -1), torch.ones(3, 1), "but 3 are not"),
    ],
)
def test_wrong_arguments_are_refused(labels: Tensor, lens: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head()(ENCODED, labels.long(), lens.long())


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_layers": 0},
        {"dim": 15},
        {"attention_dim": 20, "num_heads": 8},
        {"num_heads": 0},
        {"feedforward": 0},
        {"dropout": 1.0},
        {"label_smoothing": -0.1},
    ],
)
def test_wrong_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} must be"):
        AttentionConfig(**wrong)
