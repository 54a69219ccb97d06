"""The processes ("ranks") that train one model together, and their communication.

They are started by `torchrun`, whose environment variables define the rendezvous; without them a run is a single rank, and
everything here is a no-op. (Processes that a run on a CPU starts itself are in `local_ranks`.) Each rank reads its own
batches and holds the whole model; gradients are summed.
There are two channels: gradients use NCCL between GPUs (gloo between CPUs), and a message of a few numbers per step always
uses gloo. When a rank dies its gloo channel closes, so the others notice at once, before they start NCCL work and hang.

Differs: gradients are summed here after the backward pass, not by torch's DistributedDataParallel during it. A rank that
runs out of memory in its backward pass can then retry with smaller batches while the others wait, all ranks can agree to
skip a step before gradients are exchanged, accumulation and recomputation need no special case, and randomly skipped blocks
need no search for unused parameters. The cost is that the exchange does not overlap with the backward pass.
"""

import datetime
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from zipasr.device import select_device
from zipasr.errors import ConfigError, ZipasrError

T = TypeVar("T")

BUCKET_ELEMENTS = 2**24
"""Gradients per message, 64 MiB: they are copied into one buffer of this size and back."""
_CALL, _ANSWER, _MEETING = "zipasr/call", "zipasr/answer", "zipasr/meeting"
_POLL_S = 0.05
_PATIENCE = datetime.timedelta(days=7)  # for work on rank 0 only; its death is noticed at once nevertheless


