"""Token passing. Reference: the choice among paths, slowly. Contract: a huge batch is no exception."""

import numpy as np
import pytest

from zipasr.search.graph.passing import Paths, best_of_each


def random_paths(seed: int, num: int, *, first_utterance: int = 0) -> Paths:
    generator = np.random.default_rng(seed)
    zeros = np.zeros(num)
    return Paths(
        generator.integers(0, 3, num) + first_utterance,
        generator.integers(0, 4, num),
        generator.integers(0, 3, num),
        generator.integers(0, 6, num) / 2,  # with ties
        zeros,
        np.arange(num),
        generator.integers(0, 3, num).astype(np.uint64),
    )


def slow_choice(paths: Paths, num_kept: int) -> list[int]:
    """For each utterance, state and side the best with different outputs; of equal ones the first."""
    keys = list(zip(paths.utterances.tolist(), paths.states.tolist(), paths.sides.tolist(), strict=True))
    chosen = []
    for key in sorted(set(keys)):
        seen: list[int] = []
        for i in sorted((i for i in range(len(keys)) if keys[i] == key), key=lambda i: -paths.scores[i]):
            if num_kept > 1 and any(paths.hashes[i] == paths.hashes[j] for j in seen):
                continue
            seen.append(i)
        chosen += seen[:num_kept]
    return chosen


@pytest.mark.parametrize("num_kept", [1, 2, 5])
@pytest.mark.parametrize("first_utterance", [0, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_paths_stay(num_kept: int, first_utterance: int, seed: int) -> None:
    """Beyond 2048 utterances, keys take more than one integer."""
    paths = random_paths(seed, 60 * (seed > 0), first_utterance=first_utterance)
    assert best_of_each(paths, num_kept).tolist() == slow_choice(paths, num_kept)
