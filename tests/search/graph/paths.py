"""Slow and obvious: all paths of small graphs, as scores of sequences of tokens and outputs."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zipasr.search.graph import NO_SYMBOL, NO_TOKEN, TokenGraph, WordArc, WordGraph


class Said(NamedTuple):
    """What a path says."""

    tokens: tuple[int, ...]
    outputs: tuple[str, ...]


Scores = dict[Said, float]


def word_paths(graph: WordGraph, max_arcs: int) -> Iterator[tuple[list[WordArc], float]]:
    """All paths of a word graph with at most so many arcs, with their scores."""
    todo: list[tuple[int, list[WordArc]]] = [(0, [])]
    while todo:
        state, path = todo.pop()
        if state in graph.final_scores:
            yield path, sum(arc.score for arc in path) + graph.final_scores[state]
        if len(path) < max_arcs:
            todo += [(arc.target, [*path, arc]) for arc in graph.arcs if arc.source == state]


def scores_of_words(graph: WordGraph, spell: Callable[[Sequence[str]], Sequence[tuple[int, ...]]], max_arcs: int) -> Scores:
    """The best score of everything that a word graph says; `spell` gives the token sequences of a sentence."""
    best: Scores = {}
    for path, score in word_paths(graph, max_arcs):
        outputs = tuple(output for arc in path for output in (arc.word, arc.tag) if output is not None)
        for tokens in spell([arc.word for arc in path if arc.word is not None]):
            said = Said(tokens, outputs)
            best[said] = max(score, best.get(said, -np.inf))
    return best


def scores_of_tokens(graph: TokenGraph, max_tokens: int) -> Scores:
    """The best score of everything that a token graph says with at most so many tokens."""
    best: Scores = {}
    for said, score in token_paths(graph, max_tokens):
        best[said] = max(score, best.get(said, -np.inf))
    return best


def token_paths(graph: TokenGraph, max_tokens: int) -> Iterator[tuple[Said, float]]:
    """All paths of a token graph with at most so many tokens, with their scores."""
    todo = [(graph.start, Said((), ()), 0.0)]
    while todo:
        state, said, score = todo.pop()
        if graph.final_scores[state] > -np.inf:
            yield said, score + float(graph.final_scores[state])
        for i in range(graph.first_arc[state], graph.first_arc[state + 1]):
            token, output = int(graph.tokens[i]), int(graph.output_symbols[i])
            tokens = said.tokens if token == NO_TOKEN else (*said.tokens, token)
            outputs = said.outputs if output == NO_SYMBOL else (*said.outputs, graph.symbols[output])
            if len(tokens) <= max_tokens:
                todo.append((int(graph.targets[i]), Said(tokens, outputs), score + float(graph.scores[i])))


def random_word_graph(
    seed: int, words: Sequence[str], *, num_states: int = 4, num_arcs: int = 8, has_loops: bool
) -> WordGraph:
    """A graph with words, tags, arcs without words and scores; arcs without words lead to later states."""
    generator = np.random.default_rng(seed)
    arcs = []
    for _ in range(num_arcs):
        source, target = sorted(generator.choice(num_states, 2, replace=False).tolist())
        word = None if generator.random() < 0.3 else words[generator.integers(len(words))]
        tag = f"{{{generator.integers(3)}}}" if generator.random() < 0.3 else None
        if has_loops and word is not None and generator.random() < 0.3:
            source, target = target, source
        arcs.append(WordArc(source, target, word, tag, round(-2 * generator.random(), 2)))
    arcs.append(WordArc(0, num_states - 1, words[0]))  # the graph says something
    finals = {num_states - 1: 0.0} | {int(generator.integers(num_states)): -0.5 for _ in range(2)}
    return WordGraph(tuple(arcs), finals)
