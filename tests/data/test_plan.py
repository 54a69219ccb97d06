"""The plan of an epoch. Reference: slow obvious code gives the same batches. Law: (seed, epoch) determine them, in little
memory."""

import random
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.tone_batches import CONFIG
from zipasr.data.batching import BatchConfig, Item
from zipasr.data.plan import BatchPlan, MixedPart
from zipasr.errors import DataError
from zipasr.randomness import stable_seed


def slow_epoch(
    durations_s: list[float], config: BatchConfig, seed: int, epoch: int, copies: np.ndarray | None = None
) -> list[tuple[Item, ...]]:
    """The batches of an epoch, computed with an object for every item, as the first measured runs drew them."""
    rng = np.random.default_rng(stable_seed(seed, epoch))
    items = []
    for number, speed in enumerate(config.speed_factors):
        there = [i for i in range(len(durations_s)) if copies is None or copies[i, number]]
        queue = [there[i] for i in rng.permutation(len(there))]
        while queue:
            joined = [queue.pop()]
            if config.concat_prob > 0.0 and rng.random() < config.concat_prob:
                limit = rng.uniform(0.0, config.concat_max_s)
                while queue and sum(durations_s[i] for i in [*joined, queue[-1]]) <= limit:
                    joined.append(queue.pop())
            items.append(Item(tuple(joined), speed))
    lengths = [sum(durations_s[i] for i in item.utterances) / item.speed for item in items]
    buckets: dict[int, list[int]] = {}
    shortest_first = sorted(range(len(items)), key=lengths.__getitem__)
    totals = np.cumsum([lengths[i] for i in shortest_first])
    for i, total in zip(shortest_first, totals, strict=True):
        buckets.setdefault(min(int(total * config.num_buckets / totals[-1]), config.num_buckets - 1), []).append(i)
    batches: list[list[int]] = []
    for bucket in buckets.values():
        batches.append([])
        for i in rng.permutation(bucket):
            if batches[-1] and max(lengths[j] for j in [*batches[-1], i]) * (len(batches[-1]) + 1) > config.max_duration_s:
                batches.append([])
            batches[-1].append(i)
    return [tuple(items[i] for i in batches[number]) for number in rng.permutation(len(batches))]


