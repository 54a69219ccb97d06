"""Which utterances are read when: `BatchPlan` gives the batches of an epoch by number, from (seed, epoch) alone.

An epoch is a few arrays, 5 bytes for each item (an utterance at one speed) and some for each batch, whatever the cuts hold:
a run resumes at any batch without going through those before it. Durations are in seconds.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from zipasr.data.batching import BatchConfig, Item, stable_seed
from zipasr.errors import DataError

_BLOCK = 65_536
"""So many numbers at a time become Python objects."""


class MixedPart(NamedTuple):
    """Utterances of which each epoch holds some, drawn at random, beside all of the others.

    Differs: not lhotse's `mux`, which takes cut after cut from its streams and so must be replayed on resume; a share of the
    hours is kept here by what an epoch draws.
    """

    durations_s: NDArray[np.float64]
    share: float
    """Hours of these in an epoch over its hours in all, at most: nothing is read twice for it."""


class BatchPlan:
    """What is read when: for each epoch a sequence of batches, each a tuple of items."""

    def __init__(
        self, durations_s: Sequence[float] | NDArray[Any], config: BatchConfig, *, seed: int, mixed: Sequence[MixedPart] = ()
    ) -> None:
        """Prepare to plan.

        Args:
            durations_s: of the utterances that each epoch holds once at each speed, numbered from 0.
            config: batches, speeds and joining.
            seed: of everything drawn.
            mixed: further utterances; numbers go on with theirs.
        Raises:
            DataError: there are no utterances.
        """
        if len(durations_s) == 0:
            raise DataError("there must be at least one utterance to train on, but there is none; see rejected.jsonl")
        own = np.asarray(durations_s, dtype=np.float64)
        self.durations_s = np.concatenate([own, *(part.durations_s for part in mixed)]) if mixed else own
        """Of every utterance, those to be drawn from included."""
        self.config, self.seed = config, seed
        self._num_own, self._mixed = len(own), tuple(mixed)
        self._last: tuple[int, EpochPlan] | None = None

    def epoch(self, epoch: int) -> "EpochPlan":
        """The batches of an epoch, counted from 0, in the order of reading. The epoch asked for last is kept."""
        if self._last is None or self._last[0] != epoch:
            self._last = None  # free its arrays before others are made
            self._last = (epoch, self._plan(epoch))
        return self._last[1]

    def num_batches(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return len(self.epoch(epoch))

    def num_steps(self, epoch: int, world_size: int = 1) -> int:
        """How often each of `world_size` processes reads in an epoch; in the last step some may have no batch."""
        return -(-len(self.epoch(epoch)) // world_size)

    def batch(self, epoch: int, index: int) -> tuple[Item, ...]:
        """The batch at a place of an epoch, both from 0."""
        return self.epoch(epoch)[index]

    def item_duration_s(self, item: Item) -> float:
        """Seconds of an item as it is read."""
        return float(sum(self.durations_s[i] for i in item.utterances) / item.speed)

    def _plan(self, epoch: int) -> "EpochPlan":
        rng = np.random.default_rng(stable_seed(self.seed, epoch))
        items = self._items(rng, self._chosen(epoch))
        order, edges = self._buckets(items.durations_s)
        starts: list[NDArray[Any]] = []
        for first, last in pairwise(edges):
            bucket = rng.permutation(order[first:last])
            order[first:last] = bucket
            starts.append(first + _batch_starts(items.durations_s, bucket, self.config.max_duration_s))
        batch_starts = np.concatenate(starts)
        return EpochPlan(items, order, batch_starts, rng.permutation(len(batch_starts)), self.config.speed_factors)

    def _chosen(self, epoch: int) -> NDArray[Any] | None:
        """The utterances of an epoch; None: all there are."""
        if not self._mixed:
            return None
        own_s = float(self.durations_s[: self._num_own].sum())
        epoch_s = own_s / (1.0 - sum(part.share for part in self._mixed))
        chosen, first = [np.arange(self._num_own)], self._num_own
        for number, part in enumerate(self._mixed):
            order = np.random.default_rng(stable_seed(self.seed, epoch, -1 - number)).permutation(len(part.durations_s))
            num_drawn = int(np.searchsorted(part.durations_s[order].cumsum(), part.share * epoch_s, side="right"))
            chosen.append(first + np.sort(order[:num_drawn]))
            first += len(part.durations_s)
        return np.concatenate(chosen)

    def _items(self, rng: np.random.Generator, chosen: NDArray[Any] | None) -> "_Items":
        """Every chosen utterance once at each speed, alone or joined to others, in a random order for each speed."""
        size = len(self.durations_s) if chosen is None else len(chosen)
        parts = []
        for speed in self.config.speed_factors:
            queue = rng.permutation(size)[::-1]
            utterances = _whole_numbers(queue if chosen is None else chosen[queue], len(self.durations_s))
            durations_s = self.durations_s[utterances]
            lens = None
            if self.config.concat_prob > 0.0:
                durations_s, lens = self._joined(rng, durations_s)
            parts.append((utterances, durations_s / speed, lens))
        all_lens = [part[2] for part in parts if part[2] is not None]
        return _Items(
            utterances=np.concatenate([part[0] for part in parts]),
            lens=np.concatenate(all_lens) if all_lens else None,
            durations_s=np.concatenate([part[1] for part in parts]),
            num_of_speed=np.array([len(part[1]) for part in parts]),
        )

    def _joined(self, rng: np.random.Generator, queue_s: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Join neighbours in a queue of durations as chance has it; the duration of each item and its number of members."""
        config, size = self.config, len(queue_s)
        durations_s, lens = np.empty(size), np.empty(size, np.int32)
        num_items = place = 0
        while place < size:
            total, first = queue_s[place], place
            place += 1
            if rng.random() < config.concat_prob:
                limit = rng.uniform(0.0, config.concat_max_s)
                while place < size and total + queue_s[place] <= limit:
                    total += queue_s[place]
                    place += 1
            durations_s[num_items], lens[num_items] = total, place - first
            num_items += 1
        return durations_s[:num_items].copy(), lens[:num_items].copy()

    def _buckets(self, durations_s: NDArray[np.float64]) -> tuple[NDArray[Any], list[int]]:
        """The items sorted by duration, and where to cut them into buckets of about equal total duration."""
        order = np.argsort(durations_s, kind="stable")
        order = _whole_numbers(order, len(order))
        total_s = durations_s[order]
        np.cumsum(total_s, out=total_s)
        size, number = len(order), self.config.num_buckets

        def first_of(bucket: int) -> int:
            low, high = 0, size
            while low < high:
                middle = (low + high) // 2
                if int(total_s[middle] * number / total_s[-1]) >= bucket:
                    high = middle
                else:
                    low = middle + 1
            return low

        return order, sorted({0, size, *(first_of(bucket) for bucket in range(1, number))})


