"""Cross-entropy with label smoothing for attention decoders: logits (N, U, V), one row a label, in; (N,) nats out."""

from torch import Tensor
from torch.nn import functional

from zipasr.losses.arguments import require_float32, require_integers, require_shape, require_span, require_vocabulary
from zipasr.nn.encoded import padding_mask
from zipasr.nn.placement import moved

_IGNORED = -100


def label_smoothing_loss(logits_NUV: Tensor, targets_NU: Tensor, target_lens: Tensor, *, smoothing: float) -> Tensor:
    """Cross-entropy between the smoothed targets and the predictions of each utterance, summed over its targets.

    loss = -sum over u < target_lens and all v of  q(u, v) · ln p(u, v),
    q(u, v) = (1 - smoothing) · [v = target u] + smoothing / V.
    This is not a divergence: it includes the entropy of q, so its minimum is above 0 if smoothing is.

    Args:
        logits_NUV: unnormalized, float32 (half precision raises; heads cast, with autocast off, before they call).
        targets_NU: integer ids, padding ignored.
        target_lens: (N,) valid targets.
        smoothing: share of the probability spread evenly over all V labels, the target included; 0: none.
    Returns:
        (N,) loss in nats. Reduce it yourself.
    Raises:
        ValueError: shapes disagree, a length exceeds its axis, a target is not in [0, V), smoothing is not in [0, 1),
            or half precision.
    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; computed by PyTorch. Checked against loops in
        tests/losses/test_label_smoothing.py::test_equals_loops.
    """
    require_float32("logits", logits_NUV, 3)
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"smoothing must be at least 0 and below 1, but is {smoothing}")
    size, num_targets, vocab_size = logits_NUV.shape
    require_shape("targets", targets_NU, (size, num_targets), "(N, U)")
    require_shape("target_lens", target_lens, (size,), "(N,)")
    require_integers(targets=targets_NU, target_lens=target_lens)
    if targets_NU.numel() == 0:
        return logits_NUV.sum((1, 2))  # no targets: a loss of 0 that is still connected to the graph

    require_span("target_lens", target_lens, 0, num_targets, "targets")
    require_vocabulary("targets", targets_NU, target_lens, vocab_size)
    targets_NU = moved(targets_NU, logits_NUV.device).long()
    targets_NU = targets_NU.masked_fill(padding_mask(target_lens, targets_NU), _IGNORED)
    loss = functional.cross_entropy(
        logits_NUV.flatten(0, 1),
        targets_NU.flatten(),
        ignore_index=_IGNORED,
        label_smoothing=smoothing,
        reduction="none",
    )
    return loss.view(size, num_targets).sum(1)
