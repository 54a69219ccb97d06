"""Connectionist temporal classification, batch-first: log-probabilities (N, T, V) at 25 Hz in, (N,) nats out."""

import torch
from torch import Tensor
from torch.nn import functional

from zipasr.losses.arguments import checked_targets, is_readable, require_float32


def ctc_loss(log_probs_NTV: Tensor, labels_NS: Tensor, frame_lens: Tensor, label_lens: Tensor, *, blank: int) -> Tensor:
    """Negative log-likelihood of each utterance, summed over all alignments.

    An utterance needs one frame per label and one more between equal neighbors. With fewer its loss is +inf and its
    gradient 0 (PyTorch's own is nan), so masking the loss is enough to skip it.

    Args:
        log_probs_NTV: log softmax of the head, float32 (half precision raises; heads cast). The gradient is that of
            PyTorch, which is correct only after a log softmax: it assumes that the probabilities of a frame sum to one.
        labels_NS: target ids without blank, padding ignored.
        frame_lens: (N,) valid frames at 25 Hz.     label_lens: (N,) valid labels.
        blank: id of the blank.
    Returns:
        (N,) loss in nats. Reduce it yourself.
    Raises:
        ValueError: shapes disagree, a length exceeds its axis, a label or `blank` is not in [0, V), half precision.
    Source: Graves et al. 2006, "Connectionist temporal classification", section 4; computed by PyTorch.
    """
    require_float32("log_probs", log_probs_NTV, 3)
    labels, frame_lens_there, label_lens_there = checked_targets(
        labels_NS, frame_lens, label_lens, scores=log_probs_NTV, blank=blank
    )
    # PyTorch rejects a batch whose longest label sequence is empty or whose padding is not a label.
    targets = labels if labels.shape[1] else labels.new_full((len(labels), 1), blank)
    log_probs_TNV = log_probs_NTV.transpose(0, 1)

    def compute(zero_infinity: bool) -> Tensor:
        return functional.ctc_loss(
            log_probs_TNV,
            targets,
            frame_lens.long(),  # not moved: PyTorch reads them on the host
            label_lens.long(),
            blank=blank,
            reduction="none",
            zero_infinity=zero_infinity,
        )

    if not is_readable(log_probs_NTV):
        is_repeat_NS = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] != blank)
        is_impossible_N = label_lens_there + is_repeat_NS.sum(1) > frame_lens_there
        return compute(zero_infinity=True).masked_fill(is_impossible_N, torch.inf)
    loss_N = compute(zero_infinity=False)
    is_impossible_N = torch.isinf(loss_N)
    if is_impossible_N.any():
        loss_N = compute(zero_infinity=True).masked_fill(is_impossible_N, torch.inf)
    return loss_N
