"""The search for keywords. Reference: slow obvious code; all paths of tiny lattices. Law: company and the cut of the audio
change nothing."""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.search.keywords.slow_spotter import Found, Labels, SlowPath, slow_spotter
from tests.search.toy_scorer import Heads, ToyScorer, label_scores, toy_encoded
from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.keywords import KeywordMatch, KeywordSearch, KeywordTrie, Spelling, SpotterConfig, TrieState

VOCAB = 5


def spelling(ids: Labels, keyword: int = 0, *, boost: float = 1.0, threshold: float = 0.3) -> Spelling:
    return Spelling(ids, keyword, boost, threshold)


def plain(match: KeywordMatch) -> Found:
    frames = tuple(emission.frame for emission in match.emissions)
    return match.spelling.keyword, frames, match.score, match.frame, match.is_near


def spot(
    scorer: ToyScorer,
    encoded: Encoded,
    spellings: Sequence[list[Spelling]],
    config: SpotterConfig,
    *,
    unk_id: int | None = None,
    cuts: Sequence[int] = (),
) -> list[list[Found]]:
    """What is found in each utterance with its own keywords; `cuts` are the frames at which the audio is cut."""
    search = KeywordSearch(scorer, config, unk_id=unk_id)  # type: ignore[arg-type]
    states = [search.start(KeywordTrie(own)) for own in spellings]
    found: list[list[Found]] = [[] for _ in states]
    edges = [0, *cuts, encoded.frames.shape[1]]
    for start, end in itertools.pairwise(edges):
        search.advance(states, Encoded(encoded.frames[:, start:end], (encoded.lens - start).clamp(0, end - start)))
        for own, state in zip(found, states, strict=True):
            own += map(plain, state.take())
    search.finish(states)
    for own, state in zip(found, states, strict=True):
        own += map(plain, state.take())
    return found


def assert_found(found: list[Found], expected: list[Found]) -> None:
    assert [(*match[:2], *match[3:]) for match in found] == [(*match[:2], *match[3:]) for match in expected]
    assert [match[2] for match in found] == pytest.approx([match[2] for match in expected], abs=1e-5)


keyword_ids = st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=4).map(tuple)
keyword_lists = st.lists(keyword_ids, min_size=1, max_size=4, unique=True)


@settings(deadline=None, max_examples=60)
@given(
    phrases=st.lists(keyword_lists, min_size=1, max_size=3),
    num_frames=st.integers(1, 14),
    boost=st.sampled_from([0.0, 0.7, 1.5]),
    threshold=st.sampled_from([0.05, 0.2, 0.4, 0.7]),
    beam=st.integers(1, 8),
    num_trailing_blanks=st.integers(0, 2),
    refractory_s=st.sampled_from([0.0, 0.2]),
    near=st.sampled_from([None, 0.0, 0.5]),
    max_symbols=st.integers(1, 3),
    unk_id=st.sampled_from([None, 3]),
    blank_bonus=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 1000),
)
def test_equals_obvious_code(
    phrases: list[list[Labels]],
    num_frames: int,
    boost: float,
    threshold: float,
    beam: int,
    num_trailing_blanks: int,
    refractory_s: float,
    near: float | None,
    max_symbols: int,
    unk_id: int | None,
    blank_bonus: float,
    seed: int,
) -> None:
    scorer = ToyScorer(VOCAB, 2, seed)
    config = SpotterConfig(
        beam=beam,
        num_trailing_blanks=num_trailing_blanks,
        refractory_s=refractory_s,
        near=near,
        max_symbols_per_frame=max_symbols,
    )
    spellings = [
        [spelling(ids, i, boost=boost + 0.1 * i, threshold=threshold) for i, ids in enumerate(own)] for own in phrases
    ]
    lens = [max(0, num_frames - 3 * n) for n in range(len(phrases))]
    encoded = toy_encoded(lens, VOCAB, seed=seed + 1, blank_bonus=blank_bonus)
    found = spot(scorer, encoded, spellings, config, unk_id=unk_id)
    for own, frames, length, theirs in zip(found, encoded.frames, lens, spellings, strict=True):
        assert_found(own, slow_spotter(scorer, frames[:length], theirs, config, -2 if unk_id is None else unk_id))


def test_the_reference_finds_something() -> None:
    """The examples above are worth nothing if nothing is found in them."""
    scorer, config = ToyScorer(VOCAB, 2, 0), SpotterConfig(near=0.0)
    spellings = [spelling((1, 2), 0, threshold=0.2), spelling((2,), 1, threshold=0.6)]
    encoded = toy_encoded([30] * 4, VOCAB, seed=1, blank_bonus=2.0)
    found = [match for frames in encoded.frames for match in slow_spotter(scorer, frames, spellings, config)]
    assert {match[4] for match in found} == {True, False}
    assert {match[0] for match in found} == {0, 1}


