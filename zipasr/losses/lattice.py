"""The alignment lattice of the transducer: log-probability of all monotonic paths, and the occupation of each arc.

In: log-scores of the symbol arcs and of the blank arcs, (N, T, R) each, frames at 25 Hz, where row r of frame t is
label position `first_label_NT[n, t] + r` (or simply r for the whole lattice). Out: (N,) log-probabilities and the
occupation probability of every arc, which is also the gradient. This file is independent of logits and vocabularies.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LatticeKind = Literal["regular", "modified", "constrained"]
"""`regular`: any number of symbols per frame. `modified`: emitting a symbol also advances to the next frame.
`constrained`: as `modified`, and the score of a symbol includes that of the blank after it."""

KINDS: tuple[LatticeKind, ...] = ("regular", "modified", "constrained")


class Lattice(NamedTuple):
    """Result of `sum_paths`."""

    log_prob_N: Tensor
    """(N,) log of the summed probability of all paths; -inf if there is no path."""
    symbol_occupation_NTR: Tensor
    """Probability that a path takes the symbol arc; zeros if neither occupations nor a gradient were requested."""
    blank_occupation_NTR: Tensor
    """Probability that a path takes the blank arc; likewise."""


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
    the other kinds. Arcs outside an utterance or above position U-1 are ignored, whatever their scores. Differentiable
    once with respect to both score tensors.

    The recursion runs in float64 (float32 on MPS, which has no float64). The time is the same, because call overhead
    dominates each step, and in float32 a log-probability of -4000 has a resolution of only 5e-4.

    Args:
        symbol_NTR: log-score of emitting the next label; for the whole lattice R = U and row S is ignored.
        blank_NTR: log-score of advancing to the next frame.
        frame_lens: (N,) T_b <= T.     label_lens: (N,) S_b < U.
        kind: "regular", or one of the two with at most one symbol per frame, which are equivalent here.
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
        _, num_frames, num_rows = symbol_NTR.shape
        device = symbol_NTR.device
        position_NTR = torch.arange(num_rows, device=device)[None, None]
        if first_label_NT is not None:
            position_NTR = first_label_NT[:, :, None] + position_NTR
        is_frame_NT1 = (torch.arange(num_frames, device=device) < frame_lens[:, None])[:, :, None]
        has_no_symbol_NTR = ~(is_frame_NT1 & (position_NTR < label_lens[:, None, None]))
        has_no_blank_NTR = ~(is_frame_NT1 & (position_NTR <= label_lens[:, None, None]))
        scores = _Arcs(
            symbol_NTR.masked_fill(has_no_symbol_NTR, -torch.inf), blank_NTR.masked_fill(has_no_blank_NTR, -torch.inf)
        )
        lattice: _WholeLattice | _BandLattice
        if first_label_NT is None:
            lattice = _WholeLattice(scores, frame_lens, label_lens, is_skewed)
        else:
            lattice = _BandLattice(scores, first_label_NT, frame_lens, label_lens, num_positions, is_skewed)

        log_prob_N = lattice.sum_forward().to(symbol_NTR.dtype)
        if need_occupation:
            used = lattice.sum_backward()
            symbol_occupation = used.symbol.to(symbol_NTR.dtype).masked_fill(has_no_symbol_NTR, 0)
            blank_occupation = used.blank.to(blank_NTR.dtype).masked_fill(has_no_blank_NTR, 0)
        else:
            symbol_occupation, blank_occupation = torch.zeros_like(symbol_NTR), torch.zeros_like(blank_NTR)
        ctx.mark_non_differentiable(symbol_occupation, blank_occupation)
        ctx.save_for_backward(symbol_occupation, blank_occupation)
        return log_prob_N, symbol_occupation, blank_occupation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_N11 = grad_N[:, None, None]
        symbol_occupation, blank_occupation = ctx.saved_tensors
        return symbol_occupation * grad_N11, blank_occupation * grad_N11, None, None, None, None, None, None


class _Arcs(NamedTuple):
    """One value per symbol arc and per blank arc, both (N, T, R)."""

    symbol: Tensor
    blank: Tensor


class _WholeLattice:
    """All label positions in every frame: an arc leads to the same row or to the next one, so strides address it.

    The axes of the work array W (D, 2, U+1, N) are step, symbol or blank, label position, utterance. In a skewed array
    step d is the anti-diagonal d = t + s, so that both arcs of the regular lattice lead to step d+1; otherwise step d is
    frame d. A symbol arc is stored in the row it leads to, a blank arc in its own row. Row U and symbol row 0 are never
    part of a path.
    """

    def __init__(self, scores: _Arcs, frame_lens: Tensor, label_lens: Tensor, is_skewed: bool) -> None:
        self.size, self.num_frames, self.num_positions = scores.symbol.shape
        self.row_size = (self.num_positions + 1) * self.size
        self.is_skewed = is_skewed
        self.label_lens = label_lens
        self.utterance_N = torch.arange(self.size, device=label_lens.device)
        num_steps = self.num_frames + (self.num_positions - 1 if is_skewed else 0)
        self.work = _no_paths(num_steps, 2, self.row_size, device=label_lens.device)
        for score, arcs in zip(scores, self._arcs(), strict=True):
            arcs.copy_(score)
        blank_DUN = self.work.view(num_steps, 2, self.num_positions + 1, self.size)[:, 1]
        _stay_at_end_(blank_DUN, frame_lens + label_lens if is_skewed else frame_lens, label_lens)

    def _arcs(self) -> _Arcs:
        """Views of the work array as (N, T, U)."""
        shape = (self.size, self.num_frames, self.num_positions)
        strides = (1, 2 * self.row_size, self.size + (2 * self.row_size if self.is_skewed else 0))
        return _Arcs(self.work.as_strided(shape, strides, self.size), self.work.as_strided(shape, strides, self.row_size))

    def sum_forward(self) -> Tensor:
        """Replace the score of each arc by the score of all prefixes that end with it; return the (N,) totals."""
        num_steps, size = len(self.work), self.size
        # (D+1, U+2, N), flat in the last two; row 0 is padding.
        prefix = self.work.new_empty(num_steps + 1, size + self.row_size)
        prefix[:, :size] = -torch.inf
        prefix[0] = -torch.inf
        prefix[0, size : 2 * size] = 0
        # sources[d] is prefix[d] twice: shifted down one position for the symbol arcs, unshifted for the blank arcs.
        sources = prefix.as_strided((num_steps, 2, self.row_size), (prefix.stride(0), size, 1)).unbind(0)
        targets = prefix[1:, size:].unbind(0)
        symbols, blanks = self.work[:, 0].unbind(0), self.work[:, 1].unbind(0)
        for source, arcs, symbol, blank, target in zip(sources, self.work.unbind(0), symbols, blanks, targets, strict=True):
            torch.add(source, arcs, out=arcs)
            torch.logaddexp(symbol, blank, out=target)
        self.prefix = prefix
        return prefix[-1].view(-1, size)[self.label_lens + 1, self.utterance_N]

    def sum_backward(self) -> _Arcs:
        """Return the occupation of each arc. Call it after `sum_forward`; it overwrites the work array."""
        size = self.size
        _to_shares_(self.work, self.prefix[1:, None, size:])
        state = self.work.new_zeros(self.num_positions + 1, size)
        state[self.label_lens, self.utterance_N] = 1
        state = state.view(-1)
        reached = state[:-size]
        symbols, blanks = self.work[:, 0, size:].unbind(0), self.work[:, 1, :-size].unbind(0)
        for arcs, symbol, blank in zip(reversed(self.work.unbind(0)), reversed(symbols), reversed(blanks), strict=True):
            arcs.mul_(state)
            torch.add(symbol, blank, out=reached)
        return self._arcs()


class _BandLattice:
    """R label positions per frame, from `first_label_NT` on: array sizes depend on the band, not on the number of labels.

    The axes of the work array W (D, 2, R+1, N) are step, symbol or blank, row of the band, utterance; an arc is stored
    where it starts. Row r of frame t is at step t or, in a skewed array, at step t + first_label[t] + r, so that both
    arcs of the regular lattice lead to the next step. Because the band never falls, no two frames share an element. Where
    it rises, arcs lead to lower rows. Row R, always -inf, represents every position outside the band.
    """

    def __init__(
        self,
        scores: _Arcs,
        first_label_NT: Tensor,
        frame_lens: Tensor,
        label_lens: Tensor,
        num_positions: int,
        is_skewed: bool,
    ) -> None:
        size, num_frames, self.width = scores.symbol.shape
        device = label_lens.device
        num_steps = num_frames + (num_positions + self.width - 2 if is_skewed else 0)
        frame_T = torch.arange(num_frames, device=device)
        row_R = torch.arange(self.width, device=device)
        self.utterance_N = torch.arange(size, device=device)
        utterance_N11 = self.utterance_N[:, None, None]
        # After the last frame of an utterance its band includes the last label, if that was just above the band.
        last_N1 = (frame_lens - 1).clamp(min=0)[:, None]
        end_N1 = first_label_NT.gather(1, last_N1).maximum(label_lens[:, None] - self.width + 1)
        first_NT = torch.where(frame_T <= last_N1, first_label_NT, end_N1)
        self.start_N = first_NT[:, 0]
        self.end_N = self._inside(label_lens - end_N1[:, 0])

        # `targets` (D, 2, R, N): the rows of the next step that arcs lead to; `sources`: the rows that they start from.
        rise_NT1 = first_NT.diff(dim=1, append=end_N1)[:, :, None]
        row_R1 = row_R[:, None]
        if is_skewed:
            step_NTR = (frame_T + first_NT)[:, :, None] + row_R
            rise_DRN, rise_before_DRN = torch.zeros(2, num_steps, self.width, size, dtype=torch.int64, device=device)
            rise_DRN[step_NTR, row_R, utterance_N11] = rise_NT1
            rise_before_DRN[step_NTR[:, 1:] - 1, row_R, utterance_N11] = rise_NT1[:, :-1]
            targets = (row_R1 + 1).expand_as(rise_DRN), row_R1 - rise_DRN
            sources = (row_R1 - 1).expand_as(rise_DRN), row_R1 + rise_before_DRN
        else:
            step_NTR = frame_T[:, None]
            rise_D1N = rise_NT1.permute(1, 2, 0)
            targets = row_R1 + 1 - rise_D1N, row_R1 - rise_D1N
            sources = row_R1 - 1 + rise_D1N, row_R1 + rise_D1N
        self.targets_D2RN = self._inside(torch.stack(targets, dim=1))
        self.sources_D2RN = self._inside(torch.stack(sources, dim=1))

        self.element_NTR = (step_NTR, row_R, utterance_N11)
        self.work = _no_paths(num_steps, 2, self.width + 1, size, device=device)
        for score, arcs_DRN in zip(scores, self.work.unbind(1), strict=True):
            arcs_DRN[self.element_NTR] = score.to(self.work.dtype)
        _stay_at_end_(self.work[:, 1], frame_lens + label_lens if is_skewed else frame_lens, self.end_N)

    def _inside(self, row: Tensor) -> Tensor:
        """Replace rows outside the band by row R, which represents them."""
        return row.masked_fill((row < 0) | (row >= self.width), self.width)

    def sum_forward(self) -> Tensor:
        """Replace the score of each arc by the score of all prefixes that end with it; return the (N,) totals."""
        prefix = _no_paths(len(self.work) + 1, *self.work.shape[2:], device=self.work.device)
        prefix[0, 0].masked_fill_(self.start_N == 0, 0)
        states, targets, all_sources = prefix.unbind(0), prefix[1:, :-1].unbind(0), self.sources_D2RN.unbind(0)
        arriving = self.work.new_empty(2, self.width, self.work.shape[-1])
        symbol, blank = arriving.unbind(0)
        for state, arcs, sources, target in zip(states[:-1], self.work.unbind(0), all_sources, targets, strict=True):
            torch.add(state, arcs, out=arcs)
            torch.gather(arcs, 1, sources, out=arriving)
            torch.logaddexp(symbol, blank, out=target)
        self.prefix = prefix
        return prefix[-1, self.end_N, self.utterance_N]

    def sum_backward(self) -> _Arcs:
        """Return the occupation of each arc. Call it after `sum_forward`; it overwrites the work array."""
        shares = self.work[:, :, :-1]
        _to_shares_(shares, self.prefix[1:, None].expand(-1, 2, -1, -1).gather(2, self.targets_D2RN))
        state = self.work.new_zeros(self.width + 1, self.work.shape[-1])
        state[self.end_N, self.utterance_N] = 1
        reached, states = state[:-1], state.expand(2, -1, -1)
        symbols, blanks = shares.unbind(1)
        used = torch.empty_like(shares[0])
        per_step = shares.unbind(0), self.targets_D2RN.unbind(0), symbols.unbind(0), blanks.unbind(0)
        for arcs, targets, symbol, blank in zip(*map(reversed, per_step), strict=True):
            torch.gather(states, 1, targets, out=used)
            arcs.mul_(used)
            torch.add(symbol, blank, out=reached)
        return _Arcs(symbols[self.element_NTR], blanks[self.element_NTR])


def _no_paths(*shape: int, device: torch.device) -> Tensor:
    return torch.full(shape, -torch.inf, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def _stay_at_end_(blank_DRN: Tensor, last_step_N: Tensor, row_N: Tensor) -> None:
    """Keep a finished utterance in its row at zero cost until the longest ends, so that the host reads no length."""
    has_ended_DN = torch.arange(len(blank_DRN), device=blank_DRN.device)[:, None] >= last_step_N
    utterance_N = torch.arange(blank_DRN.shape[2], device=blank_DRN.device)
    blank_DRN[:, row_N, utterance_N] = blank_DRN[:, row_N, utterance_N].masked_fill(has_ended_DN, 0)


def _to_shares_(arcs: Tensor, states: Tensor) -> None:
    """Convert prefix scores of arcs to their share of the state they lead to; 0 where no path reaches it."""
    arcs.sub_(states).exp_().nan_to_num_(0.0, 0.0, 0.0)
