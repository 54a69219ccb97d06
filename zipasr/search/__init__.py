"""Searches: scores of a model -> hypotheses."""

from zipasr.search.beam import modified_beam_search
from zipasr.search.greedy import ctc_greedy_search, greedy_search
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.scorer import Scorer

__all__ = ["Hypothesis", "Scorer", "ctc_greedy_search", "greedy_search", "modified_beam_search"]
