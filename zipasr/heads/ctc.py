"""The CTC head: `Encoded` -> log-probabilities (N, T, V) of every frame at 25 Hz, the CTC loss, and the consistency of
two views of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zipasr.errors import ConfigError
from zipasr.losses.consistency import consistency_loss
from zipasr.losses.ctc import ctc_loss
from zipasr.nn.encoded import Encoded
from zipasr.nn.placement import moved
from zipasr.nn.precision import wide_linear, widened


@dataclass(frozen=True, kw_only=True)
class CtcConfig:
    """Configuration of the CTC head."""

    dropout: float = 0.1
    """Elementwise dropout of the encoder frames before the output layer."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be at least 0 and below 1, but is {self.dropout}")


class CtcHead(nn.Module):
    """The CTC head: dropout, linear layer, log-softmax."""

    def __init__(self, config: CtcConfig, *, encoder_channels: int, vocab_size: int, blank: int) -> None:
        super().__init__()
        self.blank = blank
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(encoder_channels, vocab_size)

    def forward(self, frames: Tensor) -> Tensor:
        """Log-probabilities (N, T, V), float32 (float64 of float64), of encoder frames (N, T, D)."""
        return widened(self.output(self.dropout(frames))).log_softmax(-1)

    def loss(
        self, encoded: Encoded, labels_NS: Tensor, label_lens: Tensor, *, has_two_views: bool = False
    ) -> dict[str, Tensor]:
        """CTC loss summed over the batch, in nats; with two views also their consistency loss.

        Utterances with fewer frames than their labels and repeats need have no alignment, nor have those without any
        frame. They contribute 0 here; the data checks have already reported them.
        Differs: the published trainers keep utterances that only lack frames for blanks between repeats. Their loss is
        infinite, and float16's loss scaling then skips the whole step. Here no step is lost; no effect on error rates is
        expected. The published output layer computes in half precision under autocast, here in float32: rounding only, for
        more memory with large vocabularies.

        Args:
            encoded: frames and lengths at 25 Hz.
            labels_NS: (N, S) ids without blank, padding ignored.
            label_lens: (N,) valid labels.
            has_two_views: whether row n and row N / 2 + n are two views of one utterance, both with its labels.
        """
        with torch.autocast(device_type=encoded.frames.device.type, enabled=False):
            log_probs_NTV = wide_linear(self.output, self.dropout(widened(encoded.frames))).log_softmax(-1)
            is_empty_N = encoded.lens == 0
            loss_N = ctc_loss(
                log_probs_NTV, labels_NS, encoded.lens.masked_fill(is_empty_N, 1), label_lens, blank=self.blank
            )
            is_left_out_N = loss_N.isinf() | moved(is_empty_N, loss_N.device)
            losses = {"ctc": loss_N.masked_fill(is_left_out_N, 0.0).sum()}
            if has_two_views:
                losses["consistency"] = consistency_loss(log_probs_NTV, encoded.lens).sum()
        return losses
