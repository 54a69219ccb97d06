"""Decoding under a graph: what may be said, as a graph over the tokens of a model."""

from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph
from zipasr.search.graph.word_graph import WordArc, WordGraph

__all__ = ["NO_SYMBOL", "NO_TOKEN", "TokenGraph", "WordArc", "WordGraph"]
