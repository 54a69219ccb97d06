"""Heads on top of an encoder: CTC, transducer and attention decoder. They need torch alone.

Each takes `zipasr.nn.Encoded` frames (N, T, D) at 25 Hz from any encoder; `loss(encoded, labels, label_lens)` gives a dict
of losses, summed over the batch, in nats.
"""

from zipasr.heads.attention import AttentionConfig, AttentionHead
from zipasr.heads.ctc import CtcConfig, CtcHead
from zipasr.heads.transducer import Joiner, Predictor, TransducerConfig, TransducerHead

__all__ = [
    "AttentionConfig",
    "AttentionHead",
    "CtcConfig",
    "CtcHead",
    "Joiner",
    "Predictor",
    "TransducerConfig",
    "TransducerHead",
]
