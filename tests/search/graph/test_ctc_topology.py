"""Reference: of all label sequences of some frames, the graph with the topology allows those whose blanks and repeats leave
a token sequence of the graph, once for each path, with its scores and outputs."""

import itertools

import numpy as np
import pytest

from tests.search.graph.paths import Said, token_paths
from tests.search.graph.random_graphs import NUM_TOKENS, counted, random_graph
from zipasr.search.graph import TokenGraph, WordArc, WordGraph, add_ctc_topology, compile_words
from zipasr.search.graph.token_graph import empty_cycle
from zipasr.tokenizer import Tokenizer

BLANK, MAX_FRAMES = 0, 4


def collapsed(labels: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens of the labels of frames."""
    return tuple(label for label, _ in itertools.groupby(labels) if label != BLANK)


def expected_paths(graph: TokenGraph) -> list[tuple[Said, float]]:
    """The paths of frames: for each path over tokens all its alignments."""
    by_tokens: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for num_frames in range(MAX_FRAMES + 1):
        for labels in itertools.product(range(NUM_TOKENS), repeat=num_frames):
            by_tokens.setdefault(collapsed(labels), []).append(labels)
    return [
        (Said(labels, said.outputs), score)
        for said, score in token_paths(graph, MAX_FRAMES)
        for labels in by_tokens.get(said.tokens, [])
    ]


@pytest.mark.parametrize("seed", range(30))
def test_its_paths_are_the_alignments(seed: int) -> None:
    graph = random_graph(seed)
    topology = add_ctc_topology(graph, BLANK)
    assert topology.has_ctc_topology
    assert empty_cycle(topology) is None
    assert counted(list(token_paths(topology, MAX_FRAMES))) == counted(expected_paths(graph))


def test_large_states_are_shared() -> None:
    # A loop of 20 words of two tokens each: copying its 20 arcs behind each last token would make 400.
    num = 20
    inner = np.arange(1, num + 1, dtype=np.int32)
    graph = TokenGraph(
        first_arc=np.append(np.array([0]), num + np.arange(num + 1)),
        tokens=np.concatenate([inner, num + inner]),
        output_symbols=np.zeros(2 * num, np.int32),
        scores=np.zeros(2 * num, np.float32),
        targets=np.concatenate([inner, np.zeros(num, np.int32)]),
        final_scores=np.append(0.0, np.full(num, -np.inf)).astype(np.float32),
    )
    assert add_ctc_topology(graph, BLANK).num_arcs <= 6 * graph.num_arcs


def test_graphs_with_blanks_are_refused() -> None:
    topology = add_ctc_topology(random_graph(0), BLANK)
    with pytest.raises(ValueError, match="must be one over tokens, but has blanks"):
        add_ctc_topology(topology, BLANK)


def test_compiled_words() -> None:
    tokenizer = Tokenizer.train(["AB BA"], kind="char", vocab_size=None)
    graph = compile_words(WordGraph((WordArc(0, 1, "AB", "{x}"), WordArc(1, 0)), {1: 0.0}), tokenizer)
    topology = add_ctc_topology(graph, tokenizer.blank_id)
    said = {path for path, _ in token_paths(topology, 5)}
    a, b, space, blank = (tokenizer.pieces.index(piece) for piece in ("A", "B", "▁", "<blk>"))
    assert Said((space, a, b), ("AB", "{x}")) in said
    assert Said((blank, space, a, b, b), ("AB", "{x}")) in said
    assert Said((space, b, a), ("AB", "{x}")) not in said
