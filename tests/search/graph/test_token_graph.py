"""Contract: arrays that do not fit each other are refused. Law: states that the start does not lead to can be left out."""

from typing import Any

import numpy as np
import pytest

from zipasr.search.graph import TokenGraph
from zipasr.search.graph.token_graph import distinct, is_among, reachable

ARRAYS: dict[str, Any] = {
    "first_arc": np.array([0, 1, 2]),
    "tokens": np.array([3, -1], np.int32),
    "output_symbols": np.array([1, 0], np.int32),
    "scores": np.array([-0.5, 0.0], np.float32),
    "targets": np.array([1, 0], np.int32),
    "final_scores": np.array([-np.inf, 0.0], np.float32),
    "symbols": ("", "tea"),
}


def test_sizes() -> None:
    graph = TokenGraph(**ARRAYS)
    assert (graph.num_states, graph.num_arcs) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, "must have one length, but have 2, 2, 3 and 2"),
        ({"final_scores": np.zeros(3, np.float32)}, "final_scores must have 2 states, but has 3"),
        ({"first_arc": np.array([0, 3, 2])}, "first_arc must rise from 0 to 2"),
        ({"start": 2}, "start must be from 0 to 1, but is 2"),
        ({"targets": np.array([1, 2], np.int32)}, "targets must be states from 0 to 1"),
        ({"output_symbols": np.array([1, 2], np.int32)}, "output_symbols must be indices of 2 symbols"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenGraph(**(ARRAYS | changes))


def test_states_that_cannot_be_reached_are_left_out() -> None:
    graph = TokenGraph(
        first_arc=np.array([0, 1, 3, 4, 5]),
        tokens=np.array([1, 2, 3, 4, 5], np.int32),
        output_symbols=np.zeros(5, np.int32),
        scores=np.arange(5, dtype=np.float32),
        targets=np.array([3, 3, 1, 2, 1], np.int32),  # 0 and 2 lead on, but nothing leads to them
        final_scores=np.array([-1, -2, -3, -4], np.float32),
        start=1,
    )
    found = reachable(graph)
    assert found.first_arc.tolist() == [0, 2, 3]
    assert found.tokens.tolist() == [2, 3, 5]
    assert found.scores.tolist() == [1, 2, 4]
    assert found.targets.tolist() == [1, 0, 0]
    assert found.final_scores.tolist() == [-2, -4]
    assert found.start == 0


@pytest.mark.parametrize("values", [[], [3], [5, 1, 5, 3, 1]])
@pytest.mark.parametrize("known", [[], [1, 3], [2, 5, 9]])
def test_sorted_sets(values: list[int], known: list[int]) -> None:
    array = np.array(values, np.int64)
    assert distinct(array).tolist() == sorted(set(values))
    assert is_among(array, np.array(known, np.int64)).tolist() == [value in known for value in values]
