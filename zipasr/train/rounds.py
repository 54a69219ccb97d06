"""Rounds: steps that several processes of one machine compute at once, and take one after another.

A step of a small model on a CPU is thousands of small operations, which a second thread does not make faster, and half a
batch takes much more than half the time of a whole one (benchmarks/LOG.md). Therefore each process computes the gradients of
a whole step of its own, with the weights at the start of the round; then all processes take these steps in order, with the
same result. Batches, number of steps, schedules and learning rates are those of a single process. The difference is that the
gradients of the second step of a round are those of weights to which momentum alone takes the model, instead of those after
the first step; those of the third likewise, and so on.
"""

import dataclasses
import math
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.data.batching import Batch, BatchReader
from zipasr.data.plan import BatchPlan
from zipasr.data.reading import read_chosen
from zipasr.errors import ZipasrError
from zipasr.optim import ScaledAdam
from zipasr.optim.look_ahead import looking_ahead
from zipasr.randomness import random_state
from zipasr.train.config import TrainConfig
from zipasr.train.distributed import Ranks
from zipasr.train.local_ranks import LocalRanks
from zipasr.train.signals import StopRequest
from zipasr.train.state import Position, TrainState
from zipasr.train.step import Signs, Stepper, StepResult

_SHARED_MEMORY = Path("/dev/shm")
_ALIGNED_ELEMENTS = 16
"""Floats in the 64 bytes to which PyTorch aligns tensors."""


class Round(NamedTuple):
    """Steps that are computed at once."""

    epoch: int
    steps: tuple[range, ...]
    """The batches of each step, by their index in the epoch; those of the first process, of the second, ..."""
    is_last: bool
    """Whether the round ends its epoch."""

    def batches_of(self, rank: int) -> range:
        """The batches that this process computes; none if it has no step in this round."""
        return self.steps[rank] if rank < len(self.steps) else range(0)


def read_rounds(
    plan: BatchPlan, reader: BatchReader, config: TrainConfig, position: Position, ranks: Ranks
) -> Iterator[tuple[Round, list[Batch | None]]]:
    """Yield the rounds from a position to the end of a run, each with the batches that this process computes."""
    start = dataclasses.replace(position)  # the position moves on while the rounds are read
    turns, ahead = (plan_rounds(plan, config, start, ranks.steps_at_once) for _ in range(2))
    places = ((turn.epoch, index) for turn in ahead for index in turn.batches_of(ranks.rank))
    batches = read_chosen(plan, reader, places, num_workers=config.num_workers)
    for turn in turns:
        yield turn, [next(batches) for _ in turn.batches_of(ranks.rank)]


def plan_rounds(plan: BatchPlan, config: TrainConfig, start: Position, size: int) -> Iterator[Round]:
    """Yield the rounds from a position to the end of a run, of at most `size` steps: one for each process.

    A round ends with its epoch, and where a checkpoint or a validation is due. Those of a resumed run therefore are those of
    a run that was not interrupted.
    """
    num_steps, limit = start.num_steps, config.max_batches or math.inf
    for epoch in range(start.epoch, config.num_epochs):
        index, num_batches = start.index if epoch == start.epoch else 0, plan.num_batches(epoch)
        while index < num_batches:
            if num_steps >= limit:
                return
            steps: list[range] = []
            is_over = False
            while index < num_batches and len(steps) < size and not is_over:
                steps.append(range(index, min(index + config.accumulate_batches, num_batches)))
                index = steps[-1].stop
                num_steps += 1
                is_over = num_steps >= limit or 0 in (num_steps % config.save_interval, num_steps % config.valid_interval)
            yield Round(epoch, tuple(steps), index == num_batches)


class RoundStepper(Stepper):
    """Takes the steps of rounds, with the gradients of all processes."""

    def __init__(self, config: TrainConfig, state: TrainState, ranks: LocalRanks, device: torch.device) -> None:
        super().__init__(config, state, Ranks(), device)  # updates need no agreement: all processes have the same gradients
        self.team = ranks
        self._gradients = SharedGradients(self.parameters, ranks)

    def _looking_ahead(self, num_steps: int) -> AbstractContextManager[None]:
        optimizer = self.state.optimizer
        return looking_ahead(optimizer, num_steps) if isinstance(optimizer, ScaledAdam) else nullcontext()

    def round(
        self, batches: Sequence[Batch | None], num_steps: Sequence[int], *, request: StopRequest | None = None
    ) -> Iterator[StepResult]:
        """Compute one step, then take all steps of a round; yield the result of each before the next is taken.

        Args:
            batches: those of the step of this process; None is a batch in which nothing could be read.
            num_steps: numbers of the steps of the round, from 1.
            request: says whether a stop is requested on this process; the result of the last step tells of all processes.
        """
        rank, self.suspects = self.team.rank, []
        own = [batch for batch in batches if batch is not None]
        self.random_before = random_state(self.device)
        with self._looking_ahead(rank if own else 0):
            found = self._learn(own, num_steps[rank] if rank < len(num_steps) else num_steps[-1])
        signs = self._signs(found, own, request.signal if request is not None else 0)
        problems = self._problems(found, own, is_loss_bad=signs.bad_losses > 0, is_bad=signs.bad > 0)
        has_gradient = self._gradients.write()
        told = self.team.exchange([list(signs), found.norm, found.losses, problems, has_gradient])
        self._gradients.turn()
        all_signs = [Signs(*numbers) for numbers, *_ in told]
        for i, number in enumerate(num_steps):
            signs = all_signs[i]
            _, norm, losses, texts, used = told[i]
            self.suspects = []
            is_learned = signs.bad == 0 and signs.pieces > 0
            if is_learned:
                self._gradients.read(i, used)
                is_learned = self._update(norm, number, signs.audio_s)
            self.suspects = own if signs.bad and i == rank else []
            self.state.optimizer.zero_grad(set_to_none=True)
            asked = _stop_signal(all_signs) if number == num_steps[-1] else 0
            yield StepResult(is_learned, losses if is_learned else {}, signs.audio_s, tuple(texts), signs.bad > 0, asked)


