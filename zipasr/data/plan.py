"""The order of training: `BatchPlan` returns the batches of an epoch by number; they depend only on (seed, epoch).

An epoch is a few arrays of 5 bytes per item (an utterance at one speed) and a few bytes per batch, so a run resumes at any
batch without reading those before it. Durations are in seconds.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from zipasr.data.batching import BatchConfig, Item
from zipasr.errors import DataError
from zipasr.randomness import stable_seed

_BLOCK = 65_536
"""Number of values that are converted to Python objects at a time."""


class MixedPart(NamedTuple):
    """Additional utterances, of which each epoch contains a random selection.

    Differs: not lhotse's `mux`, which takes cut after cut from its streams and must be replayed on resume; here the
    selection for an epoch has the required share of the hours.
    """

    durations_s: NDArray[np.float64]
    share: float
    """Upper bound on the share of these in the hours of an epoch; none is read twice to reach it."""
    copies_NS: NDArray[np.bool_] | None = None
    """See `BatchPlan`."""


class BatchPlan:
    """For each epoch a sequence of batches, each a tuple of items.

    Differs: lhotse's sampler fills buckets from a stream, of which it sees some ten thousand utterances at a time, draws
    the bucket of each step, and drops what is left in the buckets at the end of an epoch. Here the whole epoch is shuffled
    and nothing is dropped; buckets have equal durations too, so that each is as frequent. Its ranks take their batches from
    one bucket in a step; here they take the next ones of the plan, so that a step mixes lengths. Batches have about equal
    padded durations, so that ranks hardly wait for each other; no effect on error rates is expected.
    """

    def __init__(
        self,
        durations_s: Sequence[float] | NDArray[Any],
        config: BatchConfig,
        *,
        seed: int,
        mixed: Sequence[MixedPart] = (),
        copies_NS: NDArray[np.bool_] | None = None,
    ) -> None:
        """Create a plan; an epoch is planned on first use.

        Args:
            durations_s: durations of the utterances that each epoch contains once at each speed, numbered from 0.
            config: batches, speeds and concatenation.
            seed: seed of all draws.
            mixed: additional utterances, numbered after those of `durations_s`.
            copies_NS: (N, speeds) whether an epoch contains utterance n at speed s; None: every one at every speed.
        Raises:
            DataError: there are no utterances.
        """
        if len(durations_s) == 0:
            raise DataError("there must be at least one utterance to train on, but there is none; see rejected.jsonl")
        own = np.asarray(durations_s, dtype=np.float64)
        self.durations_s = np.concatenate([own, *(part.durations_s for part in mixed)]) if mixed else own
        """Durations of all utterances, including those of `mixed`."""
        self.config, self.seed = config, seed
        self._num_own, self._mixed = len(own), tuple(mixed)
        self._copies_NS = self._all_copies([(own, copies_NS), *((part.durations_s, part.copies_NS) for part in mixed)])
        self._last: tuple[int, EpochPlan] | None = None

    def epoch(self, epoch: int) -> "EpochPlan":
        """The batches of an epoch, counted from 0, in reading order. The last epoch is cached."""
        if self._last is None or self._last[0] != epoch:
            self._last = None  # free its arrays before others are made
            self._last = (epoch, self._plan(epoch))
        return self._last[1]

    def num_batches(self, epoch: int) -> int:
        """Number of batches in an epoch."""
        return len(self.epoch(epoch))

    def num_steps(self, epoch: int, world_size: int = 1) -> int:
        """Number of reads per process in an epoch with `world_size` processes; in the last, some may have no batch."""
        return -(-len(self.epoch(epoch)) // world_size)

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

    def _all_copies(self, parts: Sequence[tuple[NDArray[Any], NDArray[np.bool_] | None]]) -> NDArray[np.bool_] | None:
        """The copies of all parts, each given with its durations; None: all at every speed."""
        if all(copies_NS is None for _, copies_NS in parts):
            return None
        size = len(self.config.speed_factors)
        every = [np.ones((len(part), size), dtype=np.bool_) if copies is None else copies for part, copies in parts]
        return np.concatenate(every)

    def _at_speed(self, chosen: NDArray[Any] | None, speed: int) -> NDArray[Any] | None:
        """Those of the chosen utterances that an epoch contains at the speed of this number; None: all."""
        if self._copies_NS is None:
            return chosen
        used = self._copies_NS[:, speed]
        return np.flatnonzero(used) if chosen is None else chosen[used[chosen]]

    def _chosen(self, epoch: int) -> NDArray[Any] | None:
        """The utterances of an epoch; None: all."""
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
        """Every chosen utterance once at each of its speeds, alone or concatenated, in a random order for each speed."""
        parts = []
        for number, speed in enumerate(self.config.speed_factors):
            there = self._at_speed(chosen, number)
            queue = rng.permutation(len(self.durations_s) if there is None else len(there))[::-1]
            utterances = _whole_numbers(queue if there is None else there[queue], len(self.durations_s))
            durations_s = self.durations_s[utterances]
            lens = None
            if self.config.concat_prob > 0.0:
                durations_s, lens = self._concatenated(rng, durations_s)
            parts.append((utterances, durations_s / speed, lens))
        all_lens = [part[2] for part in parts if part[2] is not None]
        return _Items(
            utterances=np.concatenate([part[0] for part in parts]),
            lens=np.concatenate(all_lens) if all_lens else None,
            durations_s=np.concatenate([part[1] for part in parts]),
            num_of_speed=np.array([len(part[1]) for part in parts]),
        )

    def _concatenated(self, rng: np.random.Generator, queue_s: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Concatenate random neighbors in a queue of durations; returns each item's duration and number of utterances."""
        config, size = self.config, len(queue_s)
        durations_s, lens = np.empty(size), np.empty(size, np.int32)
        num_items = position = 0
        while position < size:
            total, first = queue_s[position], position
            position += 1
            if rng.random() < config.concat_prob:
                limit = rng.uniform(0.0, config.concat_max_s)
                while position < size and total + queue_s[position] <= limit:
                    total += queue_s[position]
                    position += 1
            durations_s[num_items], lens[num_items] = total, position - first
            num_items += 1
        return durations_s[:num_items].copy(), lens[:num_items].copy()

    def _buckets(self, durations_s: NDArray[np.float64]) -> tuple[NDArray[Any], list[int]]:
        """The items sorted by duration, and the edges of buckets of about equal total duration."""
        order = np.argsort(durations_s, kind="stable")
        order = _whole_numbers(order, len(order))
        buckets = durations_s[order]
        np.cumsum(buckets, out=buckets)
        total_s, num_buckets = buckets[-1], self.config.num_buckets
        buckets *= num_buckets
        buckets /= total_s
        first_of_each = np.searchsorted(buckets, np.arange(1, num_buckets))
        return order, sorted({0, len(order), *first_of_each.tolist()})


