"""Transducer losses. reference: enumeration of all paths; loops over the recursion; the smoothing written out. law: a wide
band is the full lattice; padding and batch order change nothing; gradcheck; occupations sum to the lengths; arrays have the
size of the band; chunks, autocast and the device change nothing.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.losses.transducer_batches import SCALES, all_kinds, all_losses, make_batch
from zipasr.losses import (
    arc_scores,
    full_transducer_loss,
    prune_ranges,
    pruned_transducer_loss,
    simple_transducer_loss,
)
from zipasr.losses.lattice import sum_paths


def loss_by_enumeration(log_probs_TUV: Tensor, labels: list[int], kind: str, delay_penalty: float = 0.0) -> float:
    """Every path, one by one: choose which of the arcs are symbols."""
    num_frames, num_labels = log_probs_TUV.shape[0], len(labels)
    num_arcs = num_frames + num_labels if kind == "regular" else num_frames
    scores = []
    for symbol_arcs in itertools.combinations(range(num_arcs), num_labels):
        t, s, score = 0, 0, 0.0
        for arc in range(num_arcs):
            if t == num_frames:  # a symbol after the last frame
                score = -math.inf
                break
            if arc in symbol_arcs:
                score += log_probs_TUV[t, s, labels[s]].item() + delay_penalty * ((num_frames - 1) / 2 - t)
                score += log_probs_TUV[t, s + 1, 0].item() if kind == "constrained" else 0.0
                s, t = s + 1, t if kind == "regular" else t + 1
            else:
                score += log_probs_TUV[t, s, 0].item()
                t += 1
        scores.append(score)
    return -torch.tensor(scores, dtype=torch.float64).logsumexp(0).item()


@all_kinds
@pytest.mark.parametrize("delay_penalty", [0.0, 0.3])
def test_full_and_simple_loss_equal_enumeration(kind, delay_penalty):
    am, lm, labels, frame_lens, label_lens = make_batch(num_frames=5, num_labels=3)
    logits = am[:, :, None] + lm[:, None]
    args = labels, frame_lens, label_lens
    ours = full_transducer_loss(logits, *args, blank=0, kind=kind, delay_penalty=delay_penalty)
    simple = simple_transducer_loss(am, lm, *args, blank=0, lm_scale=0, kind=kind, delay_penalty=delay_penalty).loss_N
    for n, (num_frames, num_labels) in enumerate(zip(frame_lens.tolist(), label_lens.tolist(), strict=True)):
        log_probs = logits[n, :num_frames].log_softmax(2)
        expected = loss_by_enumeration(log_probs, labels[n, :num_labels].tolist(), kind, delay_penalty)
        assert ours[n].item() == pytest.approx(expected, abs=1e-10)
        assert simple[n].item() == pytest.approx(expected, abs=1e-10)


def loop_over_band(log_probs_TRV: Tensor, first_T: list[int], labels: list[int], kind: str) -> Tensor:
    """The recursion, a scalar at a time, differentiable, over the band only."""
    num_frames, width, _ = log_probs_TRV.shape
    num_labels = len(labels)
    nothing = torch.tensor(-math.inf, dtype=torch.float64)

    def arc(t: int, s: int, token: int) -> Tensor:
        return log_probs_TRV[t, s - first_T[t], token] if 0 <= s - first_T[t] < width else nothing

    def symbol(t: int, s: int) -> Tensor:
        return arc(t, s, labels[s]) + (arc(t, s + 1, 0) if kind == "constrained" else 0)

    p = {(0, 0): torch.zeros((), dtype=torch.float64)}
    for t in range(num_frames + 1):
        for s in range(num_labels + 1):
            terms = [p[s, t - 1] + arc(t - 1, s, 0)] if t > 0 else []
            if kind == "regular" and s > 0 and t < num_frames:
                terms.append(p[s - 1, t] + symbol(t, s - 1))
            if kind != "regular" and s > 0 and t > 0:
                terms.append(p[s - 1, t - 1] + symbol(t - 1, s - 1))
            terms = [x for x in terms if x > -math.inf]
            if (s, t) != (0, 0):
                p[s, t] = torch.stack(terms).logsumexp(0) if terms else nothing
    return -p[num_labels, num_frames]


@all_kinds
@pytest.mark.parametrize("width", [2, 3])
def test_pruned_loss_and_gradient_equal_a_loop_over_the_band(kind, width):
    am, lm, labels, frame_lens, label_lens = make_batch(seed=1)
    simple = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0, kind=kind)
    band = prune_ranges(*simple[1:], frame_lens, label_lens, width, kind)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 9, band.width, 7, generator=generator, dtype=torch.float64).requires_grad_()
    args = band.first_label_NT, labels, frame_lens, label_lens
    ours = pruned_transducer_loss(logits, *args, blank=0, kind=kind)
    theirs = torch.stack(
        [
            loop_over_band(
                logits[n, : frame_lens[n]].log_softmax(2),
                band.first_label_NT[n].tolist(),
                labels[n, : label_lens[n]].tolist(),
                kind,
            )
            for n in range(3)
        ]
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    ours_grad, theirs_grad = (torch.autograd.grad((x * weights).sum(), logits)[0] for x in (ours, theirs))
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=0, atol=1e-10)


@all_kinds
@pytest.mark.parametrize("seed", range(20))
def test_any_rising_band_equals_a_loop_over_it(kind, seed):
    """Bands that start above 0, rise by more than R-1, miss the last label, or hold anything behind the last frame."""
    generator = torch.Generator().manual_seed(seed)
    _, _, labels, frame_lens, label_lens = make_batch(seed=seed)
    width = 2 + seed % 3
    rise = torch.randint(0, width + 1, (3, 9), generator=generator) * (torch.rand(3, 9, generator=generator) < 0.4)
    rise[:, 0] = int(seed % 5 == 0)
    first_label = rise.cumsum(1).clamp(max=5)
    behind = torch.arange(9) >= frame_lens[:, None]
    first_label = torch.where(behind, torch.randint(0, 6, (3, 9), generator=generator), first_label)
    logits = torch.randn(3, 9, width, 7, generator=generator, dtype=torch.float64).requires_grad_()
    ours = pruned_transducer_loss(logits, first_label, labels, frame_lens, label_lens, blank=0, kind=kind)
    for n in range(3):
        log_probs = logits[n, : frame_lens[n]].log_softmax(2)
        theirs = loop_over_band(log_probs, first_label[n].tolist(), labels[n, : label_lens[n]].tolist(), kind)
        torch.testing.assert_close(ours[n], theirs, rtol=0, atol=1e-10)
        if theirs.isfinite():
            ours_grad, theirs_grad = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (ours[n], theirs))
            torch.testing.assert_close(ours_grad, theirs_grad, rtol=0, atol=1e-10)


class LargestTensor(TorchDispatchMode):
    """The most elements that a result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.elements = max([self.elements, *(x.numel() for x in tensors)])
        return result


