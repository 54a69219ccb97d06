"""Transducer losses, contract: what raises, and the losses at the edges (no labels, one frame, no path, infinite logits);
arguments are not modified.
"""

import math

import pytest
import torch

from tests.losses.transducer_batches import all_kinds, all_losses, make_batch
from zipasr.losses import full_transducer_loss, prune_ranges, pruned_transducer_loss, simple_transducer_loss


@all_kinds
def test_no_labels_and_one_frame(kind):
    am, lm, labels, frame_lens, _ = make_batch(num_labels=2, seed=11)
    nothing = torch.zeros(3, 0, dtype=torch.int64)
    none = torch.zeros(3, dtype=torch.int64)
    losses = all_losses(am, lm[:, :1], nothing, frame_lens, none, kind)
    logits = torch.tanh(am + lm[:, :1]) * 3
    expected = [-logits[n, :t].log_softmax(1)[:, 0].sum() for n, t in enumerate(frame_lens.tolist())]
    torch.testing.assert_close(losses[1], torch.stack(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(losses[2], torch.stack(expected), rtol=0, atol=1e-12)

    one = torch.ones(3, dtype=torch.int64)
    losses = all_losses(am[:, :1], lm[:, :2], labels[:, :1], one, one, kind)
    log_probs = (torch.tanh(am[:, :1, None] + lm[:, None]) * 3).log_softmax(3)[:, 0]
    expected = -log_probs[:, 0].gather(1, labels[:, :1])[:, 0]
    if kind != "modified":
        expected = expected - log_probs[:, 1, 0]
    torch.testing.assert_close(losses[1:], expected.expand(2, 3), rtol=0, atol=1e-12)


def test_unreachable_end_is_infinite_and_has_no_gradient():
    am, lm, labels, frame_lens, label_lens = make_batch(size=2, num_frames=4, num_labels=3, is_ragged=False)
    frame_lens[0] = 2  # fewer frames than labels
    am.requires_grad_()
    simple = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0, kind="modified")
    assert simple.loss_N.isinf().tolist() == [True, False]
    simple.loss_N.sum().backward()
    assert not am.grad[0].any()
    assert am.grad[1].isfinite().all()
    assert am.grad[1].any()

    logits = torch.randn(2, 4, 2, 7, requires_grad=True)
    first_label = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 2]])  # two rows from 0 never hold label position 3
    loss = pruned_transducer_loss(logits, first_label, labels, torch.tensor([4, 4]), label_lens, blank=0)
    assert loss.isinf().tolist() == [True, False]
    loss.sum().backward()
    assert not logits.grad[0].any()
    assert logits.grad.isfinite().all()


def test_minus_infinity_in_the_logits_is_a_token_that_cannot_be():
    am, lm, labels, frame_lens, label_lens = make_batch(seed=12)
    labels = labels.clamp(max=5)
    logits = am[:, :, None] + lm[:, None]
    masked = logits.clone()
    masked[..., 6] = -math.inf
    masked.requires_grad_()
    args = labels, frame_lens, label_lens
    loss = full_transducer_loss(masked, *args, blank=0)
    torch.testing.assert_close(loss, full_transducer_loss(logits[..., :6], *args, blank=0))
    loss.sum().backward()
    assert masked.grad.isfinite().all()