class _Items(NamedTuple):
    """The items of an epoch, speed after speed."""

    utterances: NDArray[Any]
    """Members of the first item, then of the second, ..."""
    lens: NDArray[Any] | None
    """Members of each item; None: one each."""
    durations_s: NDArray[np.float64]
    """As each item is read."""
    num_of_speed: NDArray[Any]
    """Items at each speed."""


class EpochPlan(Sequence[tuple[Item, ...]]):
    """The batches of an epoch; each is made of the arrays when it is asked for."""

    def __init__(
        self,
        items: _Items,
        order: NDArray[Any],
        batch_starts: NDArray[Any],
        batch_order: NDArray[Any],
        speed_factors: tuple[float, ...],
    ) -> None:
        """Put the items in the order of their batches.

        Args:
            items: of the epoch.
            order: numbers of the items, batch after batch.
            batch_starts: place in `order` of the first item of each batch; rising.
            batch_order: number of the batch that is read first, of the one read second, ...
            speed_factors: what `num_of_speed` counts.
        """
        self._speeds = np.searchsorted(items.num_of_speed.cumsum(), order, side="right").astype(np.uint8)
        self._speed_factors = speed_factors
        self._item_starts: NDArray[Any] | None = None
        if items.lens is None:
            self._utterances = items.utterances[order]
        else:
            lens = items.lens[order].astype(np.int64)
            starts = np.concatenate([[0], lens.cumsum()])
            before = np.concatenate([[0], items.lens.astype(np.int64).cumsum()])
            self._utterances = items.utterances[np.repeat(before[order] - starts[:-1], lens) + np.arange(starts[-1])]
            self._item_starts = _whole_numbers(starts, int(starts[-1]))
        self._batch_starts = _whole_numbers(np.append(batch_starts, len(order)), len(order))
        self._batch_order = _whole_numbers(batch_order, len(batch_order))

    def __len__(self) -> int:
        return len(self._batch_order)

    @overload
    def __getitem__(self, index: int) -> tuple[Item, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[Item, ...]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        """The batch at a place in the order of reading."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number = self._batch_order[index]
        return tuple(self._item(i) for i in range(self._batch_starts[number], self._batch_starts[number + 1]))

    def _item(self, i: int) -> Item:
        starts = self._item_starts
        members = self._utterances[i : i + 1] if starts is None else self._utterances[starts[i] : starts[i + 1]]
        return Item(tuple(members.tolist()), self._speed_factors[self._speeds[i]])


def _batch_starts(durations_s: NDArray[np.float64], bucket: NDArray[Any], max_duration_s: float) -> NDArray[Any]:
    """Where batches begin among the items of a bucket: each takes what comes until its longest times its number exceeds."""
    starts = []
    longest, size = 0.0, 0
    for place, duration_s in enumerate(_python_floats(durations_s, bucket)):
        if duration_s > longest:
            longest = duration_s
        size += 1
        if size == 1 or longest * size > max_duration_s:
            starts.append(place)
            longest, size = duration_s, 1
    return np.array(starts)


def _python_floats(values: NDArray[np.float64], places: NDArray[Any]) -> Iterator[float]:
    """The values at these places, as Python's own numbers, with which a loop is several times as fast."""
    for first in range(0, len(places), _BLOCK):
        yield from values[places[first : first + _BLOCK]].tolist()


def _whole_numbers(values: NDArray[Any], below: int) -> NDArray[Any]:
    """The numbers in 4 bytes each if they fit."""
    return values.astype(np.int32 if below < 2**31 else np.int64)
