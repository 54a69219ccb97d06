"""CTC loss. Golden: the original's loss and gradient. Reference: enumeration of all alignments. Law: padding and batch order
change nothing; an utterance that is too short has a loss of +inf and no gradient. Contract: which arguments raise."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from zipasr.losses import ctc_loss

GOLDEN = Path(__file__).parent.parent / "golden" / "g_cr_ctc.safetensors"


def make_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([[1, 2], [3, 3], [2, 0]]), torch.tensor([5, 4, 3]), torch.tensor([2, 2, 1])


def loss_by_enumeration(log_probs_TV: Tensor, labels: list[int], blank: int) -> float:
    """The loss from every sequence of tokens that collapses to the labels."""
    num_frames, vocab_size = log_probs_TV.shape
    scores = []
    for path in itertools.product(range(vocab_size), repeat=num_frames):
        if [token for token, _ in itertools.groupby(path) if token != blank] == labels:
            scores.append(sum(log_probs_TV[t, token].item() for t, token in enumerate(path)))
    return -torch.tensor(scores, dtype=torch.float64).logsumexp(0).item() if scores else math.inf


def test_agrees_with_golden():
    data = load_file(GOLDEN)
    labels = torch.nn.utils.rnn.pad_sequence(data["in.targets"].split(data["in.target_lens"].tolist()), True)
    encoded = data["in.encoder_out"].clone().requires_grad_()
    logits = encoded @ data["w.ctc_output.1.weight"].T + data["w.ctc_output.1.bias"]
    loss = ctc_loss(logits.log_softmax(2), labels, data["in.lens"], data["in.target_lens"], blank=0)
    loss.sum().backward()
    torch.testing.assert_close(loss.sum(), data["out.ctc"], rtol=1e-6, atol=0)
    # PyTorch's float32 recursion rounds to about 6e-6, and differently for each layout of the labels.
    theirs = data["grad.enc_of_ctc"]
    assert (encoded.grad - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("blank", [0, 1])
def test_equals_enumeration(blank):
    logits, labels, frame_lens, label_lens = make_batch()
    labels = labels if blank == 0 else torch.tensor([[0, 2], [3, 3], [2, 0]])
    log_probs = logits.log_softmax(2)
    ours = ctc_loss(log_probs, labels, frame_lens, label_lens, blank=blank)
    for n in range(3):
        expected = loss_by_enumeration(log_probs[n, : frame_lens[n]], labels[n, : label_lens[n]].tolist(), blank)
        assert ours[n].item() == pytest.approx(expected, abs=1e-10)


def test_gradcheck_through_the_log_softmax():
    logits, *lens = make_batch()
    assert torch.autograd.gradcheck(lambda x: ctc_loss(x.log_softmax(2), *lens, blank=0), logits.requires_grad_())


def test_padding_and_batch_order_change_nothing():
    logits, labels, frame_lens, label_lens = make_batch()
    expected = ctc_loss(logits.log_softmax(2), labels, frame_lens, label_lens, blank=0)
    padded = torch.nn.functional.pad(logits, (0, 0, 0, 3), value=1.0)
    for n in range(3):
        padded[n, frame_lens[n] :] = 9.0
    order = torch.tensor([2, 0, 1])
    more_labels = torch.tensor([[1, 2, -1], [3, 3, 99], [2, -7, 0]])
    args = (x[order] for x in (padded.log_softmax(2), more_labels, frame_lens, label_lens))
    torch.testing.assert_close(ctc_loss(*args, blank=0), expected[order], rtol=0, atol=1e-12)


def test_too_few_frames_cost_infinity_and_give_no_gradient():
    logits, labels, _, label_lens = make_batch()
    logits.requires_grad_()
    frame_lens = torch.tensor([2, 2, 1])  # 3 3 needs a blank between the labels: three frames
    loss = ctc_loss(logits.log_softmax(2), labels, frame_lens, label_lens, blank=0)
    assert loss.isinf().tolist() == [False, True, False]
    loss.sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


@pytest.mark.parametrize("frame_lens", [[5, 4, 3], [2, 2, 1]])
def test_scores_that_are_not_read_give_the_same(frame_lens, monkeypatch):
    """The loss is right on an accelerator too, where short utterances are found by lengths and labels, not by their loss."""
    logits, labels, _, label_lens = make_batch()
    found = []
    for is_readable in (True, False):
        monkeypatch.setattr("zipasr.losses.ctc.is_readable", lambda scores, answer=is_readable: answer)
        x = logits.clone().requires_grad_()
        loss = ctc_loss(x.log_softmax(2), labels, torch.tensor(frame_lens), label_lens, blank=0)
        loss.sum().backward()
        found.append((loss.detach(), x.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("num_columns", [0, 2])
def test_no_labels(num_columns):
    logits, _, frame_lens, _ = make_batch()
    log_probs = logits.log_softmax(2)
    labels = torch.ones(3, num_columns, dtype=torch.int64)
    loss = ctc_loss(log_probs, labels, frame_lens, torch.zeros(3, dtype=torch.int64), blank=0)
    expected = torch.stack([-log_probs[n, :t, 0].sum() for n, t in enumerate(frame_lens.tolist())])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs_NTV": torch.zeros(3, 5, 4, dtype=torch.bfloat16)}, r"log_probs must be float32 or float64"),
        ({"log_probs_NTV": torch.zeros(3, 5)}, r"log_probs must have 3 axes"),
        ({"labels_NS": torch.ones(6, dtype=torch.int64)}, r"labels must be \(N, S\)"),
        ({"labels_NS": torch.full((3, 2), 4)}, r"labels must be in \[0, 4\)"),
        ({"frame_lens": torch.tensor([6, 1, 1])}, r"frame_lens must be in \[1, 5\]"),
        ({"label_lens": torch.tensor([3, 1, 1])}, r"label_lens must be in \[0, 2\]"),
        ({"blank": 4}, r"blank must be in \[0, 4\)"),
    ],
)
def test_wrong_arguments_raise(change, message):
    logits, labels, frame_lens, label_lens = make_batch()
    args = {"log_probs_NTV": logits.log_softmax(2), "labels_NS": labels, "frame_lens": frame_lens}
    args |= {"label_lens": label_lens, "blank": 0}
    with pytest.raises(ValueError, match=message):
        ctc_loss(**(args | change))
