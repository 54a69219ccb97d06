"""Consistency loss (CR-CTC). Golden: the original's loss and gradient. Reference: the formula in loops. Law: equal views
have zero loss and gradient; the views may be swapped; padding changes nothing; the other view gets no gradient. Contract:
which arguments raise."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zipasr.losses import consistency_loss

GOLDEN = Path(__file__).parent.parent / "golden" / "g_cr_ctc.safetensors"


def make_views():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([6, 4, 6, 4])


def test_agrees_with_golden():
    data = load_file(GOLDEN)
    encoded = data["in.encoder_out"].clone().requires_grad_()
    logits = encoded @ data["w.ctc_output.1.weight"].T + data["w.ctc_output.1.bias"]
    loss = consistency_loss(logits.log_softmax(2), data["in.lens"])
    loss.sum().backward()
    torch.testing.assert_close(loss.sum(), data["out.cr"], rtol=1e-6, atol=0)
    theirs = data["grad.enc_of_cr"]
    assert (encoded.grad - theirs).abs().max() < 1e-6 * theirs.abs().max()


def test_equals_the_formula():
    logits, lens = make_views()
    log_probs = logits.log_softmax(2)
    ours = consistency_loss(log_probs, lens)
    for n in range(4):
        other, this = log_probs[(n + 2) % 4], log_probs[n]
        expected = sum((other[t].exp() * (other[t] - this[t])).sum() for t in range(lens[n]))
        torch.testing.assert_close(ours[n], expected, rtol=0, atol=1e-12)


def test_equal_views_have_zero_loss():
    logits, lens = make_views()
    logits = torch.cat([logits[:2], logits[:2]]).requires_grad_()
    loss = consistency_loss(logits.log_softmax(2), lens)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-12)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-12)


def test_swapped_views_and_other_padding_give_the_same():
    logits, lens = make_views()
    expected = consistency_loss(logits.log_softmax(2), lens)
    order = torch.tensor([2, 3, 0, 1])
    longer = torch.nn.functional.pad(logits, (0, 0, 0, 2), value=3.0)
    longer[1, 4:] = torch.nan
    torch.testing.assert_close(consistency_loss(longer[order].log_softmax(2), lens), expected[order])


def test_the_other_view_gets_no_gradient():
    logits, lens = make_views()
    logits.requires_grad_()
    consistency_loss(logits.log_softmax(2), lens)[0].backward()
    assert logits.grad[0].any()
    assert not logits.grad[1:].any()


@pytest.mark.parametrize(
    ("log_probs", "lens", "message"),
    [
        (torch.zeros(3, 6, 5), [6, 4, 6], r"two views of each utterance.*but has 3 rows"),
        (torch.zeros(4, 6, 5, dtype=torch.float16), [6, 4, 6, 4], r"must be float32"),
        (torch.zeros(4, 6, 5), [6, 4], r"lens must be \(2N,\) = \(4,\)"),
        (torch.zeros(4, 6, 5), [6, 4, 6, 5], r"same length, but 1 of 2 differ"),
        (torch.zeros(4, 6, 5), [7, 4, 7, 4], r"lens must be in \[0, 6\]"),
        (torch.zeros(4, 6, 5), [-3, 4, -3, 4], r"lens must be in \[0, 6\]"),
        (torch.zeros(4, 6), [6, 4, 6, 4], r"must have 3 axes"),
    ],
)
def test_wrong_arguments_raise(log_probs, lens, message):
    with pytest.raises(ValueError, match=message):
        consistency_loss(log_probs, torch.tensor(lens))