@all_kinds
def test_arrays_are_of_the_size_of_the_band(kind):
    num_frames, num_labels, width = 200, 150, 4
    first_label = (torch.arange(num_frames) * num_labels // num_frames).clamp(max=num_labels - width + 1)[None]
    logits = torch.randn(1, num_frames, width, 3, requires_grad=True)
    labels, lens = torch.ones(1, num_labels, dtype=torch.int64), (torch.tensor([num_frames]), torch.tensor([num_labels]))
    with LargestTensor() as largest:
        loss = pruned_transducer_loss(logits, first_label, labels, *lens, blank=0, kind=kind)
        loss.sum().backward()
    assert loss.isfinite().all()
    assert largest.elements <= 2 * (num_frames + num_labels + width) * (width + 1) < num_frames * num_labels / 4


def smoothed_by_definition(am: Tensor, lm: Tensor, labels: Tensor, lm_scale: float, am_scale: float) -> Tensor:
    """(N, T, U, V) log-scores of the smoothed joiner, written out."""
    unigram = lm.softmax(2).mean((0, 1))
    joint = (am[:, :, None] + lm[:, None]).log_softmax(3)
    am_only = (am + unigram.log()).log_softmax(2)[:, :, None]
    return (1 - lm_scale - am_scale) * joint + lm_scale * lm.log_softmax(2)[:, None] + am_scale * am_only


@all_kinds
@pytest.mark.parametrize(("lm_scale", "am_scale"), SCALES)
def test_smoothing_equals_its_definition(kind, lm_scale, am_scale):
    am, lm, labels, frame_lens, label_lens = make_batch(seed=3)
    am.requires_grad_(), lm.requires_grad_()
    args = labels, frame_lens, label_lens
    ours = simple_transducer_loss(am, lm, *args, blank=0, lm_scale=lm_scale, am_scale=am_scale, kind=kind).loss_N
    scores = smoothed_by_definition(am, lm, labels, lm_scale, am_scale)
    index = pad(labels, (0, 1))[:, None, :, None].expand(-1, scores.shape[1], -1, -1)
    symbol, blank = scores.gather(3, index)[..., 0], scores[..., 0]
    if kind == "constrained":
        symbol = torch.cat([symbol[:, :, :-1] + blank[:, :, 1:], symbol[:, :, -1:]], dim=2)
    theirs = -sum_paths(symbol, blank, frame_lens, label_lens, kind=kind, num_positions=6).log_prob_N
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for ours_grad, theirs_grad in zip(
        *(torch.autograd.grad(x.square().sum(), (am, lm)) for x in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-10, atol=1e-9)


@all_kinds
def test_wide_band_equals_full_lattice(kind):
    am, lm, labels, frame_lens, label_lens = make_batch(seed=4)
    simple = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0, kind=kind)
    band = prune_ranges(*simple[1:], frame_lens, label_lens, 100, kind)
    assert band.width == 6
    assert not band.first_label_NT.any()
    logits = torch.tanh(am[:, :, None] + lm[:, None])
    args = labels, frame_lens, label_lens
    full = full_transducer_loss(logits, *args, blank=0, kind=kind)
    wide = pruned_transducer_loss(logits, band.first_label_NT, *args, blank=0, kind=kind)
    # More rows than positions, or rows past the last one, change nothing either.
    wider = pruned_transducer_loss(pad(logits, (0, 0, 0, 2)), band.first_label_NT, *args, blank=0, kind=kind)
    torch.testing.assert_close(wide, full, rtol=0, atol=1e-12)
    torch.testing.assert_close(wider, full, rtol=0, atol=1e-12)


def test_narrower_bands_lose_paths():
    am, lm, labels, frame_lens, label_lens = make_batch(seed=5, num_frames=30, num_labels=12, is_ragged=False)
    simple = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0)
    losses = []
    for width in (2, 4, 8, 13):
        band = prune_ranges(*simple[1:], frame_lens, label_lens, width)
        index = band.positions_NTR.flatten(1)[:, :, None].expand(-1, -1, 7)
        logits = am[:, :, None] + lm.gather(1, index).view(3, 30, width, 7)
        losses.append(pruned_transducer_loss(logits, band.first_label_NT, labels, frame_lens, label_lens, blank=0).sum())
    assert losses == sorted(losses, reverse=True)
    assert all(map(math.isfinite, losses))


