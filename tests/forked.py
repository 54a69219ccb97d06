"""Processes that start at once: forked from a server that imports torch and zipasr only once, and does nothing else.

A process gets its environment after the imports, so what the environment changes in them is tested in an ordinary process.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from zipasr.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "lhotse", "tests.forked", "tests.train.ranks"])


def verb(*argv: str) -> None:
    """Do what `zipasr` does with the arguments; for `Forked`."""
    sys.exit(main(list(argv)))


def _call(function: Callable[..., None], args: tuple[str, ...], cwd: Path, environment: dict[str, str], output: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of pytest-xdist, and so their children, ignore it
    torch.set_num_threads(1)
    function(*args)


class Forked:
    """A process that calls a function with texts, with those methods of `Popen` that the tests use."""

    def __init__(self, function: Callable[..., None], *args: str, cwd: Path, environment: Mapping[str, str]) -> None:
        self._output = tempfile.TemporaryDirectory()
        self._process = _CONTEXT.Process(target=_call, args=(function, args, cwd, dict(environment), self._output.name))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        out, err = (
            path.read_text() if path.exists() else "" for path in (Path(self._output.name) / n for n in ("out", "err"))
        )
        return out, err