def has_rounds(config: TrainConfig) -> bool:
    """Whether several steps of a run may be computed at once: with ScaledAdam, whose momentum tells where steps lead.

    In float16, the loss scale of a step depends on the steps before it.
    """
    return config.adam is None and config.precision != "float16"


def new_stepper(config: TrainConfig, state: TrainState, ranks: Ranks, device: torch.device) -> Stepper:
    """What takes the steps of a run: those of rounds where several are computed at once."""
    if isinstance(ranks, LocalRanks) and ranks.steps_at_once > 1:
        return RoundStepper(config, state, ranks, device)
    return Stepper(config, state, ranks, device)


def _stop_signal(signs: Sequence[Signs]) -> int:
    """The signal that asked any process to stop, or 0."""
    asked = {sign.stop_signal for sign in signs}
    return signal.SIGINT if signal.SIGINT in asked else max(asked)


class SharedGradients:
    """The gradients of all processes, in memory that they share."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], ranks: LocalRanks) -> None:
        """Allocate the memory; all processes must call this."""
        self.parameters = list(parameters)
        # Each gradient starts where one allocated by itself may start: elsewhere, some processors sum in another order.
        self._sizes = [-(-p.numel() // _ALIGNED_ELEMENTS) * _ALIGNED_ELEMENTS for p in self.parameters]
        num_elements = sum(self._sizes)
        # Two sets, in turn: a process may have its next gradients before another has read the last ones.
        self._shared = _shared_zeros((2, ranks.size, num_elements), ranks)
        self._own = torch.zeros(num_elements)
        self._own_views = self._views(self._own)
        self._shared_views = [self._views(one[ranks.rank]) for one in self._shared]
        self._written = 0

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split(self._sizes)
        return [part[: p.numel()].view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    @torch.no_grad()
    def write(self) -> list[bool]:
        """Tell the gradients of this process; returns which parameters have one. Others see them after an exchange."""
        pairs = [(p.grad, view) for p, view in zip(self.parameters, self._shared_views[self._written], strict=True)]
        grads = [grad for grad, _ in pairs if grad is not None]
        if grads:
            torch._foreach_copy_([view for grad, view in pairs if grad is not None], grads)
        return [grad is not None for grad, _ in pairs]

    def turn(self) -> None:
        """Make what was written before an exchange readable, and the other set writable."""
        self._written = 1 - self._written

    @torch.no_grad()
    def read(self, rank: int, has_gradient: Sequence[bool]) -> None:
        """Replace the gradients of all parameters by those of a process, which may be changed."""
        self._own.copy_(self._shared[1 - self._written, rank])
        for p, view, is_used in zip(self.parameters, self._own_views, has_gradient, strict=True):
            p.grad = view if is_used else None


def _shared_zeros(shape: tuple[int, ...], ranks: LocalRanks) -> Tensor:
    """Zeros, float32, in memory that all processes share; all must call this.

    Raises:
        ZipasrError: there is no space for them.
    """
    num_bytes = 4 * math.prod(shape)

    def reserved() -> str:
        errors = []
        for folder in (_SHARED_MEMORY, Path(tempfile.gettempdir())):
            try:
                return _reserve(folder, num_bytes)
            except OSError as error:
                errors.append(f"{folder}: {error.strerror}")
        raise ZipasrError(
            f"{num_bytes / 2**20:.0f} MiB must be free for the gradients that processes share, but: {'; '.join(errors)}; "
            "free some space, or train in one process: --threads 1"
        )

    path = ranks.from_main(reserved)
    try:
        tensor = torch.from_file(path, shared=True, size=math.prod(shape), dtype=torch.float32)
        ranks.exchange(None)  # all have opened it
    finally:
        if ranks.is_main:
            os.unlink(path)
    return tensor.view(shape)


def _reserve(folder: Path, num_bytes: int) -> str:
    """The path of a new file of zeros of that size, whose space is certain: writing to it cannot fail."""
    number, path = tempfile.mkstemp(prefix="zipasr-", dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(number, 0, num_bytes)
        else:
            os.ftruncate(number, num_bytes)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(number)
    return path
