"""Searches: scores of a model -> hypotheses."""

from zipasr.search.beam import modified_beam_search
from zipasr.search.greedy import ctc_greedy_search, greedy_search
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.rescoring import attention_rescoring, attention_scores
from zipasr.search.scorer import Scorer

__all__ = [
    "Hypothesis",
    "Scorer",
    "attention_rescoring",
    "attention_scores",
    "ctc_greedy_search",
    "ctc_prefix_search",
    "greedy_search",
    "modified_beam_search",
]