@all_kinds
@pytest.mark.parametrize("prune_range", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_band_is_connected_and_reaches_the_end(kind, prune_range, seed):
    am, lm, labels, frame_lens, label_lens = make_batch(size=5, num_frames=12, num_labels=11, seed=seed)
    if kind == "regular":
        frame_lens = (frame_lens // 2).clamp(min=1)
    simple = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0, kind=kind)
    band = prune_ranges(*simple[1:], frame_lens, label_lens, prune_range, kind)
    rise = band.first_label_NT.diff(dim=1)
    assert not band.first_label_NT[:, 0].any()
    assert rise.min() >= 0
    assert rise.max() <= (band.width - 1 if kind == "regular" else 1)
    last = band.first_label_NT.gather(1, frame_lens[:, None] - 1)[:, 0] + band.width - 1
    assert (last >= label_lens).all()
    assert band.positions_NTR.max() <= 11
    index = band.positions_NTR.flatten(1)[:, :, None].expand(-1, -1, 7)
    logits = am[:, :, None] + lm.gather(1, index).view(5, 12, band.width, 7)
    args = labels, frame_lens, label_lens
    loss = pruned_transducer_loss(logits, band.first_label_NT, *args, blank=0, kind=kind)
    assert loss.isfinite().all()


@all_kinds
def test_padding_and_batch_order_change_nothing(kind):
    am, lm, labels, frame_lens, label_lens = make_batch(size=4, seed=6)
    expected = all_losses(am, lm, labels, frame_lens, label_lens, kind)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = all_losses(*(x[order] for x in (am, lm, labels, frame_lens, label_lens)), kind)
    torch.testing.assert_close(shuffled, expected[:, order], rtol=0, atol=1e-12)

    longer_am, longer_lm = pad(am, (0, 0, 0, 3), value=7.0), pad(lm, (0, 0, 0, 2), value=-3.0)
    longer_labels = pad(labels, (0, 2), value=-1)
    for n in range(4):
        longer_am[n, frame_lens[n] :] = 11.0
        longer_lm[n, label_lens[n] + 1 :] = -5.0
        longer_labels[n, label_lens[n] :] = 999
    padded = all_losses(longer_am, longer_lm, longer_labels, frame_lens, label_lens, kind)
    torch.testing.assert_close(padded, expected, rtol=0, atol=1e-12)
    for n in range(4):
        t, s = int(frame_lens[n]), int(label_lens[n])
        one = slice(n, n + 1)
        alone = all_losses(am[one, :t], lm[one, : s + 1], labels[one, :s], frame_lens[one], label_lens[one], kind, width=3)
        # Not the pruned loss: alone, an utterance with few labels has a narrower band.
        torch.testing.assert_close(alone[[0, 2], 0], expected[[0, 2], n], rtol=0, atol=1e-12)


@all_kinds
def test_padding_gets_no_gradient(kind):
    am, lm, labels, frame_lens, label_lens = make_batch(size=4, seed=7)
    am.requires_grad_(), lm.requires_grad_()
    all_losses(am, lm, labels, frame_lens, label_lens, kind).sum().backward()
    for n in range(4):
        assert am.grad[n, : frame_lens[n]].abs().sum(1).all()
        assert not am.grad[n, frame_lens[n] :].any()
        assert not lm.grad[n, label_lens[n] + 1 :].any()


@all_kinds
def test_gradcheck(kind):
    am, lm, labels, frame_lens, label_lens = make_batch(size=2, num_frames=4, num_labels=2, vocab_size=4, seed=8)
    am.requires_grad_(), lm.requires_grad_()
    lens = labels, frame_lens, label_lens

    def simple(am, lm):
        return simple_transducer_loss(am, lm, *lens, blank=0, lm_scale=0.2, am_scale=0.1, kind=kind).loss_N

    def pruned(logits):
        return pruned_transducer_loss(logits, first_label, *lens, blank=0, kind=kind, delay_penalty=0.1)

    first_label = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    logits = torch.randn(2, 4, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(simple, (am, lm))
    assert torch.autograd.gradcheck(pruned, (logits,))


@all_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_occupations_sum_to_the_lengths(kind, dtype):
    am, lm, labels, frame_lens, label_lens = make_batch(size=6, num_frames=80, num_labels=20, seed=9)
    result = simple_transducer_loss(am.to(dtype), lm.to(dtype), labels, frame_lens, label_lens, blank=0, kind=kind)
    assert result.loss_N.dtype == dtype
    num_blanks = frame_lens if kind == "regular" else frame_lens - label_lens
    tolerance = {"rtol": 1e-6 if dtype == torch.float32 else 1e-12, "atol": 1e-6}
    torch.testing.assert_close(result.symbol_occupation_NTS.sum((1, 2)), label_lens.to(dtype), **tolerance)
    torch.testing.assert_close(result.blank_occupation_NTU.sum((1, 2)), num_blanks.to(dtype), **tolerance)


def test_long_utterance_in_float32_keeps_its_precision():
    am, lm, labels, frame_lens, label_lens = make_batch(size=1, num_frames=1500, num_labels=150, seed=10)
    am = am * 4
    grads = []
    for dtype in (torch.float32, torch.float64):
        scores = am.to(dtype).requires_grad_()
        loss = simple_transducer_loss(scores, lm.to(dtype), labels, frame_lens, label_lens, blank=0).loss_N
        loss.sum().backward()
        grads.append(scores.grad.double())
    assert loss.item() > 4000
    assert (grads[0] - grads[1]).abs().max() < 2e-5


def test_chunks_and_autocast_change_nothing(monkeypatch):
    am, lm, labels, frame_lens, label_lens = (x.float() if x.is_floating_point() else x for x in make_batch(seed=14))
    leaves = am.requires_grad_(), lm.requires_grad_()
    args = am, lm, labels, frame_lens, label_lens
    expected = torch.autograd.grad(all_losses(*args).sum(), leaves)
    monkeypatch.setitem(arc_scores.CHUNK_ELEMENTS, "cpu", 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = torch.autograd.grad(all_losses(*args).sum(), leaves)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_no_grad_gives_the_same_values_and_occupations():
    batch = make_batch(seed=15)
    batch[0].requires_grad_()
    with torch.no_grad():
        without = simple_transducer_loss(*batch, blank=0)
    for a, b in zip(simple_transducer_loss(*batch, blank=0), without, strict=True):
        assert torch.equal(a, b)
        assert not b.requires_grad
    assert without.symbol_occupation_NTS.any()


def test_range_is_raised_until_the_labels_fit():
    am, lm, labels, frame_lens, label_lens = make_batch(num_frames=4, num_labels=17, is_ragged=False)
    occupation = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0)[1:]
    band = prune_ranges(*occupation, frame_lens, label_lens, 2)
    assert band.width == (17 - 1) // 4 + 2
    assert prune_ranges(*occupation, frame_lens, label_lens, 50).width == 18


@pytest.mark.gpu
@all_kinds
def test_cuda_equals_cpu(kind):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    batch = make_batch(size=4, seed=16)
    on_gpu = [x.cuda() for x in batch]
    grads = []
    for am, lm, *lens in (batch, on_gpu):
        am, lm = am.float().requires_grad_(), lm.float().requires_grad_()
        loss = all_losses(am, lm, *lens, kind)
        loss.sum().backward()
        grads.append([x.cpu() for x in (loss, am.grad, lm.grad)])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
