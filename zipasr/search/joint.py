"""Joint search: the transducer and the CTC head of a model choose together among the hypotheses of both.

Encoded frames (N, T, D) at 25 Hz and hypotheses of both beam searches in, their scores and the new order out.

    score(y) = log P_transducer(y | x) + ctc_scale · log P_CTC(y | x), each summed over all alignments

With language models or hotwords, their score is added to that of each head, as in the searches of one head. The heads share
an encoder but fail differently: on little data the transducer learns later where a label begins, and CTC knows nothing of
the labels before. A text that one of them finds impossible is rarely right.
Source: Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition", section II.C.3, with a
transducer in place of the attention decoder; the sums over alignments are those of the losses.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zipasr.losses.ctc import ctc_loss
from zipasr.losses.lattice import sum_paths
from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import first_context
from zipasr.search.hypothesis import Hypothesis, with_scores
from zipasr.search.prefix import LabelBefore
from zipasr.search.prior import AnyPrior, prior_scores
from zipasr.search.rescoring import padded
from zipasr.search.scorer import AdjustedScorer, Scorer, check_encoded

CTC_SCALES = (0.3, 1.0)
"""Weights of the CTC head to compare on a dev set: where the transducer is the better head, and where neither is."""
_CHUNK_ELEMENTS = 1 << 20
"""Log-probabilities to compute at once, 4 MB: some frames with all label contexts of an utterance."""


class JointScores(NamedTuple):
    """The hypotheses of an utterance and their log-probabilities by both heads, in nats."""

    hypotheses: list[Hypothesis]
    """Distinct texts: those of the transducer, then those that only CTC has found."""
    transducer: list[float]
    """Score of each by the transducer: the log-probability summed over alignments, and the score of the prior."""
    ctc: list[float]
    """The same by the CTC head."""

    def ranked(self, *, ctc_scale: float) -> list[Hypothesis]:
        """The hypotheses with the weighted sum of both as their score, the best first."""
        pairs = zip(self.transducer, self.ctc, strict=True)
        return with_scores(self.hypotheses, [transducer + ctc_scale * ctc for transducer, ctc in pairs])


class JointScorer:
    """Scores hypotheses by both heads of a model."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
        unk_id: int | None = None,
        max_symbols_per_frame: int = 1,
    ) -> None:
        """Configure it; the arguments are those of `modified_beam_search` and, for CTC, `ctc_prefix_search`."""
        self.scorer, self.unk_id = scorer, unk_id
        self._adjusted = AdjustedScorer(scorer, blank_penalty, temperature)
        self.is_modified = max_symbols_per_frame == 1

    @torch.inference_mode()
    def score(
        self,
        encoded: Encoded,
        by_transducer: Sequence[Sequence[Hypothesis]],
        by_ctc: Sequence[Sequence[Hypothesis]],
        *,
        prior: AnyPrior | None = None,
        is_best_enough: bool = False,
        context: tuple[int, ...] | None = None,
        before: LabelBefore | None = None,
    ) -> list[JointScores]:
        """The hypotheses of both heads with their scores, utterance by utterance: the batch changes nothing.

        Args:
            encoded: frames (N, T, D) at 25 Hz and their lengths.
            by_transducer: hypotheses of each of the N utterances, the best first.
            by_ctc: the same by CTC.
            prior: language models and hotwords, already weighted.
            is_best_enough: whether only the best hypothesis matters. Where one has the highest score of both searches,
                nothing is computed: it is returned alone, with these scores.
            context: label context of the transducer at the start of the utterances, which follow others; None: none do.
            before: label that may go on at their start, by CTC; None: there is none.
        Raises:
            ValueError: not N lists each, lengths do not fit the frames, or a head is missing.
        """
        lens = check_encoded(encoded)
        if not len(lens) == len(by_transducer) == len(by_ctc):
            raise ValueError(
                f"there must be hypotheses for each of {len(lens)} utterances, but there are {len(by_transducer)} lists by "
                f"the transducer and {len(by_ctc)} by CTC"
            )
        found = []
        for n, (length, ours, theirs) in enumerate(zip(lens, by_transducer, by_ctc, strict=True)):
            if is_best_enough and _agree(ours, theirs):
                found.append(JointScores([ours[0]], [ours[0].score], [theirs[0].score]))
                continue
            known = {hypothesis.ids for hypothesis in ours}
            hypotheses = [*ours, *(hypothesis for hypothesis in theirs if hypothesis.ids not in known)]
            frames_1TD = encoded.frames[n : n + 1, :length]
            texts = [hypothesis.ids for hypothesis in hypotheses]
            extra = prior_scores(texts, prior) if prior is not None else [0.0] * len(texts)
            if texts and length:
                both = (self._by_transducer(frames_1TD, texts, context), self._by_ctc(frames_1TD, texts, before))
            else:  # without a frame, nothing can be said
                both = ([-math.inf if ids else 0.0 for ids in texts],) * 2
            found.append(JointScores(hypotheses, *(list(map(sum, zip(scores, extra, strict=True))) for scores in both)))
        return found

    def _by_transducer(
        self, frames_1TD: Tensor, texts: Sequence[tuple[int, ...]], context: tuple[int, ...] | None
    ) -> list[float]:
        """Log-probability of each of K texts, summed over the paths of the search's lattice."""
        device = frames_1TD.device
        labels_KS, lens_K = padded(texts, device)
        rows_KU, contexts_MC = _contexts(texts, context or first_context(self.scorer))
        rows_KU = rows_KU.to(device)
        context_MJ = self.scorer.predict(contexts_MC.to(device))
        projected_TJ = self.scorer.project_frames(frames_1TD)[0]
        label_KU = torch.nn.functional.pad(labels_KS, (0, 1), value=self.scorer.blank_id)
        vocab_size = self.scorer.join(projected_TJ[:1], context_MJ[:1]).shape[-1]
        pieces = []
        for some_BJ in projected_TJ.split(max(1, _CHUNK_ELEMENTS // (len(context_MJ) * vocab_size))):
            log_probs_BMV = self._adjusted.transducer_log_probs(some_BJ.unsqueeze(1), context_MJ.unsqueeze(0))
            blank_BM = log_probs_BMV[..., self.scorer.blank_id]
            if self.unk_id is not None:  # the search skips it like blank
                blank_BM = torch.logaddexp(blank_BM, log_probs_BMV[..., self.unk_id])
            pieces.append(torch.stack([log_probs_BMV[:, rows_KU, label_KU], blank_BM[:, rows_KU]]))
        symbol_KTU, blank_KTU = torch.cat(pieces, dim=1).transpose(1, 2)
        return sum_paths(
            symbol_KTU,
            blank_KTU,
            torch.full_like(lens_K, len(projected_TJ)),
            lens_K,
            kind="modified" if self.is_modified else "regular",
            num_positions=label_KU.shape[1],
        ).log_prob_N.tolist()

    def _by_ctc(self, frames_1TD: Tensor, texts: Sequence[tuple[int, ...]], before: LabelBefore | None) -> list[float]:
        """Log-probability of each text, summed over its alignments."""
        log_probs_1TV = self._adjusted.ctc_log_probs(frames_1TD).float()
        scores_K = self._summed(log_probs_1TV, texts)
        if before is None:
            return scores_K.tolist()
        # Where the label before goes on, it is the first of the text, in a frame before the first that allows nothing else.
        lasting_11V = torch.full_like(log_probs_1TV[:, :1], -math.inf)
        lasting_11V[..., before.label] = 0.0
        lasting_K = self._summed(torch.cat([lasting_11V, log_probs_1TV], dim=1), [(before.label, *text) for text in texts])
        return torch.logaddexp(before.ended_log_prob + scores_K, before.lasting_log_prob + lasting_K).tolist()

    def _summed(self, log_probs_1TV: Tensor, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-probability (K,) of each text, summed over its alignments with these frames."""
        labels_KS, lens_K = padded(texts, log_probs_1TV.device)
        log_probs_KTV = log_probs_1TV.expand(len(texts), -1, -1)
        num_frames_K = torch.full_like(lens_K, log_probs_1TV.shape[1])
        return -ctc_loss(log_probs_KTV, labels_KS, num_frames_K, lens_K, blank=self.scorer.blank_id)


def _agree(ours: Sequence[Hypothesis], theirs: Sequence[Hypothesis]) -> bool:
    """Whether both searches have the same best hypothesis, and no other has a higher score in its own.

    The beam search of the transducer ranks by scores per label, so that its first need not have the highest.
    """
    is_same = bool(ours and theirs) and ours[0].ids == theirs[0].ids
    return is_same and all(hypothesis.score <= ranked[0].score for ranked in (ours, theirs) for hypothesis in ranked)


def _contexts(texts: Sequence[tuple[int, ...]], first: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The row of the label context at each of U positions of K texts, (K, U), and the M distinct contexts (M, C)."""
    rows: dict[tuple[int, ...], int] = {}
    size = len(first)
    rows_of_texts = []
    for text in texts:
        labels = (*first, *text)
        contexts = (labels[u : u + size] for u in range(len(text) + 1))
        rows_of_texts.append(torch.tensor([rows.setdefault(context, len(rows)) for context in contexts]))
    return pad_sequence(rows_of_texts, batch_first=True), torch.tensor(list(rows))
