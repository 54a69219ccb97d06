"""Scores of the lattice's arcs from the scores of tokens: log-probabilities of the next label and of the blank.

In: float32 scores of all V tokens, from the encoder (N, T, V) and the predictor (N, U, V) or from the joiner (N, T, R, V),
frames at 25 Hz. Out: log-probabilities of symbols and blank, (N, T, U) or (N, T, R). Nothing of the size of the joiner's
output is saved for the backward pass except that output.
Source: Kuang et al. 2022, arXiv:2206.13236 (trivial joiner and its smoothing).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = {"cpu": 1 << 20}
"""Logits per softmax call on a CPU, 4 MiB. With 0.25 MiB two threads wait for each other at every call, and the pass
takes twice as long (10,000 rows of 500: 16 ms instead of 7); with one thread the size does not matter."""
CHUNK_ELEMENTS_ELSEWHERE = 1 << 25
"""Logits per softmax call on a GPU, where each call costs a kernel launch and 128 MiB of scratch memory is affordable."""


def am_only_scores(am_NTV: Tensor, lm_NUV: Tensor, label_NU: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of symbols (N, T, U) and blank (N, T, 1) under am and the unigram, by plain autograd."""
    log_unigram_V = (lm_NUV.softmax(2).mean((0, 1)) + torch.finfo(lm_NUV.dtype).tiny).log()
    scores_NTV = am_NTV + log_unigram_V
    norm_NT1 = scores_NTV.logsumexp(2, keepdim=True)
    index_NTU = label_NU[:, None].expand(-1, am_NTV.shape[1], -1)
    return scores_NTV.gather(2, index_NTU) - norm_NT1, scores_NTV[:, :, blank, None] - norm_NT1