def test_arguments_are_not_modified_and_backward_can_run_twice():
    am, lm, labels, frame_lens, label_lens = make_batch(seed=13)
    logits = (am[:, :, None] + lm[:, None]).requires_grad_()
    before = logits.detach().clone()
    loss = full_transducer_loss(logits, labels, frame_lens, label_lens, blank=0).sum()
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, logits)[0])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_raises(dtype):
    am, lm, *lens = make_batch()
    with pytest.raises(ValueError, match=r"am must be float32 or float64, but is torch\.\w*float16"):
        simple_transducer_loss(am.to(dtype), lm.to(dtype), *lens, blank=0)
    with pytest.raises(ValueError, match=r"logits must be float32"):
        full_transducer_loss((am[:, :, None] + lm[:, None]).to(dtype), *lens, blank=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_NS": torch.ones(3, 4, dtype=torch.int64)}, r"logits must be \(N, T, S\+1, V\) = \(3, 9, 5, 7\)"),
        ({"labels_NS": torch.ones(2, 5, dtype=torch.int64)}, r"labels must be \(N, S\) with N = 3"),
        ({"labels_NS": torch.ones(3, 5)}, r"labels must be integers, but is torch\.float32"),
        ({"labels_NS": torch.full((3, 5), 7)}, r"labels must be in \[0, 7\)"),
        ({"labels_NS": torch.full((3, 5), -1)}, r"labels must be in \[0, 7\)"),
        ({"labels_NS": torch.zeros(3, 5, dtype=torch.int64)}, r"not blank \(0\)"),
        ({"frame_lens": torch.tensor([9, 10, 3])}, r"frame_lens must be in \[1, 9\].*spans 3 to 10"),
        ({"frame_lens": torch.tensor([9, 0, 3])}, r"frame_lens must be in \[1, 9\]"),
        ({"frame_lens": torch.tensor([9, 9])}, r"frame_lens must be \(N,\) = \(3,\)"),
        ({"label_lens": torch.tensor([5, 6, 3])}, r"label_lens must be in \[0, 5\]"),
        ({"label_lens": torch.tensor([5, -1, 3])}, r"label_lens must be in \[0, 5\]"),
        ({"blank": 7}, r"blank must be in \[0, 7\)"),
        ({"blank": -1}, r"blank must be in \[0, 7\)"),
        ({"kind": "odd"}, r"kind must be one of regular, modified, constrained, but is 'odd'"),
        ({"logits_NTUV": torch.zeros(3, 9, 7)}, r"logits must have 4 axes"),
    ],
)
def test_wrong_arguments_raise(change, message):
    am, lm, labels, frame_lens, label_lens = make_batch(is_ragged=False)
    args = {"logits_NTUV": am[:, :, None] + lm[:, None], "labels_NS": labels, "frame_lens": frame_lens}
    args |= {"label_lens": label_lens, "blank": 0}
    full_transducer_loss(**args)
    with pytest.raises(ValueError, match=message):
        full_transducer_loss(**(args | change))


def test_wrong_bands_raise():
    am, lm, labels, frame_lens, label_lens = make_batch(is_ragged=False)
    logits, first_label = torch.zeros(3, 9, 2, 7), torch.zeros(3, 9, dtype=torch.int64)
    lens = labels, frame_lens, label_lens
    with pytest.raises(ValueError, match=r"first_label must be \(N, T\) = \(3, 9\)"):
        pruned_transducer_loss(logits, first_label[:, :8], *lens, blank=0)
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=r"first_label must be in \[0, 5\]"):
            pruned_transducer_loss(logits, first_label + wrong, *lens, blank=0)
    falling = first_label.clone()
    falling[1, :4] = 1
    with pytest.raises(ValueError, match=r"must not fall from frame to frame, but does after frame 3 of utterance 1"):
        pruned_transducer_loss(logits, falling, *lens, blank=0)
    with pytest.raises(ValueError, match=r"first_label must be integers"):
        pruned_transducer_loss(logits, first_label.float(), *lens, blank=0)
    with pytest.raises(ValueError, match=r"R >= 2 label positions"):
        pruned_transducer_loss(logits[:, :, :1], first_label, *lens, blank=0)
    with pytest.raises(ValueError, match=r"lm must be \(N, S\+1, V\)"):
        simple_transducer_loss(am, lm[:, 1:], *lens, blank=0)
    with pytest.raises(ValueError, match=r"lm must have the type of am"):
        simple_transducer_loss(am, lm.float(), *lens, blank=0)
    occupation = simple_transducer_loss(am, lm, *lens, blank=0)[1:]
    with pytest.raises(ValueError, match=r"prune_range must be at least 2"):
        prune_ranges(*occupation, frame_lens, label_lens, 1)
    with pytest.raises(ValueError, match=r"symbol_occupation must be \(N, T, S\)"):
        prune_ranges(occupation[1], occupation[1], frame_lens, label_lens, 3)
    with pytest.raises(ValueError, match=r"frame_lens must be in \[1, 9\]"):
        prune_ranges(*occupation, frame_lens + 1, label_lens, 3)
