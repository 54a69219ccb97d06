"""Where the encoder's states of streams are: in batches, as the steps left them, so that nothing is copied between two steps
of the same streams.

A `Slot` is the place of one stream, a row of a batch. Streams that step together again in any order use their batch as it
is; where others join or leave, the rows of a step are copied into a new batch, and no state is split off. The batches hold
at most twice the memory of the streams: rows of paused streams are moved out of batches that the others have left.
"""

import threading
import weakref
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class BatchedState(Protocol):
    """State of N streams: `StreamState` or `OnnxStreamState`."""

    @property
    def batch_size(self) -> int:
        """Number of streams N."""

    @staticmethod
    def select(parts: Sequence[tuple["State", slice]]) -> "State":
        """The rows of several states in one new batch, copied."""


State = TypeVar("State", bound=BatchedState)


class _Batch(Generic[State]):
    """A state, and the slots of its rows, in order; those that have moved on or are gone do not count."""

    def __init__(self, state: State, slots: Sequence["Slot[State]"]) -> None:
        self.state = state
        self._slots = [weakref.ref(slot) for slot in slots]

    def live(self) -> list["Slot[State]"]:
        """The slots whose streams still have their state here."""
        slots = (reference() for reference in self._slots)
        return [slot for slot in slots if slot is not None and slot.place[0] is self]


class Slot(Generic[State]):
    """The place of a stream's state."""

    __slots__ = ("__weakref__", "place")

    def __init__(self, state: State) -> None:
        """Start with a state of one stream."""
        self.place: tuple[_Batch[State], int] = (_Batch(state, [self]), 0)
        """The batch and the row: one value, which another thread may replace."""

    @property
    def state(self) -> State:
        """A copy of the state."""
        return _selected([self.place])


class Slots(Generic[State]):
    """The batches that the streams of a recognizer share. Threads may use it at once for different streams."""

    def __init__(self) -> None:
        self._batches: weakref.WeakSet[_Batch[State]] = weakref.WeakSet()
        """Those of several streams."""
        self._lock = threading.Lock()

    def in_order(self, slots: Sequence[Slot[State]]) -> list[int]:
        """The order in which streams step with the fewest copies, as positions in `slots`."""
        places = [slot.place for slot in slots]
        firsts: dict[_Batch[State], int] = {}
        for n, (batch, _) in enumerate(places):
            firsts.setdefault(batch, n)
        return sorted(range(len(slots)), key=lambda n: (firsts[places[n][0]], places[n][1]))

    def gather(self, slots: Sequence[Slot[State]]) -> State:
        """The state of a step of streams; it must not be changed."""
        places = [slot.place for slot in slots]
        batch = places[0][0]
        if places == [(batch, row) for row in range(batch.state.batch_size)]:
            return batch.state
        return _selected(places)

    def put(self, slots: Sequence[Slot[State]], state: State) -> None:
        """Keep the state after a step of streams."""
        with self._lock:
            self._place(slots, state)
            found = [(batch, batch.live()) for batch in self._batches]
            if sum(batch.state.batch_size for batch, _ in found) > 2 * sum(len(live) for _, live in found):
                for batch, live in found:
                    if live and 2 * len(live) < batch.state.batch_size:
                        self._place(live, _selected([slot.place for slot in live]))

    def _place(self, slots: Sequence[Slot[State]], state: State) -> None:
        batch = _Batch(state, slots)
        for row, slot in enumerate(slots):
            slot.place = batch, row
        if len(slots) > 1:
            self._batches.add(batch)


def _selected(places: Sequence[tuple[_Batch[State], int]]) -> State:
    """The rows at some places in one new batch, copied in slices that are as long as possible."""
    parts: list[tuple[State, slice]] = []
    before: tuple[_Batch[State], int] | None = None
    for batch, row in places:
        if before == (batch, row - 1):
            parts[-1] = batch.state, slice(parts[-1][1].start, row + 1)
        else:
            parts.append((batch.state, slice(row, row + 1)))
        before = batch, row
    return parts[0][0].select(parts)
