"""Arcs over words, in arrays -> `TokenGraph`: words are spelled in tokens, and equal parts of paths are shared.

The compiled graph has the paths of the word arcs: for every sequence of tokens and outputs the best score of it. An output
stands at the last token of its word, a tag in an arc after it. A token and an output are one label while the graph is
determinized, so that words of equal spelling both stay, and no disambiguation symbols are needed.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zipasr.errors import ConfigError
from zipasr.search.graph.lexicon import Lexicon
from zipasr.search.graph.openfst import Fst, from_bytes, to_bytes
from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph, concatenated, places_within, reachable

logger = logging.getLogger(__name__)

_DELTA = 2.0**-16
"""Nats; scores that differ by less count as equal in determinizing and minimizing. Sums of hundreds stay exact to 0.01."""
_MAX_GROWTH, _MIN_STATES = 4, 10_000
"""Determinizing ends when it makes so many times the states, and more than the minimum: some loops have no finite result."""


class WordArcs(NamedTuple):
    """The arcs of a graph over words, in arrays (A,)."""

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    words: NDArray[np.int64]
    """Index of the word of each arc; -1: none."""
    outputs: NDArray[np.int64]
    """Symbol that each arc puts out besides its word, or `NO_SYMBOL`."""
    scores: NDArray[np.float64]


class TokenArcs(NamedTuple):
    """The arcs of a graph over tokens, in arrays (A,)."""

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    tokens: NDArray[np.int64]
    outputs: NDArray[np.int64]
    scores: NDArray[np.float64]


def require_kaldifst() -> Any:
    """Return the module kaldifst.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import kaldifst
    except ImportError as error:
        raise ConfigError(
            'compiling a graph needs kaldifst, but it is not installed; pip install "zipasr[graph]"'
        ) from error
    return kaldifst


def compile_arcs(
    arcs: WordArcs,
    finals: NDArray[np.float64],
    words: Sequence[str],
    lexicon: Lexicon,
    symbols: tuple[str, ...],
    *,
    is_minimized: bool = True,
) -> TokenGraph:
    """Return the graph over tokens of word arcs; its start is state 0.

    Args:
        arcs: the arcs; a word is put out as symbol 1 + its index.
        finals: (G,) score of ending in each state.
        words: all words, which must have spellings.
        lexicon: their spellings.
        symbols: the outputs, the words first.
        is_minimized: whether to determinize and minimize the graph, which removes arcs without token and output; otherwise
            only words behind one state share what they start with.
    Raises:
        ConfigError: kaldifst is not installed, and `is_minimized`.
    """
    num_contexts = lexicon.num_contexts
    num_states = len(finals) * num_contexts
    parts = []
    for context in range(num_contexts):
        found = list(_spell(_in_context(arcs, words, lexicon, context), words, lexicon, context, num_states=num_states))
        num_states = max(num_states, *(1 + int(part.targets.max(initial=-1)) for part in found))
        parts += found
    token_arcs = concatenated(parts)
    final_scores = np.full(num_states, -np.inf)
    final_scores[: len(finals) * num_contexts] = np.repeat(finals, num_contexts)
    return (_optimized if is_minimized else _sorted)(token_arcs, final_scores, symbols)


def _in_context(arcs: WordArcs, words: Sequence[str], lexicon: Lexicon, context: int) -> WordArcs:
    """The arcs between copies of the states, one for each context: those that leave states of one context."""
    num_contexts = lexicon.num_contexts
    after = np.array([*map(lexicon.context_after, words), context], np.int64)  # the last: an arc without a word
    return arcs._replace(
        sources=arcs.sources * num_contexts + context, targets=arcs.targets * num_contexts + after[arcs.words]
    )


