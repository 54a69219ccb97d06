"""The alignment lattice of the transducer: log-probability of all monotonic paths, and how often each arc is used.

In: log-scores of the symbol arcs and of the blank arcs, (N, T, R) each, frames at 25 Hz, where row r of frame t is
label position `first_label_NT[n, t] + r` (or plainly r, if the whole lattice is given). Out: (N,) log-probabilities and
the occupation probability of every arc, which is also the gradient. Nothing here knows logits or vocabularies.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LatticeKind = Literal["regular", "modified", "constrained"]
"""`regular`: any number of symbols a frame. `modified`: a symbol takes its frame with it. `constrained`: as modified,
and the score of a symbol includes that of the blank after it."""

KINDS: tuple[LatticeKind, ...] = ("regular", "modified", "constrained")


class Lattice(NamedTuple):
    """Result of `sum_paths`."""

    log_prob_N: Tensor
    """(N,) log of the summed probability of all paths; -inf where there is none."""
    symbol_occupation_NTR: Tensor
    """Probability that a path takes the symbol arc; zeros if occupations were not asked for and no gradient is."""
    blank_occupation_NTR: Tensor
    """Probability that a path takes the blank arc; likewise."""


class _Layout(NamedTuple):
    """Where the arcs lie in the work array W (D, 2, U+1, N): step, symbol or blank, label position, utterance.

    In a `skewed` array step d holds the anti-diagonal d = t + s, so that both arcs of the regular lattice lead to step
    d+1; otherwise step d is frame d. A symbol arc is stored in the row it leads to, a blank arc in its own row. Row U
    and symbol row 0 are never part of a path.
    """

    num_steps: int
    num_positions: int
    batch_size: int
    is_skewed: bool

    @property
    def row_size(self) -> int:
        return (self.num_positions + 1) * self.batch_size

    def arc_view(self, work: Tensor, arc: int, num_frames: int) -> Tensor:
        """View of symbol (0) or blank (1) arcs as (N, T, U)."""
        size, rows = self.batch_size, self.row_size
        offset = size if arc == 0 else rows
        stride_S = size + (2 * rows if self.is_skewed else 0)
        return work.as_strided((size, num_frames, self.num_positions), (1, 2 * rows, stride_S), offset)

    def arc_index(self, position_NTR: Tensor, valid_NTR: Tensor, arc: int) -> Tensor:
        """Flat index into W of each arc of a band; invalid ones point to an element that is always -inf."""
        size, rows = self.batch_size, self.row_size
        frame_T1 = torch.arange(position_NTR.shape[1], device=position_NTR.device)[:, None]
        step_NTR = frame_T1 + position_NTR if self.is_skewed else frame_T1.expand_as(position_NTR)
        index = step_NTR * (2 * rows) + position_NTR * size + (size if arc == 0 else rows)
        index += torch.arange(size, device=index.device)[:, None, None]
        return index.masked_fill_(~valid_NTR, 0)


def sum_paths(
    symbol_NTR: Tensor,
    blank_NTR: Tensor,
    frame_lens: Tensor,
    label_lens: Tensor,
    *,
    kind: LatticeKind,
    num_positions: int,
    first_label_NT: Tensor | None = None,
    need_occupation: bool = False,
) -> Lattice:
    """Sum the probability of all monotonic paths from (0, 0) to (T_b, S_b).

    p[s,t] = logadd(p[s-1,t] + symbol[s-1,t], p[s,t-1] + blank[s,t-1]) for `regular`; the symbol arc starts at t-1 for
    the other kinds. Arcs outside an utterance or above position U-1 are ignored, whatever they hold. Differentiable
    once with respect to both score tensors.

    The recursion runs in float64 (float32 on MPS, which has no other): the time is the same, as each step is bound by
    the call rather than by arithmetic, and in float32 a log-probability of -4000 carries steps of 5e-4.

    Args:
        symbol_NTR: log-score of emitting the next label; for the whole lattice R = U and row S is ignored.
        blank_NTR: log-score of going to the next frame.
        frame_lens: (N,) T_b <= T.     label_lens: (N,) S_b < U.
        kind: "regular" or one of the two with a symbol per frame at most, which are alike here.
        num_positions: U = S + 1.
        first_label_NT: label position of row 0; None means the whole lattice.
        need_occupation: compute occupations even if no gradient is required.
    Source: Graves 2012, arXiv:1211.3711, eq. 16-18, for two sets of arcs as in Kuang et al. 2022, arXiv:2206.13236.
    """
    need_occupation = need_occupation or (torch.is_grad_enabled() and (symbol_NTR.requires_grad or blank_NTR.requires_grad))
    log_prob_N, symbol_occupation, blank_occupation = _SumPaths.apply(
        symbol_NTR, blank_NTR, frame_lens, label_lens, first_label_NT, num_positions, kind == "regular", need_occupation
    )
    return Lattice(log_prob_N, symbol_occupation, blank_occupation)


class _SumPaths(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        symbol_NTR: Tensor,
        blank_NTR: Tensor,
        frame_lens: Tensor,
        label_lens: Tensor,
        first_label_NT: Tensor | None,
        num_positions: int,
        is_skewed: bool,
        need_occupation: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        size, num_frames, num_rows = symbol_NTR.shape
        num_steps = num_frames + (num_positions - 1 if is_skewed else 0)
        layout = _Layout(num_steps, num_positions, size, is_skewed)
        last_step_N = frame_lens + label_lens if is_skewed else frame_lens

        device = symbol_NTR.device
        position_NTR = torch.arange(num_rows, device=device)[None, None]
        if first_label_NT is not None:
            position_NTR = first_label_NT[:, :, None] + position_NTR
        is_frame_NT1 = (torch.arange(num_frames, device=device) < frame_lens[:, None])[:, :, None]
        valid_NTR = [
            is_frame_NT1 & (position_NTR < label_lens[:, None, None]),
            is_frame_NT1 & (position_NTR <= label_lens[:, None, None]),
        ]

        dtype = torch.float32 if device.type == "mps" else torch.float64
        work = torch.full((num_steps, 2, layout.row_size), -torch.inf, dtype=dtype, device=device)
        index: list[Tensor] = []
        for arc, (score, valid) in enumerate(zip((symbol_NTR, blank_NTR), valid_NTR, strict=True)):
            masked = score.masked_fill(~valid, -torch.inf)
            if first_label_NT is None:
                layout.arc_view(work, arc, num_frames).copy_(masked)
            else:
                index.append(layout.arc_index(position_NTR, valid, arc))
                work.view(-1)[index[arc]] = masked.to(dtype)

        log_prob_N, prefix = _run_forward(work, layout, last_step_N, label_lens)
        occupation = [torch.zeros_like(symbol_NTR), torch.zeros_like(blank_NTR)]
        if need_occupation:
            _run_backward(work, prefix, layout, label_lens)
            for arc, (out, valid) in enumerate(zip(occupation, valid_NTR, strict=True)):
                used = layout.arc_view(work, arc, num_frames) if first_label_NT is None else work.view(-1)[index[arc]]
                out.copy_(used).masked_fill_(~valid, 0)
        ctx.mark_non_differentiable(*occupation)
        ctx.save_for_backward(*occupation)
        return log_prob_N.to(symbol_NTR.dtype), occupation[0], occupation[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_N11 = grad_N[:, None, None]
        symbol_occupation, blank_occupation = ctx.saved_tensors
        return symbol_occupation * grad_N11, blank_occupation * grad_N11, None, None, None, None, None, None


def _run_forward(work: Tensor, layout: _Layout, last_step_N: Tensor, label_lens: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the arc scores in `work` into the scores of all prefixes ending with that arc, step by step.

    Returns the (N,) totals and the prefix scores (D+1, U+2, N), flat in the last two, whose row 0 is -inf padding.
    """
    num_steps, size = layout.num_steps, layout.batch_size
    # An utterance that has ended stays where it is, at no cost, until the longest ends: no length leaves the device.
    blank_DUN = work.view(num_steps, 2, layout.num_positions + 1, size)[:, 1]
    utterance_N = torch.arange(size, device=work.device)
    has_ended_DN = torch.arange(num_steps, device=work.device)[:, None] >= last_step_N
    blank_DUN[:, label_lens, utterance_N] = blank_DUN[:, label_lens, utterance_N].masked_fill(has_ended_DN, 0)

    prefix = work.new_empty(num_steps + 1, size + layout.row_size)
    prefix[:, :size] = -torch.inf
    prefix[0] = -torch.inf
    prefix[0, size : 2 * size] = 0
    # sources[d] is prefix[d] twice: one position lower for the symbol arcs, as it is for the blank arcs.
    sources = prefix.as_strided((num_steps, 2, layout.row_size), (prefix.stride(0), size, 1)).unbind(0)
    targets = prefix[1:, size:].unbind(0)
    symbols, blanks = work[:, 0].unbind(0), work[:, 1].unbind(0)
    for source, terms, symbol, blank, target in zip(sources, work.unbind(0), symbols, blanks, targets, strict=True):
        torch.add(source, terms, out=terms)
        torch.logaddexp(symbol, blank, out=target)
    return prefix.view(num_steps + 1, layout.num_positions + 2, size)[-1, label_lens + 1, utterance_N], prefix


def _run_backward(work: Tensor, prefix: Tensor, layout: _Layout, label_lens: Tensor) -> None:
    """Turn the prefix scores in `work`, as `_run_forward` left them, into occupation probabilities, in place."""
    size = layout.batch_size
    # The share of each arc in the state it leads to; a state that no path reaches (-inf less -inf) has none.
    work.sub_(prefix[1:, None, size:]).exp_().nan_to_num_(0.0, 0.0, 0.0)
    state = work.new_zeros(layout.num_positions + 1, size)
    state[label_lens, torch.arange(size, device=work.device)] = 1
    state = state.view(-1)
    reached = state[:-size]
    symbols, blanks = work[:, 0, size:].unbind(0), work[:, 1, :-size].unbind(0)
    for arcs, symbol, blank in zip(reversed(work.unbind(0)), reversed(symbols), reversed(blanks), strict=True):
        arcs.mul_(state)
        torch.add(symbol, blank, out=reached)
