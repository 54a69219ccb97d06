"""Grammars and n-gram models -> `TokenGraph` of one model, with kaldifst (Apache-2.0), the Python face of OpenFst."""

import dataclasses
import logging
import os

import numpy as np
from numpy.typing import NDArray

from zipasr.errors import ConfigError
from zipasr.lm.arpa import NgramGraph, read_arpa
from zipasr.lm.ngram import NgramModel
from zipasr.search.graph.ctc_topology import add_ctc_topology
from zipasr.search.graph.lexicon import Lexicon, require_spellings
from zipasr.search.graph.spelled_arcs import WordArcs, compile_arcs
from zipasr.search.graph.token_graph import NO_SYMBOL, TokenGraph
from zipasr.search.graph.word_graph import WordGraph, reached
from zipasr.tokenizer import WORD_START, Tokenizer

logger = logging.getLogger(__name__)

_MIN_WRITABLE_SHARE = 0.5
"""Of the words of an n-gram model; the rest, such as foreign names, can never be recognized."""


def compile_words(graph: WordGraph, tokenizer: Tokenizer, *, lexicon: Lexicon | None = None) -> TokenGraph:
    """Return a graph over the tokens of a model with the paths of a graph over words.

    Args:
        graph: words with tags and scores.
        tokenizer: the model's.
        lexicon: spellings of words; None: those of the tokenizer.
    Raises:
        ConfigError: the model cannot write a word, no path leads to a final state, a loop without words has a tag or a score
            above 0, or kaldifst is not installed.
    """
    if graph.is_empty():
        raise ConfigError("a graph must have a path from its start to a final state, but has none; it would allow nothing")
    _refuse_empty_loops(graph)
    lexicon = lexicon or Lexicon(tokenizer)
    words = graph.words
    require_spellings(lexicon, words)
    tags = sorted({arc.tag for arc in graph.arcs if arc.tag is not None} - set(words))
    symbols = ("", *words, *tags)
    word_ids, symbol_ids = {word: i for i, word in enumerate(words)}, {symbol: i for i, symbol in enumerate(symbols)}
    arcs = WordArcs(
        np.array([arc.source for arc in graph.arcs], np.int64),
        np.array([arc.target for arc in graph.arcs], np.int64),
        np.array([-1 if arc.word is None else word_ids[arc.word] for arc in graph.arcs], np.int64),
        np.array([NO_SYMBOL if arc.tag is None else symbol_ids[arc.tag] for arc in graph.arcs], np.int64),
        np.array([arc.score for arc in graph.arcs], np.float64),
    )
    finals = np.full(graph.num_states, -np.inf)
    finals[list(graph.final_scores)] = list(graph.final_scores.values())
    return compile_arcs(arcs, finals, words, lexicon, symbols)


def compile_ngram(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    lexicon: Lexicon | None = None,
    scale: float = 1.0,
    has_ctc_topology: bool = False,
) -> TokenGraph:
    """Return a graph over the tokens of a model with the word sequences of an n-gram model.

    Backing off is an arc without a token, so that the score of a sentence is the best of all ways to back off, as in the
    field's graphs; it is not below the score that the ARPA format defines. Words that the model cannot write are left out.

    Args:
        path: an ARPA file of words or of the model's tokens, plain or gzipped.
        tokenizer: the model's.
        lexicon: spellings of words; None: those of the tokenizer.
        scale: weight of the scores.
        has_ctc_topology: whether to put blanks and repeats of CTC into the graph: HLG, as other programs need it.
    Raises:
        DataError: see `read_arpa`.
        ConfigError: the model cannot write most of the words, or `scale` is not 0 or more and finite.
    """
    if not 0 <= scale < float("inf"):
        raise ConfigError(
            f"the scale of an n-gram model must be 0 or more, but is {scale:g}; 1 leaves its scores as they are"
        )
    ngram = read_arpa(path)
    symbols = NgramModel(ngram).known_symbols
    pieces = set(tokenizer.pieces)
    is_of_tokens = any(s.startswith(WORD_START) for s in symbols) or (tokenizer.is_spaceless and pieces.issuperset(symbols))
    if is_of_tokens:
        if lexicon is not None:
            raise ConfigError(
                f"{path} must be of words for a lexicon to have an effect, but is of tokens; leave the lexicon out"
            )
        ids = {piece: i for i, piece in reversed(list(enumerate(tokenizer.pieces)))}
        lexicon = Lexicon(tokenizer, {symbol: [(ids[symbol],)] for symbol in symbols if symbol in ids})
        words = [symbol for symbol in symbols if symbol in ids]
    else:
        lexicon = lexicon or Lexicon(tokenizer)
        words = [symbol for symbol in symbols if lexicon.spellings(symbol)]
    _report_unwritable(symbols, words, path)
    graph = _compiled(ngram, words, lexicon, scale)
    if is_of_tokens:  # what is said follows from the tokens
        graph = dataclasses.replace(graph, output_symbols=np.zeros_like(graph.output_symbols), symbols=("",))
    return add_ctc_topology(graph, tokenizer.blank_id) if has_ctc_topology else graph