def _spell(arcs: WordArcs, words: Sequence[str], lexicon: Lexicon, context: int, *, num_states: int) -> Iterator[TokenArcs]:
    """The token arcs of word arcs, in parts: a tree for each state, in which spellings with the same beginning share it.

    Where a word is alone in its tree, what follows is shared by all trees in which the word leads to the same state. A score
    is put out as early as possible: on the arc to a state is what the best word behind it has left. States of the trees are
    numbered from `num_states`.
    """
    spellings = [lexicon.spellings(word, context) for word in words]
    flat = [spelling for of_word in spellings for spelling in of_word]
    num_spellings = np.array([*map(len, spellings), 1], np.int64)  # the last entry stands for no word, as index -1
    first_spelling = np.concatenate([[0], np.cumsum(num_spellings)])[:-1]
    lens = np.array([*map(len, flat), 0], np.int64)
    tokens = np.array([token for spelling in flat for token in spelling] + [NO_TOKEN], np.int64)
    first_token = np.concatenate([[0], np.cumsum(lens)])

    copies = num_spellings[arcs.words]
    arc_of = np.repeat(np.arange(len(copies)), copies)
    spelling_of = first_spelling[arcs.words][arc_of] + places_within(copies)
    num_tokens, first, tags = lens[spelling_of], first_token[spelling_of], arcs.outputs[arc_of]
    num_parts = np.where(num_tokens > 0, num_tokens + (tags != NO_SYMBOL), 1)  # a tag is an arc after the last token
    chains = _Chains(arcs.sources[arc_of], arcs.targets[arc_of], arcs.words[arc_of], tags, num_tokens, first, num_parts)
    yield from _tree(chains, arcs.scores[arc_of], tokens, num_words=len(words), num_states=num_states)


