"""Resumable searches. Law: any split of the frames, any batch and any partial results give the results of a single call;
with a single path to follow, joined segments are the whole; memory does not grow. Reference: a restart continues as if after
its last labels."""

import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.chunked import advance_in_chunks
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import Heads, ToyScorer, toy_encoded
from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.beam import BeamSearch, BeamState, modified_beam_search
from zipasr.search.greedy import CtcGreedySearch, GreedySearch
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.label_tree import LabelNode
from zipasr.search.prefix import CtcPrefixSearch, ctc_prefix_search
from zipasr.search.prior import WeightedPriors
from zipasr.search.resumable import AnySearch, search_all
from zipasr.search.strategy import SearchConfig, make_prior, make_search, resolve_search
from zipasr.search.two_pass import JointStreamSearch, RescoringStreamSearch, make_stream_search

VOCAB = 6
GRAPH = HotwordGraph([((2, 3), 1.5), ((4,), 0.7)])
SEARCHES: dict[str, Callable[[ToyScorer], AnySearch]] = {
    "beam": lambda scorer: BeamSearch(scorer, unk_id=1, temperature=1.3),
    "beam of 1": lambda scorer: BeamSearch(scorer, beam=1, blank_penalty=0.5),
    "beam, 2 a frame": lambda scorer: BeamSearch(scorer, unk_id=1, max_symbols_per_frame=2),
    "beam, 3 a frame": lambda scorer: BeamSearch(scorer, blank_penalty=0.5, max_symbols_per_frame=3),
    "greedy": lambda scorer: GreedySearch(scorer, unk_id=1, blank_penalty=0.5),
    "greedy, 2 a frame": lambda scorer: GreedySearch(scorer, unk_id=1, max_symbols_per_frame=2),
    "greedy, 3 a frame": lambda scorer: GreedySearch(scorer, max_symbols_per_frame=3, window_frames_25hz=4),
    "ctc_greedy": lambda scorer: CtcGreedySearch(scorer, blank_penalty=0.5),
    "ctc_beam": lambda scorer: CtcPrefixSearch(scorer, temperature=1.3),
}
PRIORS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "hotwords": lambda: GRAPH,
    "weighted": lambda: WeightedPriors([(ToyPrior(VOCAB, seed=3, end=0.3), 0.6), (GRAPH, 1.0)]),
}
PAIRS = [
    (name, prior)
    for name in SEARCHES
    for prior in PRIORS
    if prior == "nothing" or (name != "ctc_greedy" and not (name.startswith("greedy") and prior == "weighted"))
]


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(h.ids, h.frames) for h in found] == [(h.ids, h.frames) for h in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)
        assert a.score == pytest.approx(b.score, abs=1e-4)


def row(encoded: Encoded, n: int, start: int = 0, end: int | None = None) -> Encoded:
    """Frames of one utterance."""
    frames = encoded.frames[n : n + 1, start : int(encoded.lens[n]) if end is None else end]
    return Encoded(frames, torch.tensor([frames.shape[1]]))