class Ranks:
    """This process of a distributed run (rank and size), and its communication with the others."""

    def __init__(self, rank: int = 0, size: int = 1, *, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.batches_per_step = size
        """Number of batches that all ranks together take in a step, for each that is accumulated."""
        self.steps_at_once = 1
        """Number of steps that are computed at once, at most."""
        self._control: Any = None
        self._patient: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes, prints and validates."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this rank: with CUDA, each rank of a machine uses its own GPU.

        Raises:
            ConfigError: the device does not exist, or there are more ranks than GPUs.
        """
        device = select_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or device.index is not None:
            raise ConfigError(
                f"device must be auto, cpu or cuda where {self.size} processes train together, but is {name!r}"
            )
        if self.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"each process must have a GPU of its own, but process {self.local_rank} (from 0) of this machine has none "
                f"of its {torch.cuda.device_count()}; lower --nproc-per-node"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def connect(self, device: torch.device, timeout_s: float) -> None:
        """Open the channels; returns when all ranks are connected."""
        if self.size == 1:
            return
        timeout = datetime.timedelta(seconds=timeout_s)
        from torch.distributed.rendezvous import rendezvous  # missing if torch was built without it

        with self._translated():
            backend = "nccl" if device.type == "cuda" else "gloo"
            store, *_ = next(rendezvous("env://", self.rank, self.size, timeout=timeout))
            store = _fresh_part(store, self.rank, self.size, timeout_s)
            torch.distributed.init_process_group(backend, timeout=timeout, rank=self.rank, world_size=self.size, store=store)
            self._control = torch.distributed.new_group(backend="gloo", timeout=timeout)
            self._patient = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def close(self) -> None:
        """Close the channels."""
        if self._control is not None:
            self._control = self._patient = None
            torch.distributed.destroy_process_group()

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Elementwise sums over the ranks; every rank must pass the same number of values."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        with self._translated():
            torch.distributed.all_reduce(total, group=self._control)
        return total.tolist()

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order; they must be JSON values."""
        if self.size == 1:
            return [value]
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with self._translated():
            lens = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            torch.distributed.all_gather(lens, torch.tensor([len(content)]), group=self._patient)
            longest = max(int(length) for length in lens)
            padded = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            own = torch.nn.functional.pad(content, (0, longest - len(content)))
            torch.distributed.all_gather(padded, own, group=self._patient)
        return [json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(padded, lens, strict=True)]

    def from_main(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 while the others wait without a timeout; all ranks get its result, a JSON value.

        If it fails, rank 0 raises the error and the others exit silently.
        """
        if self.size == 1:
            return work()
        if not self.is_main:
            answer = self.exchange(None)[0]
            if "failed" in answer:
                raise SystemExit(answer["failed"])
            return answer["result"]
        try:
            result = work()
        except BaseException as error:
            self.exchange({"failed": 2 if isinstance(error, ConfigError) else 1})
            raise
        self.exchange({"result": result})
        return result

    def main_first(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0, then on all others, for files that rank 0 creates. They exit silently if it fails."""
        results: list[T] = []
        if self.is_main:
            self.from_main(lambda: results.append(work()))
            return results[0]
        self.from_main(lambda: None)
        return work()

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks; it stays None if no rank has one."""
        if self.size == 1:
            return
        parameters = list(parameters)
        has_gradient = self.sum([float(p.grad is not None) for p in parameters])
        used = [p for p, count in zip(parameters, has_gradient, strict=True) if count > 0]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in _buckets([p.grad for p in used if p.grad is not None]):
            flat = torch.cat([grad.reshape(-1) for grad in bucket])
            with self._translated():
                torch.distributed.all_reduce(flat)
            for grad, summed in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(summed.view_as(grad))

    @torch.no_grad()
    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.size > 1:
            with self._translated():
                for tensor in tensors:
                    torch.distributed.broadcast(tensor.detach(), 0)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Context manager: convert the errors of a lost peer to ZipasrError."""
        try:
            yield
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ZipasrError(
                f"process {self.rank} of {self.size} lost another one: it died, hangs, or the network between them broke "
                f"({reason[:200]}). Its own message, if it could leave one, says why. Run the same command again to go on "
                "from the last checkpoint"
            ) from error


def _fresh_part(store: Any, rank: int, size: int, timeout_s: float) -> Any:
    """A part of torch's key-value store that only these processes have written to.

    torchrun keeps one store across its restarts, including the addresses of dead processes, which restarted processes would
    then try to reach (pytorch/pytorch#135712). Therefore rank 0 publishes a random word, each rank answers it with its own
    random word, and rank 0 publishes the answers it received; leftovers of an earlier attempt contain none of these words.

    Raises:
        RuntimeError: the ranks did not meet within `timeout_s`.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    own, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    if rank == 0:
        store.set(_CALL, own)
    while time.monotonic() < deadline:
        if rank == 0:
            answers = [_said(store, f"{_ANSWER}/{other}") for other in range(1, size)]
            if all(words[:1] == [own] for words in answers):
                store.set(_MEETING, " ".join([own, *(words[1] for words in answers)]))
                return PrefixStore(own, store)
        else:
            if call := _said(store, _CALL):
                store.set(f"{_ANSWER}/{rank}", f"{call[0]} {own}")
            if own in (met := _said(store, _MEETING)):
                return PrefixStore(met[0], store)
        time.sleep(_POLL_S)
    raise RuntimeError(f"{size} processes did not meet in {timeout_s:g} s")


def _said(store: Any, key: str) -> list[str]:
    """The words stored under a key, if any."""
    return str(store.get(key), "ascii").split() if store.check([key]) else []


def _buckets(grads: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients of one dtype with about `BUCKET_ELEMENTS` numbers in total."""
    bucket: list[Tensor] = []
    filled = 0
    for grad in grads:
        if bucket and (filled + grad.numel() > BUCKET_ELEMENTS or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(grad)
        filled += grad.numel()
    if bucket:
        yield bucket


@contextmanager
def joined(device_name: str, timeout_s: float, ranks: Ranks | None = None) -> Iterator[tuple[Ranks, torch.device]]:
    """Context manager: the connected ranks, and the device of this rank.

    `ranks` are by default those of torchrun's environment, or a single one. If a rank keeps the others waiting in a step for
    `timeout_s`, the run fails.
    """
    ranks = ranks or ranks_of_environment()
    device = ranks.device(device_name)
    if not ranks.is_main:  # one rank is enough to warn about what concerns all
        logging.getLogger("zipasr").setLevel(logging.ERROR)
        logging.getLogger("zipasr.data.reading").setLevel(logging.WARNING)  # what it cannot read, the others do not see
    ranks.connect(device, timeout_s)
    try:
        yield ranks, device
    finally:
        ranks.close()


def ranks_of_environment() -> Ranks:
    """The rank of this process in `torchrun`'s environment, not connected yet.

    Raises:
        ConfigError: some of the variables are missing or not numbers.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{', '.join(names)} must be numbers in the environment where processes train together, but one is not "
            f"({error}); start them with: torchrun --nproc-per-node N -m zipasr train ..."
        ) from error
    return Ranks(rank, size, local_rank=local_rank)


def is_under_torchrun() -> bool:
    """Whether this process has a torchrun agent, which forwards signals a second time."""
    return "TORCHELASTIC_RUN_ID" in os.environ
