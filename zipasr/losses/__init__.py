"""Losses: pure functions of tensors. Transducer (simple, pruned, full), CTC, consistency of two views, smoothed labels."""

from zipasr.losses.consistency import consistency_loss
from zipasr.losses.ctc import ctc_loss
from zipasr.losses.label_smoothing import label_smoothing_loss
from zipasr.losses.lattice import LatticeKind
from zipasr.losses.transducer import (
    Band,
    SimpleLoss,
    full_transducer_loss,
    prune_ranges,
    pruned_transducer_loss,
    simple_transducer_loss,
)

__all__ = [
    "Band",
    "LatticeKind",
    "SimpleLoss",
    "consistency_loss",
    "ctc_loss",
    "full_transducer_loss",
    "label_smoothing_loss",
    "prune_ranges",
    "pruned_transducer_loss",
    "simple_transducer_loss",
]
