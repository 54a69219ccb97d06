"""Contract: arrays that do not fit each other are refused."""

from typing import Any

import numpy as np
import pytest

from zipasr.search.graph import TokenGraph

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
