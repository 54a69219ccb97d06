"""Decoding under a graph: what may be said, as a graph over the tokens of a model."""

from zipasr.search.graph.compile import compile_ngram, compile_words
from zipasr.search.graph.ctc_search import ctc_graph_search
from zipasr.search.graph.ctc_topology import add_ctc_topology
from zipasr.search.graph.folder import LoadedGraph, load_graph, save_graph
from zipasr.search.graph.lattice import Lattice, graph_lattices
from zipasr.search.graph.lexicon import Lexicon, read_lexicon
from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph
from zipasr.search.graph.transducer_search import transducer_graph_search
from zipasr.search.graph.word_graph import WordArc, WordGraph

__all__ = [
    "NO_SYMBOL",
    "NO_TOKEN",
    "Lattice",
    "Lexicon",
    "LoadedGraph",
    "TokenGraph",
    "WordArc",
    "WordGraph",
    "add_ctc_topology",
    "compile_ngram",
    "compile_words",
    "ctc_graph_search",
    "graph_lattices",
    "load_graph",
    "read_lexicon",
    "save_graph",
    "transducer_graph_search",
]