@settings(deadline=None, max_examples=100)
@given(
    durations=st.lists(st.floats(0.2, 12.0) | st.sampled_from([1.0, 1.1, 2.5]), min_size=1, max_size=40),
    seed=st.integers(0, 3),
    max_duration_s=st.floats(1.0, 30.0),
    num_buckets=st.integers(1, 50),
    concat_prob=st.sampled_from([0.0, 0.5, 1.0]),
    speed_factors=st.sampled_from([(1.0,), (0.9, 1.0, 1.1)]),
)
def test_equals_the_slow_plan(
    durations: list[float],
    seed: int,
    max_duration_s: float,
    num_buckets: int,
    concat_prob: float,
    speed_factors: tuple[float, ...],
) -> None:
    config = BatchConfig(
        max_duration_s=max_duration_s, num_buckets=num_buckets, concat_prob=concat_prob, speed_factors=speed_factors
    )
    plan, expected = BatchPlan(durations, config, seed=seed), slow_epoch(durations, config, seed, 2)
    assert list(plan.epoch(2)) == expected
    assert plan.num_batches(2) == len(expected)
    assert plan.epoch(2)[len(expected) // 2] == expected[len(expected) // 2]
    assert plan.epoch(2)[-2:] == expected[-2:]
    assert [plan.num_steps(2, size) for size in (1, 3)] == [len(expected), -(-len(expected) // 3)]


@settings(deadline=None, max_examples=30)
@given(
    durations=st.lists(st.floats(0.2, 12.0), min_size=1, max_size=30),
    seed=st.integers(0, 3),
    concat_prob=st.sampled_from([0.0, 0.5]),
    is_whole=st.booleans(),
)
def test_epoch_has_only_the_copies_that_are_used(
    durations: list[float], seed: int, concat_prob: float, is_whole: bool
) -> None:
    config = BatchConfig(max_duration_s=20.0, num_buckets=3, concat_prob=concat_prob)
    copies = np.random.default_rng(seed).random((len(durations), 3)) < 0.7
    copies[0] = True
    copies |= is_whole
    plan = BatchPlan(durations, config, seed=seed, copies_NS=copies)
    batches = list(plan.epoch(1))
    assert batches == slow_epoch(durations, config, seed, 1, copies)
    read = Counter((i, item.speed) for batch in batches for item in batch for i in item.utterances)
    used = {(i, speed) for i in range(len(durations)) for s, speed in enumerate(config.speed_factors) if copies[i, s]}
    assert read == Counter(used)
    if is_whole:
        assert batches == list(BatchPlan(durations, config, seed=seed).epoch(1))


@settings(deadline=None, max_examples=50)
@given(
    durations=st.lists(st.floats(0.2, 12.0), min_size=1, max_size=30),
    seed=st.integers(0, 3),
    max_duration_s=st.floats(3.0, 30.0),
    num_buckets=st.integers(1, 8),
    concat_prob=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_epoch_holds_everything_once_per_speed_within_limits(
    durations: list[float], seed: int, max_duration_s: float, num_buckets: int, concat_prob: float
) -> None:
    config = BatchConfig(max_duration_s=max_duration_s, num_buckets=num_buckets, concat_prob=concat_prob, concat_max_s=10.0)
    plan = BatchPlan(durations, config, seed=seed)
    batches = plan.epoch(0)
    read = Counter((i, item.speed) for batch in batches for item in batch for i in item.utterances)
    assert read == Counter((i, speed) for i in range(len(durations)) for speed in (0.9, 1.0, 1.1))
    for batch in batches:
        longest_s = max(sum(durations[i] for i in item.utterances) / item.speed for item in batch)
        assert len(batch) == 1 or longest_s * len(batch) <= max_duration_s
        for item in batch:
            joined_s = sum(durations[i] for i in item.utterances)
            assert len(item.utterances) == 1 or joined_s <= 10.0


def test_plan_follows_from_seed_and_epoch() -> None:
    durations = np.random.default_rng(0).uniform(0.5, 5.0, 50)
    plan = BatchPlan(durations, CONFIG, seed=7)
    first = list(plan.epoch(3))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    plan.epoch(0)
    assert list(plan.epoch(3)) == first
    assert list(BatchPlan(durations, CONFIG, seed=7).epoch(3)) == first
    assert list(plan.epoch(4)) != first
    assert list(BatchPlan(durations, CONFIG, seed=8).epoch(3)) != first


def test_buckets_put_similar_lengths_together() -> None:
    durations = np.random.default_rng(0).uniform(0.5, 15.0, 400)
    padding = {}
    for num_buckets in (1, 20):
        plan = BatchPlan(durations, BatchConfig(max_duration_s=100.0, num_buckets=num_buckets), seed=0)
        lengths = [[durations[item.utterances[0]] / item.speed for item in batch] for batch in plan.epoch(0)]
        padding[num_buckets] = 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)
    assert padding[20] < 0.1 < 0.3 < padding[1]


def test_nothing_to_plan() -> None:
    with pytest.raises(DataError, match="at least one utterance"):
        BatchPlan([], CONFIG, seed=0)


def test_batch_that_is_not_there() -> None:
    plan = BatchPlan([1.0, 2.0], CONFIG, seed=0)
    with pytest.raises(IndexError):
        plan.epoch(0)[plan.num_batches(0)]


@pytest.mark.parametrize("concat_prob", [0.0, 0.5])
def test_an_epoch_is_small_arrays(concat_prob: float) -> None:
    """A plan keeps at most 16 bytes more for each item, also after some of its batches were read."""
    kept, peaks = [], []
    sizes = (8_000, 24_000)
    for size in sizes:
        durations = np.random.default_rng(0).uniform(0.5, 15.0, size)
        plan = BatchPlan(durations, BatchConfig(max_duration_s=100.0, concat_prob=concat_prob), seed=0)
        plan.epoch(0)  # here numpy and Python take the memory that they keep for themselves
        plan._last = None
        tracemalloc.start()
        for index in range(0, plan.num_batches(1), 100):
            plan.epoch(1)[index]
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        kept.append(now)
        peaks.append(peak)
    num_items = 3 * (sizes[1] - sizes[0])
    assert (kept[1] - kept[0]) / num_items < 16
    is_reusing = sys.version_info < (3, 14)  # NumPy reuses a temporary array there
    assert (peaks[1] - peaks[0]) / num_items < (64 if is_reusing else 72)


# Data that is mixed in


MIXED_CONFIG = BatchConfig(max_duration_s=30.0, num_buckets=3)


def utterances_of(plan: BatchPlan, epoch: int) -> Counter[int]:
    return Counter(i for batch in plan.epoch(epoch) for item in batch for i in item.utterances)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_mixed_hours_are_the_share(share: float) -> None:
    rng = np.random.default_rng(0)
    own, old = rng.uniform(1, 5, 100), rng.uniform(1, 9, 3000)
    plan = BatchPlan(own, MIXED_CONFIG, seed=3, mixed=[MixedPart(old, share)])
    found = [utterances_of(plan, epoch) for epoch in range(3)]
    for counts in found:
        assert set(counts.values()) == {3}  # once at each speed
        assert set(range(100)) <= counts.keys()
        old_s = sum(plan.durations_s[i] for i in counts if i >= 100)
        assert share * (own.sum() + old_s) >= old_s - 9
        assert share - 9 / own.sum() < old_s / (own.sum() + old_s) <= share
    assert found[0] != found[1] != found[2]
    assert list(BatchPlan(own, MIXED_CONFIG, seed=3, mixed=[MixedPart(old, share)]).epoch(1)) == list(plan.epoch(1))


def test_mixed_parts_are_independent_and_never_read_twice() -> None:
    own = np.full(10, 2.0)
    none_slow = np.array([[False, True, True]] * 100)
    unslow = BatchPlan(own, MIXED_CONFIG, seed=3, mixed=[MixedPart(np.full(100, 1.0), 0.5, none_slow)]).epoch(0)
    speeds = [(item.speed, i >= len(own)) for batch in unslow for item in batch for i in item.utterances]
    assert (0.9, True) not in speeds and {(0.9, False), (1.0, True), (1.1, True)} <= set(speeds)
    parts = [MixedPart(np.full(5, 2.0), 0.5), MixedPart(np.full(100, 1.0), 0.25)]
    plan = BatchPlan(own, MIXED_CONFIG, seed=3, mixed=parts)
    counts = utterances_of(plan, 0)
    assert set(range(15)) <= counts.keys()  # the small part is smaller than its share, and is read once
    assert sum(i >= 15 for i in counts) == 20  # a quarter of the 80 s to which the shares extend the 20 s
    assert len({frozenset(utterances_of(plan, epoch)) for epoch in range(4)}) == 4


def test_nothing_mixed_in_changes_nothing() -> None:
    own = np.random.default_rng(0).uniform(1, 5, 50)
    assert list(BatchPlan(own, MIXED_CONFIG, seed=3, mixed=[]).epoch(0)) == list(
        BatchPlan(own, MIXED_CONFIG, seed=3).epoch(0)
    )