class JointScores(torch.autograd.Function):
    """Scores of symbols and blank (N, T, U) under softmax(am + lm) and softmax(lm), interpolated.

    log sum_v exp(am_tv + lm_sv) = log(sum_v A_tv B_sv + tiny) + max am_t + max lm_s, with A and B the exponentials after
    subtracting the maxima: a matrix product. The gradient through `tiny`, the smallest normal number, is dropped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        am_NTV: Tensor,
        lm_NUV: Tensor,
        label_NU: Tensor,
        blank: int,
        joint_scale: float,
        lm_scale: float,
    ) -> tuple[Tensor, Tensor]:
        am_max_NT1, lm_max_NU1 = am_NTV.amax(2, keepdim=True), lm_NUV.amax(2, keepdim=True)
        am_exp_NTV, lm_exp_NUV = (am_NTV - am_max_NT1).exp_(), (lm_NUV - lm_max_NU1).exp_()
        with torch.autocast(am_NTV.device.type, enabled=False):
            norm_NTU = torch.bmm(am_exp_NTV, lm_exp_NUV.mT)
        norm_NTU += torch.finfo(norm_NTU.dtype).tiny
        lm_symbol_N1U = lm_NUV.gather(2, label_NU[:, :, None]).mT
        lm_blank_N1U = lm_NUV[:, :, blank, None].mT
        lm_norm_N1U = (lm_exp_NUV.sum(2, keepdim=True).log_() + lm_max_NU1).mT

        # Per token: joint_scale * (am + lm - log_norm) + lm_scale * (lm - lm_norm).
        shared_NTU = norm_NTU.log().add_(am_max_NT1).add_(lm_max_NU1.mT)
        shared_NTU.mul_(-joint_scale).sub_(lm_scale * lm_norm_N1U)
        lm_weight = joint_scale + lm_scale
        symbol_NTU = am_NTV.gather(2, label_NU[:, None].expand_as(norm_NTU))
        symbol_NTU.mul_(joint_scale).add_(lm_symbol_N1U, alpha=lm_weight).add_(shared_NTU)
        blank_NTU = shared_NTU.add_(lm_blank_N1U, alpha=lm_weight).add_(am_NTV[:, :, blank, None], alpha=joint_scale)
        ctx.save_for_backward(am_exp_NTV, lm_exp_NUV, norm_NTU, label_NU)
        ctx.scales = blank, joint_scale, lm_scale
        return symbol_NTU, blank_NTU

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, symbol_grad_NTU: Tensor, blank_grad_NTU: Tensor) -> tuple[Tensor | None, ...]:
        am_exp_NTV, lm_exp_NUV, norm_NTU, label_NU = ctx.saved_tensors
        blank, joint_scale, lm_scale = ctx.scales
        both_NTU = symbol_grad_NTU + blank_grad_NTU
        share_NTU = both_NTU.div(norm_NTU).mul_(-joint_scale)
        with torch.autocast(am_exp_NTV.device.type, enabled=False):
            am_grad_NTV = torch.bmm(share_NTU, lm_exp_NUV).mul_(am_exp_NTV)
            lm_grad_NUV = torch.bmm(share_NTU.mT, am_exp_NTV).mul_(lm_exp_NUV)
        am_grad_NTV.scatter_add_(2, label_NU[:, None].expand_as(norm_NTU), symbol_grad_NTU * joint_scale)
        am_grad_NTV[:, :, blank].add_(blank_grad_NTU.sum(2), alpha=joint_scale)

        lm_weight = joint_scale + lm_scale
        lm_share_NU1 = (both_NTU.sum(1)[:, :, None] / lm_exp_NUV.sum(2, keepdim=True)).mul_(-lm_scale)
        lm_grad_NUV.addcmul_(lm_exp_NUV, lm_share_NU1)
        lm_grad_NUV.scatter_add_(2, label_NU[:, :, None], symbol_grad_NTU.sum(1)[:, :, None] * lm_weight)
        lm_grad_NUV[:, :, blank].add_(blank_grad_NTU.sum(1), alpha=lm_weight)
        return am_grad_NTV, lm_grad_NUV, None, None, None, None


class RowScores(torch.autograd.Function):
    """log softmax of the logits at one label and at blank, in each of N x T x R rows, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, logits_NTRV: Tensor, label_NTR: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        vocab_size = logits_NTRV.shape[3]
        logits, labels = logits_NTRV.reshape(-1, vocab_size), label_NTR.view(-1, 1)
        chunk_rows = _chunk_rows(logits)
        symbol_scores = logits.new_empty(len(logits), 1)
        blank_scores = logits.new_empty(len(logits))
        scratch = logits.new_empty(min(chunk_rows, len(logits)), vocab_size)
        pieces = (x.split(chunk_rows) for x in (logits, labels, symbol_scores, blank_scores))
        for logit, label, symbol_score, blank_score in zip(*pieces, strict=True):
            log_probs = torch.log_softmax(logit, 1, out=scratch[: len(logit)])
            torch.gather(log_probs, 1, label, out=symbol_score)
            blank_score.copy_(log_probs[:, blank])
        ctx.save_for_backward(logits_NTRV, label_NTR)
        ctx.blank = blank
        return symbol_scores.view_as(label_NTR), blank_scores.view_as(label_NTR)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, symbol_grad_NTR: Tensor, blank_grad_NTR: Tensor) -> tuple[Tensor | None, ...]:
        logits_NTRV, label_NTR = ctx.saved_tensors
        vocab_size = logits_NTRV.shape[3]
        logits = logits_NTRV.reshape(-1, vocab_size)
        chunk_rows = _chunk_rows(logits)
        grad = torch.empty_like(logits)
        weight = (symbol_grad_NTR + blank_grad_NTR).neg_().view(-1, 1)
        pieces = (x.split(chunk_rows) for x in (logits, weight, grad))
        for logit, row_weight, out in zip(*pieces, strict=True):
            torch.softmax(logit, 1, out=out)
            out.mul_(row_weight)
        grad.scatter_add_(1, label_NTR.view(-1, 1), symbol_grad_NTR.reshape(-1, 1))
        grad[:, ctx.blank] += blank_grad_NTR.reshape(-1)
        return grad.view_as(logits_NTRV), None, None


def _chunk_rows(logits: Tensor) -> int:
    elements = CHUNK_ELEMENTS.get(logits.device.type, CHUNK_ELEMENTS_ELSEWHERE)
    return max(1, elements // logits.shape[1])
