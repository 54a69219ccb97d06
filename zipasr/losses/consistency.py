"""Consistency of two views of a batch (CR-CTC): (2N, T, V) log-probabilities at 25 Hz in, (2N,) losses in nats out."""

from torch import Tensor
from torch.nn import functional

from zipasr.losses.arguments import is_readable, require_float32, require_integers, require_shape, require_span
from zipasr.nn.encoded import padding_mask


def consistency_loss(log_probs_2NTV: Tensor, lens_2N: Tensor) -> Tensor:
    """Divergence of each view from the other: sum over frames of KL(other || this); the other gets no gradient.

    Args:
        log_probs_2NTV: log softmax of the CTC head, float32 (half precision raises); row n and row N + n are the two
            views of an utterance.
        lens_2N: (2N,) valid frames at 25 Hz, the same for both views.
    Returns:
        (2N,) loss in nats. The sum over all rows is the published loss before its factor 0.5 for the doubled batch.
    Raises:
        ValueError: an odd number of rows, views of different lengths, a length beyond T, half precision.
    Source: Yao et al. 2024, "CR-CTC: Consistency regularization on CTC", arXiv:2410.05101 (loss L_CR).
    """
    require_float32("log_probs", log_probs_2NTV, 3)
    num_rows, num_frames, _ = log_probs_2NTV.shape
    if num_rows == 0 or num_rows % 2:
        raise ValueError(
            f"log_probs must hold two views of each utterance, first one then the other, but has {num_rows} rows"
        )
    require_shape("lens", lens_2N, (num_rows,), "(2N,)")
    require_integers(lens=lens_2N)
    if is_readable(lens_2N):
        first_N, second_N = lens_2N.chunk(2)
        differ = int((first_N != second_N).sum())
        if differ:
            raise ValueError(f"both views of an utterance must have the same length, but {differ} of {num_rows // 2} differ")
    require_span("lens", lens_2N, 0, num_frames, "frames")

    other_2NTV = log_probs_2NTV.detach().roll(num_rows // 2, dims=0)
    divergence_2NT = functional.kl_div(log_probs_2NTV, other_2NTV, reduction="none", log_target=True).sum(2)
    return divergence_2NT.masked_fill(padding_mask(lens_2N, divergence_2NT), 0).sum(1)