class _Chains(NamedTuple):
    """The parts of spelled word arcs, in arrays (B,): each has its tokens and then, if it has one, its tag."""

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    words: NDArray[np.int64]
    tags: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    first_token: NDArray[np.int64]
    """Place of its first token among the tokens of all spellings, of which the last is `NO_TOKEN`."""
    num_parts: NDArray[np.int64]

    def part(self, chains: NDArray[np.int64], depth: Any, tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Tokens and outputs of the parts of some chains at a depth, and whether they are the last ones."""
        num_tokens = self.num_tokens[chains]
        is_token = depth < num_tokens
        words_out = np.where(depth == num_tokens - 1, self.words[chains] + 1, NO_SYMBOL)
        outputs = np.where(is_token, words_out, self.tags[chains])
        return tokens[np.where(is_token, self.first_token[chains] + depth, -1)], outputs, depth == self.num_parts[chains] - 1


def _tree(
    chains: _Chains, scores: NDArray[np.float64], tokens: NDArray[np.int64], *, num_words: int, num_states: int
) -> Iterator[TokenArcs]:
    """The arcs of chains: beginnings shared by those of one source, and ends by those of one word and target."""
    nodes, left = chains.sources.copy(), scores.copy()
    num_outputs = 1 + num_words  # an output before the last part is a word
    num_labels = (2 + int(tokens.max())) * num_outputs
    open_, depth = np.arange(len(nodes)), 0
    alone: list[tuple[NDArray[np.int64], ...]] = []  # arcs to the ends: source, token, output, chain, depth of the end
    alone_scores = []
    while len(open_):
        part_tokens, outputs, is_last = chains.part(open_, depth, tokens)
        ends = open_[is_last]
        yield TokenArcs(nodes[ends], chains.targets[ends], part_tokens[is_last], outputs[is_last], left[ends])
        open_, part_tokens, outputs = open_[~is_last], part_tokens[~is_last], outputs[~is_last]
        labels = (part_tokens + 1) * num_outputs + outputs
        keys, firsts, child_of = np.unique(nodes[open_] * num_labels + labels, return_index=True, return_inverse=True)
        is_alone = np.bincount(child_of, minlength=len(keys)) == 1
        depth += 1
        singles = open_[firsts[is_alone]]
        at = firsts[is_alone]
        alone.append((nodes[singles], part_tokens[at], outputs[at], singles, np.full(len(singles), depth)))
        alone_scores.append(left[singles])
        best = np.full(len(keys), -np.inf)
        np.maximum.at(best, child_of, left[open_])
        children = num_states + np.cumsum(~is_alone) - 1
        shared = firsts[~is_alone]
        yield TokenArcs(nodes[open_[shared]], children[~is_alone], part_tokens[shared], outputs[shared], best[~is_alone])
        num_states += len(shared)
        is_shared = ~is_alone[child_of]
        open_, child_of = open_[is_shared], child_of[is_shared]
        nodes[open_] = children[child_of]
        left[open_] -= best[child_of]
    sources, part_tokens, outputs, ends, depths = (np.concatenate(columns) for columns in zip(*alone, strict=True))
    entries, tail = _tails(chains, ends, depths, tokens, num_states=num_states)
    yield TokenArcs(sources, entries, part_tokens, outputs, np.concatenate(alone_scores))
    yield tail


def _tails(
    chains: _Chains, ends: NDArray[np.int64], depths: NDArray[np.int64], tokens: NDArray[np.int64], *, num_states: int
) -> tuple[NDArray[np.int64], TokenArcs]:
    """The states in which ends of chains start, and the arcs of these ends, once for each word, tag and target."""
    columns = (chains.first_token[ends], chains.targets[ends], chains.tags[ends])
    keys = np.zeros(len(ends), np.int64)
    for column in columns:
        keys = np.unique(keys * (1 + int(column.max(initial=0))) + column, return_inverse=True)[1]
    num_kinds = 1 + int(keys.max(initial=-1))
    shortest = np.full(num_kinds, np.iinfo(np.int64).max)
    np.minimum.at(shortest, keys, depths)
    example = np.zeros(num_kinds, np.int64)
    example[keys] = ends
    counts = chains.num_parts[example] - shortest
    first_state = num_states + np.cumsum(counts) - counts
    kind = np.repeat(np.arange(num_kinds), counts)
    place = places_within(counts)
    part_tokens, outputs, is_last = chains.part(example[kind], shortest[kind] + place, tokens)
    states = first_state[kind] + place
    targets = np.where(is_last, chains.targets[example[kind]], states + 1)
    return first_state[keys] + depths - shortest[keys], TokenArcs(states, targets, part_tokens, outputs, np.zeros(len(kind)))


def _sorted(arcs: TokenArcs, finals: NDArray[np.float64], symbols: tuple[str, ...]) -> TokenGraph:
    """The graph of token arcs, as far as the start leads."""
    order = np.argsort(arcs.sources, kind="stable")
    return reachable(
        TokenGraph(
            first_arc=np.searchsorted(arcs.sources[order], np.arange(len(finals) + 1)),
            tokens=arcs.tokens[order].astype(np.int32),
            output_symbols=arcs.outputs[order].astype(np.int32),
            scores=arcs.scores[order].astype(np.float32),
            targets=arcs.targets[order].astype(np.int32),
            final_scores=finals.astype(np.float32),
            symbols=symbols,
        )
    )


def _optimized(arcs: TokenArcs, finals: NDArray[np.float64], symbols: tuple[str, ...]) -> TokenGraph:
    """The graph of token arcs, determinized as far as that is possible, and minimized."""
    keys, labels = np.unique((arcs.tokens + 1) * len(symbols) + arcs.outputs, return_inverse=True)
    if keys[0] != 0:
        keys = np.concatenate([[0], keys])  # label 0 is the arc without token and output, which OpenFst removes
        labels = labels + 1
    order = np.argsort(arcs.sources, kind="stable")
    fst = Fst(
        0,
        np.searchsorted(arcs.sources[order], np.arange(len(finals) + 1)),
        labels[order].astype(np.int32),
        np.zeros(len(order), np.int32),
        -arcs.scores[order].astype(np.float32),
        arcs.targets[order].astype(np.int32),
        -finals.astype(np.float32),
    )
    fst = _minimized(fst)
    tokens, outputs = np.divmod(keys[fst.inputs], len(symbols))
    return TokenGraph(
        first_arc=fst.first_arc,
        tokens=(tokens - 1).astype(np.int32),
        output_symbols=outputs.astype(np.int32),
        scores=-fst.costs,
        targets=fst.targets,
        final_scores=-fst.final_costs,
        start=fst.start,
        symbols=symbols,
    )


def _minimized(fst: Fst) -> Fst:
    """An acceptor without arcs of label 0, determinized unless it would grow too much, and minimized."""
    kaldifst = require_kaldifst()
    with tempfile.TemporaryDirectory(prefix="zipasr-graph-") as folder:
        path = str(Path(folder) / "acceptor.fst")
        Path(path).write_bytes(to_bytes(fst))
        acceptor = kaldifst.StdVectorFst.read(path)
        kaldifst.connect(acceptor)
        most = max(_MIN_STATES, _MAX_GROWTH * acceptor.num_states)
        try:
            kaldifst.determinize_star(acceptor, delta=_DELTA, max_states=most)
        except RuntimeError as error:
            if "aborted" not in str(error):
                raise
            logger.warning(
                "the graph has no deterministic form of at most %d states, so equal beginnings are not all shared; "
                "decoding takes longer with it",
                most,
            )
            acceptor = kaldifst.StdVectorFst.read(path)
            kaldifst.rmepsilon(acceptor, delta=_DELTA)
        kaldifst.minimize_encoded(acceptor, delta=_DELTA)
        kaldifst.arcsort(acceptor, sort_type="ilabel")
        acceptor.write(path)
        return from_bytes(Path(path).read_bytes(), "the compiled graph")
