"""Random graphs over tokens, and comparisons of graphs."""

from collections import Counter

import numpy as np

from tests.search.graph.paths import Said
from zipasr.search.graph import NO_TOKEN, TokenGraph

NUM_TOKENS = 4
"""Tokens of the graphs, the blank, 0, among them."""


def random_graph(seed: int, *, num_states: int = 4, num_arcs: int = 9) -> TokenGraph:
    """A graph over tokens with loops, outputs, and arcs without tokens to later states."""
    generator = np.random.default_rng(seed)
    rows = set()
    while len(rows) < num_arcs:
        source, target = (int(state) for state in generator.integers(num_states, size=2))
        is_empty = source < target and generator.random() < 0.4
        token = NO_TOKEN if is_empty else int(generator.integers(1, NUM_TOKENS))
        rows.add((source, token, int(generator.integers(3)), target))
    arcs = sorted(rows)
    start = int(generator.integers(num_states))
    finals = np.where(generator.random(num_states) < 0.6, -generator.random(num_states), -np.inf).astype(np.float32)
    finals[start] = -0.25  # so that every graph says something
    return TokenGraph(
        first_arc=np.searchsorted([arc[0] for arc in arcs], np.arange(num_states + 1)),
        tokens=np.array([arc[1] for arc in arcs], np.int32),
        output_symbols=np.array([arc[2] for arc in arcs], np.int32),
        scores=-generator.random(num_arcs).astype(np.float32),
        targets=np.array([arc[3] for arc in arcs], np.int32),
        final_scores=finals,
        start=start,
        symbols=("", "a", "b"),
    )


def counted(paths: list[tuple[Said, float]]) -> Counter[tuple[Said, float]]:
    return Counter((said, round(score, 3)) for said, score in paths)


def assert_same(found: TokenGraph, expected: TokenGraph) -> None:
    for name in ("first_arc", "tokens", "output_symbols", "scores", "targets", "final_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert (found.start, found.symbols, found.has_ctc_topology) == (
        expected.start,
        expected.symbols,
        expected.has_ctc_topology,
    )