def _report_unwritable(symbols: list[str], words: list[str], path: str | os.PathLike[str]) -> None:
    """Log how many words of an n-gram model are left out; raise ConfigError if they are most of them."""
    kept = set(words)
    lost = [symbol for symbol in symbols if symbol not in kept]
    if not words or len(words) < _MIN_WRITABLE_SHARE * len(symbols):
        raise ConfigError(
            f"{path} must have words that the model can write, but of {len(symbols)} it cannot write {len(lost)}, such as "
            f"{', '.join(lost[:5]) or 'none'}; use an n-gram model of texts in the model's own writing, or give the tokens "
            "of its words in a lexicon"
        )
    if lost:
        shown = ", ".join(lost[:5])
        logger.warning(
            "%s: %d of %d words are left out, since the model cannot write them: %s", path, len(lost), len(symbols), shown
        )


def _compiled(ngram: NgramGraph, words: list[str], lexicon: Lexicon, scale: float) -> TokenGraph:
    """The graph over tokens of an n-gram model, with the words that are given."""
    num_symbols = len(ngram.symbols)
    index_of = {word: i for i, word in enumerate(words)}
    indices = np.array([index_of.get(symbol, -1) for symbol in ngram.symbols], np.int64)
    states, arc_words = ngram.arc_keys // num_symbols, indices[ngram.arc_keys % num_symbols]
    is_kept = arc_words >= 0
    backs = np.flatnonzero(ngram.backoff_targets != np.arange(len(ngram.backoff_targets)))
    sources = np.concatenate([states[is_kept], backs])
    targets = np.concatenate([ngram.arc_targets[is_kept], ngram.backoff_targets[backs]]).astype(np.int64)
    numbers = np.arange(len(ngram.final_scores))
    numbers[[0, ngram.start]] = numbers[[ngram.start, 0]]  # the start is state 0
    arcs = WordArcs(
        numbers[sources],
        numbers[targets],
        np.concatenate([arc_words[is_kept], np.full(len(backs), -1)]),
        np.full(len(sources), NO_SYMBOL),
        _scaled(np.concatenate([ngram.arc_scores[is_kept], ngram.backoff_scores[backs]]).astype(np.float64), scale),
    )
    finals = np.nan_to_num(ngram.final_scores[numbers].astype(np.float64), nan=-np.inf, neginf=-np.inf)
    finals = _scaled(finals, scale)
    if not (finals > -np.inf).any():
        raise ConfigError(
            "an n-gram model must say how probable the end of a sentence is (</s>), but does not; write it anew"
        )
    # Minimizing would remove the arcs of backing off, and so multiply the others.
    return compile_arcs(arcs, finals, words, lexicon, ("", *words), is_minimized=False)


def _scaled(scores: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Scores times `scale`; what is impossible stays so, with 0 too."""
    return np.multiply(scores, scale, out=np.full_like(scores, -np.inf), where=scores > -np.inf)


def _refuse_empty_loops(graph: WordGraph) -> None:
    """Check that loops of arcs without words have no tags and no scores above 0: a path could repeat them for ever."""
    after: dict[int, list[int]] = {}
    empty = [arc for arc in graph.arcs if arc.word is None]
    for arc in empty:
        after.setdefault(arc.source, []).append(arc.target)
    for arc in empty:
        if (arc.tag is not None or arc.score > 0) and arc.source in reached(after, arc.target):
            what = f"puts out {arc.tag}" if arc.tag is not None else f"gains {arc.score:g} nats"
            raise ConfigError(
                f"every repeat of a graph must take a word, but one that can be passed without any {what}; make a "
                "word in it obligatory, or move what it puts out beside one"
            )