def all_paths(scorer: ToyScorer, frames: Tensor, spellings: list[Spelling]) -> dict[tuple[Labels, Labels], float]:
    """Log-probability with boosts of each state and context, summed over all paths."""
    totals: dict[tuple[Labels, Labels], float] = defaultdict(float)
    for outcomes in itertools.product(range(frames.shape[1]), repeat=len(frames)):
        path = SlowPath()
        for t, label in enumerate(outcomes):
            step = float(label_scores(scorer, frames[t], path.context)[label])
            path = path.after(label, step, t, spellings) if label else path.same(path.score + step)
        totals[path.key(scorer.context_size)] += math.exp(path.score)
    return {key: math.log(total) for key, total in totals.items()}


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_sums_all_paths(seed: int) -> None:
    scorer = ToyScorer(4, 2, seed)
    spellings = [spelling((1, 2, 1), 0), spelling((2, 1, 3), 1, boost=0.4), spelling((3,), 2)]
    encoded = toy_encoded([5], 4, seed=seed)
    search = KeywordSearch(scorer, SpotterConfig(beam=1000, num_trailing_blanks=100))  # type: ignore[arg-type]
    trie = KeywordTrie(spellings)
    state, labels = search.start(trie), labels_of(trie)
    search.advance([state], encoded)
    found = {(labels[path.node], path.context): path.score for path in state.paths}
    expected = all_paths(scorer, encoded.frames[0], spellings)
    assert found.keys() == expected.keys()
    assert [found[key] for key in expected] == pytest.approx(list(expected.values()), abs=1e-4)


def labels_of(trie: KeywordTrie) -> dict[TrieState, Labels]:
    """The labels of every state."""
    found: dict[TrieState, Labels] = {trie.root: ()}
    todo = [trie.root]
    for node in todo:  # grows in the loop
        for label, child in node.children.items():
            found[child] = (*found[node], label)
            todo.append(child)
    return found


@pytest.mark.parametrize("cuts", [(1,), (4, 9), (10, 11, 12), tuple(range(1, 30))])
def test_the_cut_of_the_audio_changes_nothing(cuts: tuple[int, ...]) -> None:
    scorer, config = ToyScorer(VOCAB, 2, 3), SpotterConfig(near=0.5)
    spellings = [[spelling((1, 2), 0), spelling((4,), 1)], [spelling((2, 3), 0)]]
    encoded = toy_encoded([30, 25], VOCAB, seed=8, blank_bonus=1.0)
    whole = spot(scorer, encoded, spellings, config)
    assert sum(map(len, whole)) > 1
    for found, expected in zip(spot(scorer, encoded, spellings, config, cuts=cuts), whole, strict=True):
        assert_found(found, expected)


def test_company_changes_nothing() -> None:
    scorer, config = ToyScorer(VOCAB, 2, 3), SpotterConfig()
    spellings = [[spelling((1, 2), 0)], [spelling((2, 3), 0), spelling((4,), 1)], [spelling((3, 3), 0)]]
    encoded = toy_encoded([30, 12, 21], VOCAB, seed=8, blank_bonus=1.0)
    together = spot(scorer, encoded, spellings, config)
    assert sum(map(len, together)) > 1
    for n, expected in enumerate(together):
        alone = Encoded(encoded.frames[n : n + 1, : int(encoded.lens[n])], encoded.lens[n : n + 1])
        assert_found(spot(scorer, alone, [spellings[n]], config)[0], expected)


def emitting(*labels: int, probs: Sequence[float] = (), vocab_size: int = VOCAB) -> Encoded:
    """Frames whose labels have these probabilities, 0.9 if none are given, whatever was before; 0 is blank."""
    frames = torch.zeros(1, len(labels), vocab_size)
    for t, label in enumerate(labels):
        p = probs[t] if probs else 0.9
        frames[0, t] = math.log((1 - p) / (vocab_size - 1))
        frames[0, t, label] = math.log(p)
    return Encoded(frames, torch.tensor([len(labels)]))


def independent() -> ToyScorer:
    """A scorer that looks at the frames alone."""
    scorer = ToyScorer(VOCAB, 2)
    scorer.table_CVV = torch.zeros_like(scorer.table_CVV)
    return scorer


def events(encoded: Encoded, spellings: list[Spelling], **config: float) -> list[Found]:
    settings = dataclasses.replace(SpotterConfig(refractory_s=0.0), **config)  # type: ignore[arg-type]
    return spot(independent(), encoded, [spellings], settings)[0]


