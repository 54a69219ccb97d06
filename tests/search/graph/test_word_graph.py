"""Contract: states, words and emptiness of word graphs."""

import math

import pytest

from zipasr.search.graph import WordArc, WordGraph


def test_states_and_words() -> None:
    graph = WordGraph((WordArc(0, 2, "tea"), WordArc(0, 1, "a"), WordArc(1, 2, "tea"), WordArc(2, 3)), {3: 0.0})
    assert graph.num_states == 4
    assert graph.words == ("a", "tea")
    assert not graph.is_empty()
    assert WordGraph((), {}).num_states == 1


@pytest.mark.parametrize(
    ("arcs", "finals", "is_empty"),
    [
        ((), {}, True),
        ((), {0: 0.0}, False),
        ((WordArc(1, 2, "a"),), {2: 0.0}, True),
        ((WordArc(0, 1, "a", score=-math.inf),), {1: 0.0}, True),
        ((WordArc(0, 1, "a"),), {1: -math.inf}, True),
        ((WordArc(0, 0, "a"), WordArc(0, 1)), {1: -1.0}, False),
    ],
)
def test_empty_graphs(arcs: tuple[WordArc, ...], finals: dict[int, float], is_empty: bool) -> None:
    assert WordGraph(arcs, finals).is_empty() is is_empty
