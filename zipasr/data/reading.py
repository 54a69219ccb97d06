"""The batches of a run from any position, prefetched by worker processes: plan and reader in, `PlacedBatch` out.

If several processes train together, they receive batches s * world_size, s * world_size + 1, ... in step s of an epoch, or
those that they choose.
"""

import logging
import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from zipasr.data.batching import Batch, BatchReader, ReadBatch
from zipasr.data.plan import BatchPlan
from zipasr.errors import DataError

_MIN_FOR_SHARE = 1000
"""Utterances to read before the share of unreadable ones is meaningful."""
logger = logging.getLogger(__name__)


class PlacedBatch(NamedTuple):
    """A batch and its position in the run."""

    epoch: int
    batch_index: int
    """Position in the epoch, from 0; with several processes, that of the step in which each has a batch."""
    is_last: bool
    """Whether it ends its epoch."""
    batch: Batch | None
    """None if nothing in it can be read, or if the last step of the epoch has no batch for this process."""


class _PlacedReader(Dataset[Any]):
    """Reads a requested batch and returns it with its position in the run.

    Errors are returned, not raised: raised in a worker, they would arrive as the text of a traceback.
    """

    def __init__(self, reader: BatchReader) -> None:
        self.reader = reader

    def __getitem__(self, request: Any) -> tuple[Any, ReadBatch | DataError]:
        position, key = request
        try:
            return position, self.reader.read(key)
        except DataError as error:
            return position, error


def _requests(
    plan: BatchPlan, start: tuple[int, int], num_epochs: int, *, rank: int, world_size: int
) -> Iterator[tuple[Any, Any]]:
    """Yield from a step to the end of the last epoch: the first fields of `PlacedBatch`, and a key of `BatchReader`."""
    for epoch in range(start[0], num_epochs):
        num_batches, num_steps = plan.num_batches(epoch), plan.num_steps(epoch, world_size)
        for index in range(start[1] if epoch == start[0] else 0, num_steps):
            number = index * world_size + rank
            items = plan.epoch(epoch)[number] if number < num_batches else ()
            yield (epoch, index, index == num_steps - 1), (epoch, number, items)


class _UnreadableCounter:
    """Counts the utterances that cannot be read, and raises when there are too many."""

    def __init__(self, num_utterances: int, max_share: float) -> None:
        self.num_utterances, self.max_share = num_utterances, max_share
        self.num_read = 0
        self.skipped: set[int] = set()

    def count(self, read: ReadBatch) -> None:
        """Count a batch.

        Raises:
            DataError: the share of unreadable utterances exceeds the limit; one utterance per run is tolerated.
        """
        self.num_read = min(self.num_read + read.num_planned, self.num_utterances)
        for utterance, reason in read.unreadable:
            if utterance in self.skipped:
                continue
            self.skipped.add(utterance)
            limit = self.max_share * max(self.num_read, min(_MIN_FOR_SHARE, self.num_utterances))
            if self.max_share == 0.0 or len(self.skipped) > max(limit, 1.0):
                raise DataError(
                    f"{reason}. {len(self.skipped)} of {self.num_read} utterances read so far are unreadable, but the limit "
                    f"is a share of {self.max_share:g}; to accept more, raise batch.max_unreadable_share"
                )
            logger.warning("skipped %d of %d utterances: %s", len(self.skipped), self.num_utterances, reason)


def read_batches(
    plan: BatchPlan,
    reader: BatchReader,
    *,
    start: tuple[int, int] = (0, 0),
    num_epochs: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[PlacedBatch]:
    """Yield the batches of a run from a position on. An utterance whose audio cannot be read is dropped from its batch.

    Args:
        plan: what to read.
        reader: how to read it.
        start: first epoch, and first step in it, both from 0.
        num_epochs: number of epochs of the whole run.
        num_workers: number of worker processes; 0 reads in this one.
        rank: rank of this process among those that train together.
        world_size: number of those processes; all receive equally many batches, some of them None at the end of an epoch.
        pin_memory: return batches in pinned memory, which a CUDA device can copy asynchronously.
    Raises:
        ValueError: `rank` is not in [0, world_size).
        DataError: too many utterances cannot be read, or a worker died.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1, but is {rank} of {world_size}")
    requests = _requests(plan, start, num_epochs, rank=rank, world_size=world_size)
    for (epoch, index, is_last), batch in _read(plan, reader, requests, num_workers=num_workers, pin_memory=pin_memory):
        yield PlacedBatch(epoch, index, is_last, batch)


def read_chosen(
    plan: BatchPlan, reader: BatchReader, places: Iterable[tuple[int, int]], *, num_workers: int
) -> Iterator[Batch | None]:
    """Yield the batches at some places, which are an epoch and an index in it; None is one in which nothing can be read.

    Raises:
        DataError: too many utterances cannot be read, or a worker died.
    """
    requests = ((None, (epoch, index, plan.epoch(epoch)[index])) for epoch, index in places)
    for _, batch in _read(plan, reader, requests, num_workers=num_workers):
        yield batch


def _read(
    plan: BatchPlan,
    reader: BatchReader,
    requests: Iterable[tuple[Any, Any]],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[tuple[Any, Batch | None]]:
    """Yield the batch of each request, with the position in it."""
    unreadable = _UnreadableCounter(len(plan.durations_s), reader.config.max_unreadable_share)
    loader: DataLoader[Any] = DataLoader(
        _PlacedReader(reader),
        batch_size=None,
        sampler=requests,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_leave_interrupts_to_main,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # drawing from the global one would make a resumed run differ
    )
    batches = iter(loader)
    while True:
        try:
            position, read = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads data died ({error}), probably because memory or shared memory ran out; "
                "lower num_workers or batch.cache_mb, then run the same command again"
            ) from error
        if isinstance(read, DataError):
            raise read
        unreadable.count(read)
        yield position, read.batch


def _unchanged(batch: Any) -> Any:
    """Collate function that stops torch from converting the fields of a batch."""
    return batch


def _leave_interrupts_to_main(worker: int) -> None:
    """Ignore SIGINT and SIGTERM, which all processes of a terminal or job receive: workers live until the trainer saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
