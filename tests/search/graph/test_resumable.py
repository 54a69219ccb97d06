"""Searches through graphs as `ResumableSearch`. Law: any split of the frames, any batch and any partial results give the
results of a single call; a restart continues after the last label; memory does not grow."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.chunked import advance_in_chunks
from tests.search.graph.hand_graphs import random_graph, token_graph
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.nn.encoded import Encoded
from zipasr.search.graph.ctc_search import CtcGraphSearch
from zipasr.search.graph.graph_search import GraphSearch
from zipasr.search.graph.passing import Limits
from zipasr.search.graph.transducer_search import GraphBeamSearch
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.resumable import search_all

VOCAB = 6
SEARCHES: dict[str, Callable[[ToyScorer], GraphSearch]] = {
    "ctc": lambda scorer: CtcGraphSearch(scorer, Limits(6.0, 1000)),
    "ctc, n best": lambda scorer: CtcGraphSearch(scorer, Limits(20.0, 20, 4), temperature=1.3),
    "transducer": lambda scorer: GraphBeamSearch(scorer, blank_penalty=0.5, max_contexts=4),
    "transducer, n best": lambda scorer: GraphBeamSearch(scorer, Limits(20.0, 20, 4), unk_id=1),
    "transducer, 3 a frame": lambda scorer: GraphBeamSearch(scorer, Limits(20.0, 1000, 2), max_symbols_per_frame=3),
}


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [h[:2] + h[4:5] + h[6:] for h in found] == [h[:2] + h[4:5] + h[6:] for h in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)
        assert a.score == pytest.approx(b.score, abs=1e-4)
        assert a.shortfall == pytest.approx(b.shortfall, abs=1e-4)


@pytest.mark.parametrize("name", SEARCHES)
@settings(deadline=None, max_examples=8)
@given(
    lens=st.lists(st.integers(0, 16), min_size=1, max_size=4),
    blank_bonus=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_any_split_in_any_batch_equals_one_call_alone(name: str, lens: list[int], blank_bonus: float, seed: int) -> None:
    """Streams have graphs of their own or share one, are at different frames, sometimes get none, and give results."""
    scorer, generator = ToyScorer(VOCAB, 2, seed), random.Random(seed)
    encoded = toy_encoded(lens, VOCAB, seed=seed + 1, blank_bonus=blank_bonus)
    graphs = [random_graph(VOCAB, seed + n, num_states=8, num_arcs=30) for n in range(2)]
    graphs = [graphs[n % 2] for n in range(len(lens))]
    search = SEARCHES[name](scorer)
    alone = [search.start(graph) for graph in graphs]
    for n, state in enumerate(alone):
        search.advance([state], Encoded(encoded.frames[n : n + 1, : lens[n]], encoded.lens[n : n + 1]))
    states = [search.start(graph) for graph in graphs]
    for is_asked in advance_in_chunks(search, states, encoded, generator, most_frames=5):
        if is_asked:
            search.hypotheses(states)
            search.partial_hypotheses(states)
    for get in (search.hypotheses, search.partial_hypotheses):
        for found, expected in zip(get(states), get(alone), strict=True):
            assert_same(found, expected)


@pytest.mark.parametrize("name", SEARCHES)
def test_partial_hypotheses_may_stop_inside_a_phrase(name: str) -> None:
    graph = token_graph([(0, 1, 2, "two", 0.0), (1, 2, 3, "three", 0.0)], {2: 0.0})
    search, frames = SEARCHES[name](ToyScorer(VOCAB)), torch.full((1, 3, VOCAB), -9.0)
    frames[0, (0, 1, 2), (0, 2, 0)] = 9.0
    state = search.start(graph)
    search.advance([state], Encoded(frames, torch.tensor([3])))
    (partial,) = search.partial_hypotheses([state], 1)[0]
    assert (partial.ids, partial.frames, partial.is_complete) == ((2,), (1,), False)
    (complete,) = search.hypotheses([state], 1)[0]
    assert complete.ids in ((), (2, 3))  # nothing, or a 3 that hardly was
    assert complete.is_complete == bool(complete.ids)
    frames[0, (0, 1, 2), (0, 2, 0)] = -9.0
    frames[0, (0, 1, 2), (0, 3, 0)] = 9.0
    search.advance([state], Encoded(frames, torch.tensor([3])))
    assert search.hypotheses([state])[0][0].frames == (1, 4)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_restart_starts_the_graph_again(name: str) -> None:
    graph = token_graph([(0, 0, token, "", 0.0) for token in range(1, VOCAB)], {0: 0.0})
    search, encoded = SEARCHES[name](ToyScorer(VOCAB)), toy_encoded([12], VOCAB, seed=1)
    state = search.start(graph)
    search.advance([state], encoded)
    after = search.restart(state)
    assert after.num_frames == 0
    assert after.graph is graph
    assert search.partial_hypotheses([after], 1)[0][0].ids == ()
    search.advance([after], encoded)
    assert max(search.partial_hypotheses([after], 1)[0][0].frames) < 12


def test_a_restart_of_ctc_does_not_repeat_a_label_that_has_not_ended() -> None:
    graph = token_graph([(0, 0, 2, "two", 0.0)], {0: 0.0})
    search, frames = CtcGraphSearch(ToyScorer(VOCAB)), torch.full((1, 2, VOCAB), -9.0)
    frames[..., 2] = 9.0
    state = search.start(graph)
    search.advance([state], Encoded(frames, torch.tensor([2])))
    state = search.restart(state)
    search.advance([state], Encoded(frames, torch.tensor([2])))
    assert search.hypotheses([state])[0][0].ids == ()


def test_a_restart_of_a_transducer_keeps_the_label_context() -> None:
    search = GraphBeamSearch(ToyScorer(VOCAB))
    state = search.start(token_graph([(0, 0, token, "", 0.0) for token in range(1, VOCAB)], {0: 0.0}))
    search.advance([state], toy_encoded([12], VOCAB, seed=1))
    best = search.hypotheses([state])[0][0]
    assert search.restart(state).contexts == [best.ids[-2:]]


@pytest.mark.parametrize("name", ["ctc", "transducer"])
def test_memory_does_not_grow_with_the_stream(name: str) -> None:
    """Of the n best, the second may differ from the best in a label long ago; then what follows is kept twice."""
    graph = token_graph([(0, 0, token, "", 0.0) for token in range(1, VOCAB)], {0: 0.0})
    search = SEARCHES[name](ToyScorer(VOCAB))
    state, sizes = search.start(graph), []
    for seed in range(40):
        search.advance([state], toy_encoded([8], VOCAB, seed=seed))
        sizes.append(len(state.history.records.parents))
    assert len(search.hypotheses([state])[0][0].ids) > 100
    assert np.mean(sizes[30:]) < 3 * np.mean(sizes[5:20]) + 10


def test_no_state_and_no_frame_are_no_problem() -> None:
    search: Any = CtcGraphSearch(ToyScorer(VOCAB))
    search.advance([], Encoded(torch.zeros(0, 3, VOCAB), torch.zeros(0, dtype=torch.int64)))
    graph = token_graph([], {0: -1.5})
    (ranked,) = search_all(search, toy_encoded([0], VOCAB, seed=0), graph)
    assert ranked == [Hypothesis(score=-1.5, shortfall=0.0)]
