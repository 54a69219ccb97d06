"""Attention rescoring: the attention decoder scores the n-best hypotheses of a CTC search and changes their order.

Hypotheses (N lists) and encoded frames (N, T, D) at 25 Hz in, the hypotheses in their new order out.
Source: Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition", section II.C.3
(rescoring); the published recipe's total is ctc score + scale · attention score.
Differs: the published recipe draws 100 paths at random from the lattice of CTC and rescores the distinct ones. Here the 100
most probable label sequences are rescored, each summed over its alignments. The likely ones are in both lists: hardly any
effect on error rates is expected.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis, with_scores
from zipasr.search.prior import AnyPrior, prior_scores
from zipasr.search.scorer import Scorer, check_encoded

# fmt: off
SCALES = (
    0.01, 0.05, 0.08, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 1.9,
    2.0, 2.1, 2.2, 2.3, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0,
)
# fmt: on
"""Weights of the attention decoder that the published recipe tries, to report the best one."""


@torch.inference_mode()
def attention_scores(scorer: Scorer, encoded: Encoded, hypotheses: Sequence[Sequence[Hypothesis]]) -> list[list[float]]:
    """Log-probability, in nats, that the attention decoder gives each hypothesis and its end.

    Utterances are scored one at a time, with all hypotheses of one together: nothing is padded to the length of another
    utterance, memory is that of one utterance, and the result does not depend on the batch at all.

    Args:
        scorer: has an attention decoder.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        hypotheses: any number for each of the N utterances.
    Raises:
        ValueError: not N lists, lengths do not fit the frames, or there is no attention decoder.
    """
    lens = check_encoded(encoded)
    if len(hypotheses) != len(lens):
        raise ValueError(f"hypotheses must be a list for each of {len(lens)} utterances, but are {len(hypotheses)} lists")
    scores: list[list[float]] = []
    for n, (length, ranked) in enumerate(zip(lens, hypotheses, strict=True)):
        if not ranked:
            scores.append([])
            continue
        one = Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1])
        labels_KS, label_lens_K = padded([hypothesis.ids for hypothesis in ranked], encoded.frames.device)
        log_probs_KU = scorer.attention_log_probs(one, labels_KS.unsqueeze(0), label_lens_K.unsqueeze(0))[0]
        scores.append(log_probs_KU.double().sum(1).tolist())
    return scores


def attention_rescoring(
    scorer: Scorer, encoded: Encoded, hypotheses: Sequence[Sequence[Hypothesis]], *, scale: float
) -> list[list[Hypothesis]]:
    """Hypotheses ranked by their own score plus `scale` times that of the attention decoder.

    Args:
        scorer: has an attention decoder.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        hypotheses: of each utterance, as `ctc_prefix_search` returns them.
        scale: weight of the attention decoder, 0 or more; 0 leaves the order to the scores alone.
    Returns:
        For each utterance its hypotheses, the best first; `score` is the sum, which is not a log-probability.
    Raises:
        ValueError: as `attention_scores`, or the scale is negative.
    """
    return rescored(hypotheses, attention_scores(scorer, encoded, hypotheses), scale=scale)


def rescored(
    hypotheses: Sequence[Sequence[Hypothesis]], scores: Sequence[Sequence[float]], *, scale: float
) -> list[list[Hypothesis]]:
    """`attention_rescoring` with the scores of `attention_scores`."""
    if not scale >= 0:
        raise ValueError(f"scale must be 0 or more, but is {scale}")
    return [
        with_scores(ranked, [hypothesis.score + scale * score for hypothesis, score in zip(ranked, extra, strict=True)])
        for ranked, extra in zip(hypotheses, scores, strict=True)
    ]


def rescored_by_prior(hypotheses: Sequence[Hypothesis], prior: AnyPrior) -> list[Hypothesis]:
    """Hypotheses ranked by their own score plus that of a prior, such as language models, the end included."""
    totals = prior_scores([hypothesis.ids for hypothesis in hypotheses], prior)
    pairs = zip(hypotheses, totals, strict=True)
    return with_scores(hypotheses, [hypothesis.score + total for hypothesis, total in pairs])


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Labels (K, S) of K texts and their lengths (K,)."""
    labels_KS = pad_sequence([torch.tensor(text, dtype=torch.int64) for text in texts], batch_first=True)
    return labels_KS.to(device), torch.tensor([len(text) for text in texts], device=device)
