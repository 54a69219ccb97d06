"""A training run in child processes that are killed at random moments, until the run is finished.

    python -m tests.train.kills OUT DATA NUM_KILLS

Children are forked, since importing everything takes longer than the run.
"""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.train.tones import minute_config
from zipasr.train.loop import train
from zipasr.train.step import Stepper

NUM_STEPS = 120


def start(data: str, out: Path, num_workers: int = 0, last_step: int = NUM_STEPS) -> int:
    """Start or resume training in a child process that takes no step after `last_step`; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    losses = Stepper.losses

    def wait_at_the_end(self: Stepper, batch: Any, b: int) -> Any:
        if b > last_step:
            time.sleep(3600.0)  # so that there is something to kill, however fast the machine is
        return losses(self, batch, b)

    Stepper.losses = wait_at_the_end  # type: ignore[method-assign]
    with contextlib.suppress(Exception):
        config = minute_config(
            data,
            num_epochs=40,
            save_interval=3,
            valid_interval=10,
            keep_checkpoints=4,
            keep_best=2,
            log_interval=1,
            num_workers=num_workers,
        )
        train(config, out, is_quiet=True)
        code = 0
    os._exit(code)


def main(out: str, data: str, num_kills: int) -> None:
    """Train a whole run, and one that is killed and resumed."""
    torch.set_num_threads(1)
    begin = time.monotonic()
    assert os.waitpid(start(data, Path(out) / "whole"), 0)[1] == 0
    whole_s = time.monotonic() - begin
    generator = random.Random(1)
    for i in range(num_kills):
        last_step = NUM_STEPS * (i + 1) // (num_kills + 1)
        pid = start(data, Path(out) / "parts", num_workers=int(i == 7), last_step=last_step)
        time.sleep(generator.uniform(0.0, 0.2 * whole_s))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        print("killed" if os.WIFSIGNALED(status) else f"failed ({status})", flush=True)
    assert os.waitpid(start(data, Path(out) / "parts"), 0)[1] == 0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