@pytest.mark.parametrize(("name", "prior_name"), PAIRS)
@settings(deadline=None, max_examples=20)
@given(
    lens=st.lists(st.integers(0, 24), min_size=1, max_size=4),
    context_size=st.integers(1, 3),
    blank_bonus=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_any_split_in_any_batch_equals_one_call(
    name: str, prior_name: str, lens: list[int], context_size: int, blank_bonus: float, seed: int
) -> None:
    """Streams start at any time, are at different frames, sometimes get no frames, and give partial results."""
    if name == "beam, 3 a frame":
        context_size = max(context_size, 2)  # otherwise orders of the same labels within a frame may tie; see test_beam.py
    scorer, generator = ToyScorer(VOCAB, context_size, seed), random.Random(seed)
    encoded = toy_encoded(lens, VOCAB, seed=seed + 1, blank_bonus=blank_bonus)
    search, prior = SEARCHES[name](scorer), PRIORS[prior_name]()
    expected = search_all(search, encoded, prior)
    states = [search.start(prior) for _ in lens]
    for is_asked in advance_in_chunks(search, states, encoded, generator, most_frames=7):
        if is_asked:
            search.hypotheses(states)
    for found, wanted in zip(search.hypotheses(states), expected, strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize("name", ["beam", "beam, 3 a frame", "greedy", "greedy, 3 a frame", "ctc_beam"])
def test_streams_of_a_batch_have_their_own_hotwords(name: str) -> None:
    scorer, search = ToyScorer(VOCAB), SEARCHES[name](ToyScorer(VOCAB))
    encoded = toy_encoded([15, 15, 15], VOCAB, seed=4, blank_bonus=1.0)
    encoded = encoded._replace(frames=encoded.frames[:1].expand(3, -1, -1))
    priors = [None, HotwordGraph([((3, 4), 4.0)]), HotwordGraph([((5,), 4.0)])]
    states = [search.start(prior) for prior in priors]
    search.advance(states, encoded)
    together = search.hypotheses(states)
    for n, prior in enumerate(priors):
        (alone,) = search_all(SEARCHES[name](scorer), row(encoded, n), prior)
        assert_same(together[n], alone)
    assert len({ranked[0].ids for ranked in together}) == 3


@pytest.mark.parametrize(
    "search",
    [
        BeamSearch(ToyScorer(VOCAB), beam=1),
        BeamSearch(ToyScorer(VOCAB), beam=1, max_symbols_per_frame=3),
        GreedySearch(ToyScorer(VOCAB)),
        GreedySearch(ToyScorer(VOCAB), max_symbols_per_frame=2),
        CtcGreedySearch(ToyScorer(VOCAB)),
        CtcPrefixSearch(ToyScorer(VOCAB), beam=1),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_segments_joined_are_the_whole_where_one_path_is_followed(search: AnySearch, seed: int) -> None:
    """The labels before a restart still condition the search, and are not emitted again."""
    encoded = toy_encoded([40], VOCAB, seed=seed, blank_bonus=1.0)
    encoded.frames[0, 7:12, 3] += 20.0  # a label that lasts over a restart
    (whole,) = search_all(search, encoded)
    state, cuts, ids, frames = search.start(), [0, 0, 9, 10, 25, 40], [], []
    for start, end in itertools.pairwise(cuts):
        state = search.restart(state)
        assert search.hypotheses([state]) == [[Hypothesis()]]
        search.advance([state], row(encoded, 0, start, end))
        assert state.num_frames == end - start
        ((found,),) = search.hypotheses([state])
        ids += found.ids
        frames += [start + frame for frame in found.frames]
    assert (tuple(ids), tuple(frames)) == (whole[0].ids, whole[0].frames)


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_restarts_after_the_labels_of_the_best(seed: int) -> None:
    """After a restart the search continues like one whose first frames allow only the last labels of the best hypothesis."""
    scorer = ToyScorer(VOCAB, seed=seed)
    search, encoded = BeamSearch(scorer), toy_encoded([24], VOCAB, seed=seed + 1, blank_bonus=1.0)
    state = search.start()
    search.advance([state], row(encoded, 0, 0, 12))
    last = search.hypotheses([state])[0][0].ids[-2:]
    state = search.restart(state)
    search.advance([state], row(encoded, 0, 12, 24))
    forced = torch.full((1, 2, VOCAB), -1e4)
    forced[0, range(2), last] = 1e4
    frames = torch.cat([forced, encoded.frames[:, 12:]], dim=1)
    (expected,) = modified_beam_search(scorer, Encoded(frames, torch.tensor([14])))
    wanted = {h.ids[2:]: (tuple(frame - 2 for frame in h.frames[2:]), pytest.approx(h.score, abs=1e-3)) for h in expected}
    assert len(last) == 2
    assert {h.ids: (h.frames, h.score) for h in search.hypotheses([state])[0]} == wanted


def test_a_restart_resets_hotwords_and_language_models() -> None:
    scorer, prior = ToyScorer(VOCAB), ToyPrior(VOCAB, seed=1)
    for search in (BeamSearch(scorer), CtcPrefixSearch(scorer)):
        state = search.start(WeightedPriors([(prior, 1.0), (HotwordGraph([((2, 2, 2, 2), 50.0)]), 1.0)]))
        frames = torch.zeros(1, 3, VOCAB)
        frames[..., 2] = 10.0
        search.advance([state], Encoded(frames, torch.tensor([3])))
        state = search.restart(state)
        assert state.paths[0].prefix.prior_state == state.prior.start()
        assert search.hypotheses([state])[0][0].score == pytest.approx(0.0, abs=1e-6)


def test_a_label_that_continues_after_a_restart_is_not_emitted_again_by_ctc() -> None:
    path = [0, 3, 3, 3, 0, 3, 0]
    frames = torch.full((1, len(path), VOCAB), -9.0)
    frames[0, range(len(path)), path] = 9.0
    encoded = Encoded(frames, torch.tensor([len(path)]))
    for search in (CtcPrefixSearch(ToyScorer(VOCAB)), CtcGreedySearch(ToyScorer(VOCAB))):
        state = search.start()
        search.advance([state], row(encoded, 0, 0, 2))
        state = search.restart(search.restart(state))
        search.advance([state], row(encoded, 0, 2, 7))
        best = search.hypotheses([state])[0][0]
        assert (best.ids, best.frames) == ((3,), (3,))


def nodes_below(node: LabelNode) -> list[LabelNode]:
    found = [node]
    for below in found:
        found += below._children.values()
    return found


@pytest.mark.parametrize("name", ["beam", "beam, 3 a frame", "ctc_beam"])
def test_memory_of_a_stream_does_not_grow_beyond_its_labels(name: str) -> None:
    """Nodes are kept only for the labels of live hypotheses, and states of priors only for live hypotheses."""
    scorer, prior = ToyScorer(VOCAB), WeightedPriors([(ToyPrior(VOCAB), 0.5)])
    search = SEARCHES[name](scorer)
    encoded, state = toy_encoded([1200], VOCAB, seed=2, blank_bonus=4.0), search.start(prior)
    root = state.trunk
    for start in range(0, 1200, 8):
        search.advance([state], row(encoded, 0, start, start + 8))
        search.advance([state], row(encoded, 0, 0, 0))  # every chunk frees what the previous one left
        live = {path.prefix for path in state.paths}
        everything = nodes_below(root)
        assert {node for node in everything if node.prior_state is not None} == live
        assert {node for node in everything if not node._children} <= live
    assert len(search.hypotheses([state])[0][0].ids) > 80
    assert len(state.trunk.ids()) > 40  # older nodes are not visited again


@pytest.mark.parametrize("search", [modified_beam_search, ctc_prefix_search])
def test_one_call_a_frame_for_all_streams_with_the_same_prior(search: Any) -> None:
    prior = ToyPrior(VOCAB)
    search(ToyScorer(VOCAB), toy_encoded([9, 5, 7], VOCAB, seed=0), prior=prior)
    assert 0 < prior.num_calls <= 9


def test_the_table_of_contexts_is_as_large_as_a_chunk_needs() -> None:
    """A search that serves streams for days keeps no contexts of finished streams."""
    search = BeamSearch(ToyScorer(VOCAB))
    before = set(vars(search))
    state = search.start()
    assert isinstance(state, BeamState)
    search.advance([state], toy_encoded([20], VOCAB, seed=0))
    assert set(vars(search)) == before


@pytest.mark.parametrize("name", list(SEARCHES))
def test_wrong_states(name: str) -> None:
    search = SEARCHES[name](ToyScorer(VOCAB))
    with pytest.raises(ValueError, match="a row of frames for each of 1 states, but there are 2"):
        search.advance([search.start()], toy_encoded([3, 3], VOCAB, seed=0))
    with pytest.raises(ValueError, match=r"encoded\.lens must be"):
        search.advance([search.start()], Encoded(torch.zeros(1, 3, VOCAB), torch.tensor([4])))


def test_what_ctc_greedy_cannot_use() -> None:
    search: AnySearch = CtcGreedySearch(ToyScorer(VOCAB))
    with pytest.raises(ValueError, match="neither hotwords nor language models"):
        search.start(GRAPH)


def test_the_searches_of_streams() -> None:
    with pytest.raises(ConfigError, match="ctc_greedy cannot use hotwords"):
        resolve_search(SearchConfig(method="ctc_greedy"), Heads(), has_hotwords=True)
    kinds = {"beam": BeamSearch, "greedy": GreedySearch, "ctc_greedy": CtcGreedySearch, "ctc_beam": CtcPrefixSearch}
    for method, kind in kinds.items():
        config = dataclasses.replace(SearchConfig(), method=method)
        assert isinstance(make_search(Heads(), config), kind)
        assert isinstance(make_stream_search(Heads(), config), kind)
        assert make_prior(config) is None
    of_both = {"joint": JointStreamSearch, "attention_rescoring": RescoringStreamSearch}
    for method, two_pass in of_both.items():
        assert isinstance(make_stream_search(Heads(), dataclasses.replace(SearchConfig(), method=method)), two_pass)
    assert make_prior(SearchConfig(method="greedy"), hotwords=GRAPH) is GRAPH