def test_a_suffix_is_judged_by_its_own_tokens() -> None:
    """The ecosystem's spotter would average the first two of the three."""
    encoded = emitting(1, 2, 3, 0, 0, 0, probs=[0.4, 0.5, 0.9, 0.9, 0.9, 0.9])
    longer, suffix = spelling((1, 2, 3, 4), 0), spelling((2, 3), 1, threshold=0.6)
    (match,) = events(encoded, [longer, suffix])
    assert match[:2] == (1, (1, 2)) and match[2] == pytest.approx(0.7, abs=1e-6) and match[3] == 4


def test_a_suffix_counts_if_the_longer_keyword_misses_its_threshold() -> None:
    encoded = emitting(1, 2, 3, 0, 0, 0, probs=[0.4, 0.9, 0.9, 0.9, 0.9, 0.9])
    whole, suffix = spelling((1, 2, 3), 0, threshold=0.8), spelling((2, 3), 1, threshold=0.8)
    assert [match[0] for match in events(encoded, [whole, suffix])] == [1]
    assert [match[0] for match in events(encoded, [spelling((1, 2, 3), 0, threshold=0.7), suffix])] == [0]


def test_a_path_that_is_not_the_best_is_judged() -> None:
    """After label 1 the frame says 2 rather than 3, so that the keyword is in the second path."""
    encoded = emitting(1, 2, 0, 0, 0, probs=[0.9, 0.55, 0.9, 0.9, 0.9])
    encoded.frames[0, 1, 3] = math.log(0.4)
    (match,) = events(encoded, [spelling((1, 3), boost=0.0, threshold=0.5)])
    assert match[2] == pytest.approx((0.9 + 0.4 / 1.2875) / 2, abs=1e-5)


def test_a_keyword_waits_while_a_better_path_goes_on_from_it() -> None:
    """The second path has label 1 alone; the best one is in the middle of 1 2 3."""
    encoded = emitting(1, 2, 0, 3, 0, 0, 0, probs=[0.9, 0.6, 0.9, 0.9, 0.9, 0.9, 0.9])
    encoded.frames[0, 1, 0] = math.log(0.35)
    short, long = spelling((1,), 0, boost=0.0), spelling((1, 2, 3), 1, boost=0.0)
    assert [match[0] for match in events(encoded, [short, long])] == [1]
    assert [match[0] for match in events(encoded, [short, spelling((4, 4), 1)])] == [0]


def test_blanks_must_follow_except_at_the_end() -> None:
    keyword = [spelling((1, 2))]
    assert [match[3] for match in events(emitting(1, 2, 0, 0, 0, 0), keyword)] == [3]
    assert [match[3] for match in events(emitting(1, 2, 0, 0, 0, 0), keyword, num_trailing_blanks=3)] == [5]
    assert [match[3] for match in events(emitting(1, 2), keyword)] == [1]
    assert events(emitting(1, 2, 0, 4, 4, 0, 0, 0), keyword, beam=1) == []


def test_refractory_time_counts_from_the_end_of_the_event() -> None:
    twice = emitting(1, 2, 0, 0, 0, 1, 2, 0, 0, 0)
    keyword = [spelling((1, 2))]
    assert len(events(twice, keyword)) == 2
    assert len(events(twice, keyword, refractory_s=0.2)) == 2
    assert len(events(twice, keyword, refractory_s=0.21)) == 1


def test_near_misses_are_told_once() -> None:
    encoded = emitting(1, 2, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0)
    keyword = [spelling((1, 2), threshold=0.95)]
    assert events(encoded, keyword) == []
    found = events(encoded, keyword, near=0.5)
    assert [(match[1], match[4]) for match in found] == [((0, 1), True), ((8, 9), True)]
    assert events(encoded, keyword, near=1.0) == []


def test_minutes_keep_precision_and_size() -> None:
    search = KeywordSearch(independent(), SpotterConfig())  # type: ignore[arg-type]
    state = search.start(KeywordTrie([spelling((1, 2))]))
    for _ in range(6):
        search.advance([state], emitting(*[3, 4, 0, 0] * 200))
    assert state.num_frames == 4_800 and len(state.paths) <= 4
    search.advance([state], emitting(1, 2, 0, 0, 0))
    (match,) = state.take()
    assert match.score == pytest.approx(0.9, abs=1e-5) and match.start_frame == 4_800


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "beam must be from 1 to"),
        ({"beam": 2000}, "beam must be from 1 to"),
        ({"num_trailing_blanks": -1}, "num_trailing_blanks must be from 0"),
        ({"refractory_s": -1.0}, "refractory_s must be finite"),
        ({"refractory_s": math.nan}, "refractory_s must be finite"),
        ({"near": 2.0}, "near must be a share of the threshold"),
        ({"max_symbols_per_frame": 0}, "max_symbols_per_frame must be from 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpotterConfig(**settings)  # type: ignore[arg-type]


def test_a_model_without_a_transducer_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a transducer head"):
        KeywordSearch(Heads(has_transducer=False), SpotterConfig())  # type: ignore[arg-type]
