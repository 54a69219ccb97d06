"""Processes that a run on a CPU starts itself to compute on several cores, and their communication with it.

They are spawned, so that they share no threads, and do what they are asked over a pipe: a function with arguments, in which
all processes then call the same methods of `LocalRanks`. The process that starts them is rank 0. The others are silent: what
they log is logged by rank 0, and rank 0 raises their errors. They ignore Ctrl-C, which a terminal sends to them too, and end
when rank 0 does, however it ends.
"""

import logging
import logging.handlers
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from zipasr.errors import ZipasrError
from zipasr.train.distributed import Ranks

T = TypeVar("T")

_CONTEXT: multiprocessing.context.BaseContext = multiprocessing.get_context("spawn")
_POLL_S = 0.5
"""Seconds between looks whether another process is alive; they matter only if readers of data hold its pipe open."""
_END_S = 10.0
"""Seconds that a process has to end by itself."""
_VALUE, _LOG, _FAILED = "value", "log", "failed"


class LostRankError(ZipasrError):
    """Another process of the run has ended."""


class LocalRanks(Ranks):
    """A process of this machine that takes the steps of a round with others (`zipasr.train.rounds`)."""

    def __init__(
        self, rank: int, size: int, connections: Sequence[Connection], processes: Sequence[BaseProcess] = ()
    ) -> None:
        """Connect a process.

        Args:
            rank: its rank.
            size: number of processes.
            connections: of rank 0 to all others in their order; of another rank to rank 0.
            processes: what is at the other ends for rank 0.
        """
        super().__init__(rank, size)
        self.batches_per_step, self.steps_at_once = 1, size  # each process computes a step of its own
        self._connections, self._processes = list(connections), list(processes)

    def connect(self, device: torch.device, timeout_s: float) -> None:
        """Do nothing: the pipes are open, and `Team` closes them."""

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Elementwise sums over the ranks; every rank must pass the same number of values."""
        return [sum(values) for values in zip(*self.exchange(list(numbers)), strict=True)]

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order.

        Raises:
            LostRankError: another process has ended.
        """
        if not self.is_main:
            self._send(0, (_VALUE, value))
            values: list[Any] = self._receive(0)
            return values
        values = [value, *(self._receive(i) for i in range(len(self._connections)))]
        for i in range(len(self._connections)):
            self._send(i, (_VALUE, values))
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Do nothing: every process updates with the gradients of one process after another."""

    @torch.no_grad()
    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        tensors = list(tensors)
        values = self.exchange([tensor.numpy() for tensor in tensors] if self.is_main else None)[0]
        if not self.is_main:
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(torch.from_numpy(value))

    def _send(self, i: int, message: Any) -> None:
        try:
            self._connections[i].send(message)
        except OSError as error:
            self._raise_lost(i, error)

    def _receive(self, i: int) -> Any:
        """The next value from the other end; what is logged there is logged here, and errors are raised here."""
        connection = self._connections[i]
        while True:
            try:
                while not connection.poll(_POLL_S):
                    self._check(i)
                kind, content = connection.recv()
            except (EOFError, OSError) as error:
                self._raise_lost(i, error)
            if kind == _LOG:
                logging.getLogger(content.name).handle(content)
            elif kind == _FAILED:
                raise content
            else:
                return content

    def _check(self, i: int) -> None:
        """Raise EOFError if a process has ended and will send no more; its readers of data may hold the pipe open."""
        if self._processes and not self._processes[i].is_alive() and not self._connections[i].poll():
            raise EOFError

    def _raise_lost(self, i: int, error: Exception) -> NoReturn:
        if not self._processes:
            raise LostRankError("the process that started this one must be there, but has ended") from error
        process = self._processes[i]
        process.join(_END_S)
        code = process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        memory = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
        raise LostRankError(
            f"process {i + 2} of {self.size}, which computed a part of this run, {how}{memory}. What is saved is not "
            "lost: run the same command again to go on from the last checkpoint; with --threads 1 it needs no other process"
        ) from error


class Team:
    """Context manager: this process and those that it starts, which call functions together. At its end they end."""

    def __init__(self, prepare: Callable[[], object] | None = None) -> None:
        """Start nothing yet; `prepare` is called in each process that is started, and must be possible to pickle."""
        self.prepare = prepare
        self.ranks: LocalRanks | None = None
        """This process, rank 0, once others are started."""
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []

    def start(self, size: int) -> None:
        """Start other processes, so that there are `size` with this one; those that are there already stay."""
        if size == 1 or self.ranks is not None:
            return
        with _interrupts_ignored():  # the new processes inherit it
            for rank in range(1, size):
                own, theirs = _CONTEXT.Pipe()
                process = _CONTEXT.Process(target=_assist, args=(rank, size, theirs, self.prepare))  # type: ignore[attr-defined]
                process.start()
                theirs.close()
                self._connections.append(own)
                self._processes.append(process)
        self.ranks = LocalRanks(0, size, self._connections, self._processes)

    def call(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """Call a function in all processes, with `ranks` as a further argument (None if there is one process).

        It and its arguments can be pickled, and the processes do the same in it. Returns its result in this process.
        """
        for i in range(len(self._connections)):
            assert self.ranks is not None
            self.ranks._send(i, (function, args, named))
        return function(*args, **named, ranks=self.ranks)

    def __enter__(self) -> "Team":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._connections:
            if kind is None:
                with suppress(OSError):  # it has ended already
                    connection.send(None)
        deadline = time.monotonic() + (_END_S if kind is None else 0.0)
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():  # what it does is of no use any more
                process.kill()
                process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections, self.ranks = [], [], None


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Context manager: ignore Ctrl-C in the main thread; elsewhere it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _assist(rank: int, size: int, connection: Connection, prepare: Callable[[], object] | None) -> None:
    """Call the functions that rank 0 names, until it names none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # rank 0 has the same
    logging.getLogger().addHandler(_Forwarder(connection))
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    ranks = LocalRanks(rank, size, [connection])
    try:
        while (request := connection.recv()) is not None:
            function, args, named = request
            function(*args, **named, ranks=ranks)
    except (KeyboardInterrupt, SystemExit, LostRankError, EOFError):
        return  # rank 0 knows why, or has ended
    except ZipasrError as error:
        _tell(connection, error)
    except Exception:
        _tell(connection, RuntimeError(f"in process {rank + 1} of {size}:\n{traceback.format_exc()}"))


def _tell(connection: Connection, error: Exception) -> None:
    with suppress(OSError):
        connection.send((_FAILED, error))


def _end_with_parent() -> None:
    """End this process soon after its parent; a reader of data that outlives the parent may hold the sentinel open."""
    parent, parent_id = multiprocessing.parent_process(), os.getppid()
    assert parent is not None, "only processes of a team are started here"
    while not multiprocessing.connection.wait([parent.sentinel], _POLL_S) and os.getppid() == parent_id:
        pass
    os._exit(1)


class _Forwarder(logging.handlers.QueueHandler):
    """Sends log records to rank 0; those of readers of data, which are processes of their own, are dropped."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)  # type: ignore[arg-type]
        self._pid = os.getpid()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record."""
        if os.getpid() == self._pid:
            self.queue.send((_LOG, record))  # type: ignore[attr-defined]