class _Items(NamedTuple):
    """The items of an epoch, grouped by speed."""

    utterances: NDArray[Any]
    """Utterances of the first item, then of the second, ..."""
    lens: NDArray[Any] | None
    """Number of utterances of each item; None: one each."""
    durations_s: NDArray[np.float64]
    """Duration of each item at its speed."""
    num_of_speed: NDArray[Any]
    """Number of items at each speed."""


class EpochPlan(Sequence[tuple[Item, ...]]):
    """The batches of an epoch, each built from the arrays on access."""

    def __init__(
        self,
        items: _Items,
        order: NDArray[Any],
        batch_starts: NDArray[Any],
        batch_order: NDArray[Any],
        speed_factors: tuple[float, ...],
    ) -> None:
        """Sort the items into batches.

        Args:
            items: items of the epoch.
            order: numbers of the items, grouped by batch.
            batch_starts: position in `order` of the first item of each batch, ascending.
            batch_order: numbers of the batches in reading order.
            speed_factors: speeds, in the order of `items.num_of_speed`.
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
        """The batch at a position in reading order."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number = self._batch_order[index]
        return tuple(self._item(i) for i in range(self._batch_starts[number], self._batch_starts[number + 1]))

    def _item(self, i: int) -> Item:
        starts = self._item_starts
        members = self._utterances[i : i + 1] if starts is None else self._utterances[starts[i] : starts[i + 1]]
        return Item(tuple(members.tolist()), self._speed_factors[self._speeds[i]])


def _batch_starts(durations_s: NDArray[np.float64], bucket: NDArray[Any], max_duration_s: float) -> NDArray[Any]:
    """Start of each batch in a bucket; a batch ends before its longest duration times its size exceeds the limit."""
    starts = []
    longest, size = 0.0, 0
    for position, duration_s in enumerate(_python_floats(durations_s, bucket)):
        if duration_s > longest:
            longest = duration_s
        size += 1
        if size == 1 or longest * size > max_duration_s:
            starts.append(position)
            longest, size = duration_s, 1
    return np.array(starts)


def _python_floats(values: NDArray[np.float64], places: NDArray[Any]) -> Iterator[float]:
    """Yield the values at `places` as Python floats, with which a loop is several times as fast."""
    for first in range(0, len(places), _BLOCK):
        yield from values[places[first : first + _BLOCK]].tolist()


def _whole_numbers(values: NDArray[Any], below: int) -> NDArray[Any]:
    """The values as int32 if all are below 2**31, else as int64."""
    return values.astype(np.int32 if below < 2**31 else np.int64)
