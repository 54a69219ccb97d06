"""Batches of a run, read ahead by other processes, from any place of the run on: plan and reader in, `PlacedBatch` out.

Where several processes train together, step s of an epoch gives the batches s * world_size, s * world_size + 1, ... to them.
"""

import logging
import signal
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from zipasr.data.batching import Batch, BatchReader, ReadBatch
from zipasr.data.plan import BatchPlan
from zipasr.errors import DataError

_SURE_AFTER = 1000
"""Utterances to have been read before a share of them means something."""
logger = logging.getLogger(__name__)


class PlacedBatch(NamedTuple):
    """A batch and where in the run it stands."""

    epoch: int
    batch_index: int
    """Position in the epoch, from 0: the number of the step, where several processes each have a batch in it."""
    is_last: bool
    """Whether it ends its epoch."""
    batch: Batch | None
    """None if nothing in it can be read, or if in the last step of the epoch none is left for this process."""


class _Place(NamedTuple):
    """What was asked for and not yet taken."""

    epoch: int
    batch_index: int
    is_last: bool
    num_utterances: int


class _Position(torch.utils.data.Sampler[Any]):
    """Yields (epoch, number of the batch, items) from a given step to the end of the last epoch; notes the place of each."""

    def __init__(
        self, plan: BatchPlan, *, epoch: int, index: int, num_epochs: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.plan, self.start, self.num_epochs = plan, (epoch, index), num_epochs
        self.rank, self.world_size = rank, world_size
        self.places: deque[_Place] = deque()

    def __iter__(self) -> Iterator[Any]:
        first_epoch, first_index = self.start
        for epoch in range(first_epoch, self.num_epochs):
            num_batches, num_steps = self.plan.num_batches(epoch), self.plan.num_steps(epoch, self.world_size)
            for index in range(first_index if epoch == first_epoch else 0, num_steps):
                number = index * self.world_size + self.rank
                items = self.plan.batch(epoch, number) if number < num_batches else ()
                num_utterances = sum(len(item.utterances) for item in items)
                self.places.append(_Place(epoch, index, index == num_steps - 1, num_utterances))
                yield epoch, number, items


class _Messenger(Dataset["ReadBatch | DataError"]):
    """A reader that gives its errors back: raised in another process, they would arrive as the text of a traceback."""

    def __init__(self, reader: BatchReader) -> None:
        self.reader = reader

    def __getitem__(self, key: Any) -> ReadBatch | DataError:
        try:
            return self.reader.read(key)
        except DataError as error:
            return error


class _Losses:
    """Counts the utterances that cannot be read, and says when they are too many."""

    def __init__(self, num_utterances: int, max_share: float) -> None:
        self.num_utterances, self.max_share = num_utterances, max_share
        self.num_read = 0
        self.lost: set[int] = set()

    def count(self, read: ReadBatch, num_utterances: int) -> None:
        """Take note of a batch of so many utterances.

        Raises:
            DataError: more than the share of what was read so far cannot be read; one in a run may.
        """
        self.num_read = min(self.num_read + num_utterances, self.num_utterances)
        for utterance, reason in read.unreadable:
            if utterance in self.lost:
                continue
            self.lost.add(utterance)
            limit = self.max_share * max(self.num_read, min(_SURE_AFTER, self.num_utterances))
            if self.max_share == 0.0 or len(self.lost) > max(limit, 1.0):
                raise DataError(
                    f"{reason} It is utterance number {len(self.lost)} of {self.num_read} read that had to be left out, "
                    f"and at most a share of {self.max_share:g} may be; or raise batch.max_unreadable_share"
                )
            logger.warning("left out %d of %d utterances: %s", len(self.lost), self.num_utterances, reason)


def read_batches(
    plan: BatchPlan,
    reader: BatchReader,
    *,
    epoch: int,
    index: int,
    num_epochs: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[PlacedBatch]:
    """Read the batches of a run from a position on. An utterance whose sound cannot be read is left out of its batch.

    Args:
        plan: what to read.
        reader: how to read it.
        epoch: first epoch, from 0.
        index: first step in it, from 0.
        num_epochs: epochs of the whole run.
        num_workers: processes that read ahead; 0 reads in this one.
        rank: of this process among those that train together.
        world_size: how many those are; all get as many batches, and None where there are not enough.
        pin_memory: give batches in memory from which a CUDA device copies while the host goes on.
    Raises:
        ValueError: there is no such rank.
        DataError: too many utterances cannot be read, or a process that reads ahead died.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1, but is {rank} of {world_size}")
    position = _Position(plan, epoch=epoch, index=index, num_epochs=num_epochs, rank=rank, world_size=world_size)
    losses = _Losses(len(plan.durations_s), reader.config.max_unreadable_share)
    loader: DataLoader[ReadBatch | DataError] = DataLoader(
        _Messenger(reader),
        batch_size=None,
        sampler=position,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_leave_interrupts_to_main,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the global one would be drawn from here: a resumed run would go another way
    )
    batches = iter(loader)
    while True:
        try:
            read = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads data died ({error}), most likely for lack of memory or shared memory; "
                "lower num_workers or batch.cache_mb, then run the same command again"
            ) from error
        if isinstance(read, DataError):
            raise read
        place = position.places.popleft()
        losses.count(read, place.num_utterances)
        yield PlacedBatch(place.epoch, place.batch_index, place.is_last, read.batch)


def _unchanged(batch: Any) -> Any:
    """Keep torch from converting the fields of a batch."""
    return batch


def _leave_interrupts_to_main(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, SIGTERM those of a job; readers must live until the trainer has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
