"""Alignment: where the labels and words of a text are. Scores of a model and a known text -> frames and times."""

from zipasr.alignment.ctc import Alignment, align_batch, ctc_align, ctc_align_batch
from zipasr.alignment.emission import EmissionStats, align_transducer, measure_emission
from zipasr.alignment.known_text import align_features
from zipasr.alignment.word_times import TokenSpan, align_hypotheses, emission_spans

__all__ = [
    "Alignment",
    "EmissionStats",
    "TokenSpan",
    "align_batch",
    "align_features",
    "align_hypotheses",
    "align_transducer",
    "ctc_align",
    "ctc_align_batch",
    "emission_spans",
    "measure_emission",
]
