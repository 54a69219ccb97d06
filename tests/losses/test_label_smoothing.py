"""Label smoothing. Golden: the original's loss and gradient. Reference: loops over the formula. Law: padding, gradcheck."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.golden_files import assert_close_to, load_golden, seeded
from zipasr.losses import label_smoothing_loss


def slow_loss(logits_NUV: Tensor, targets_NU: Tensor, target_lens: Tensor, smoothing: float) -> list[float]:
    losses = []
    for logits_UV, targets, length in zip(logits_NUV.tolist(), targets_NU.tolist(), target_lens.tolist(), strict=True):
        loss = 0.0
        for logits, target in list(zip(logits_UV, targets, strict=True))[:length]:
            total = math.log(sum(math.exp(x) for x in logits))
            for v, x in enumerate(logits):
                q = smoothing / len(logits) + (1.0 - smoothing if v == target else 0.0)
                loss -= q * (x - total)
        losses.append(loss)
    return losses


LOGITS, TARGETS, LENS = (
    3 * seeded(3, 5, 7),
    torch.tensor([[1, 0, 6, 3, 3], [2, 2, 0, 0, 0], [5] * 5]),
    torch.tensor([5, 2, 0]),
)


def test_equals_golden() -> None:
    meta, golden = load_golden("g_aed")
    targets = golden["in.ls.target"]
    logits = golden["in.ls.x"].requires_grad_()
    loss = label_smoothing_loss(logits, targets, (targets >= 0).sum(1), smoothing=meta["label_smoothing"]).sum()
    assert_close_to(loss, golden["out.ls.loss"], 1e-6)
    loss.backward()
    assert logits.grad is not None
    assert_close_to(logits.grad, golden["grad.ls.x"], 1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_equals_loops(smoothing: float) -> None:
    found = label_smoothing_loss(LOGITS, TARGETS, LENS, smoothing=smoothing)
    assert found.tolist() == pytest.approx(slow_loss(LOGITS, TARGETS, LENS, smoothing), rel=1e-5)


def test_without_smoothing_it_is_the_likelihood() -> None:
    found = label_smoothing_loss(LOGITS, TARGETS, LENS, smoothing=0.0)
    expected = -LOGITS.log_softmax(-1).gather(2, TARGETS.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(found, torch.stack([expected[0].sum(), expected[1, :2].sum(), torch.tensor(0.0)]))


@pytest.mark.parametrize("padding", [-1, -100, 0, 99])
def test_what_padding_holds_does_not_matter(padding: int) -> None:
    targets, logits = TARGETS.clone(), LOGITS.clone()
    targets[1, 2:], targets[2], logits[1, 2:], logits[2] = padding, padding, 1e4, 3.0
    found = label_smoothing_loss(logits, targets, LENS, smoothing=0.1)
    torch.testing.assert_close(found, label_smoothing_loss(LOGITS, TARGETS, LENS, smoothing=0.1))
    assert found[2] == 0.0


def test_gradient() -> None:
    logits = LOGITS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: label_smoothing_loss(x, TARGETS, LENS, smoothing=0.2), logits)


def test_smoothed_target_is_the_minimum() -> None:
    """The loss is lowest, and its gradient 0, where the prediction is the smoothed target itself."""
    q = torch.full((7,), 0.1 / 7)
    q[3] += 0.9
    logits = q.log().view(1, 1, 7).requires_grad_()
    loss = label_smoothing_loss(logits, torch.tensor([[3]]), torch.tensor([1]), smoothing=0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-(q * q.log()).sum().item(), rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_no_targets_at_all_give_zero() -> None:
    logits = torch.zeros(2, 0, 7, requires_grad=True)
    loss = label_smoothing_loss(
        logits, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), smoothing=0.1
    )
    assert loss.tolist() == [0.0, 0.0]
    loss.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smoothing": 1.0}, "smoothing must be at least 0 and below 1"),
        ({"smoothing": -0.1}, "smoothing must be"),
        ({"targets_NU": TARGETS[:2]}, r"targets must be \(N, U\)"),
        ({"target_lens": LENS[:2]}, r"target_lens must be \(N,\)"),
        ({"target_lens": torch.tensor([6, 0, 0])}, r"target_lens must be in \[0, 5\]"),
        ({"target_lens": torch.tensor([-1, 0, 0])}, "spans -1 to 0"),
        ({"targets_NU": TARGETS + 1}, r"targets must be in \[0, 7\) up to the length of each sequence, but 1 are not"),
        ({"targets_NU": TARGETS.float()}, "targets must be integers"),
        ({"logits_NUV": LOGITS.half()}, "float32"),
        ({"logits_NUV": functional.pad(LOGITS, (0, 1))[0]}, "3 axes"),
    ],
)
def test_wrong_arguments_are_refused(change: dict, message: str) -> None:
    arguments = {"logits_NUV": LOGITS, "targets_NU": TARGETS, "target_lens": LENS, "smoothing": 0.1} | change
    with pytest.raises(ValueError, match=message):
        label_smoothing_loss(**arguments)
