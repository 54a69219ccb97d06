"""CPU threads: the flag `--threads`, its default, and how threads wait for each other."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from zipasr.train.config import TrainConfig

MOST_PROCESSES = 2
"""Most processes that train a small model. With four, the loss falls more slowly at first (benchmarks/LOG.md)."""
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_CORE_LIMITS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # of versions 2 and 1 of control groups
_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_without_spinning() -> None:
    """Make the threads of an operation sleep while they wait for each other, unless the environment says how they wait.

    By default OpenMP lets them spin for milliseconds. If other programs run, that takes the core from the thread that they
    wait for, and training is many times slower (benchmarks/LOG.md). Has an effect only before torch is loaded.
    """
    if not any(name in os.environ for name in _WAIT_VARIABLES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def add_threads_option(
    parser: argparse.ArgumentParser,
    what: str = "",
    default: str = "OMP_NUM_THREADS, else 1 for models below 5 M parameters and one per core for others",
) -> None:
    """Add `--threads` to a verb; `what` is added to its help, which says what the default is."""
    help_text = f"total number of CPU threads{what} (default: {default})"
    parser.add_argument("--threads", type=int, help=help_text)


def use_threads(model: str, num_threads: int | None = None) -> int:
    """Configure the threads for a model on disk, before it is loaded: exported graphs use the setting at that time.

    Returns:
        The number of threads.
    Raises:
        ConfigError: `num_threads` is out of range.
        CheckpointError: there is no such model.
    """
    from zipasr.device import configure_threads
    from zipasr.recognizer.opening import weight_files

    weights = weight_files(model)
    return configure_threads(num_threads, num_parameters=sum(path.stat().st_size for path in weights) // 4)  # 4 bytes each


def divide_threads(model: str, num_jobs: int, num_threads: int | None = None, *, flag: str = "--jobs") -> int:
    """The threads for each of several jobs with a model on disk, which together have those of `--threads`.

    Args:
        model: the model.
        num_jobs: the number that `flag` gives.
        num_threads: of all together; None: those that the model may use.
        flag: for messages.
    Raises:
        ConfigError: there are fewer threads than jobs.
        CheckpointError: there is no such model.
    """
    import torch

    from zipasr.recognizer import threads_per_job

    share = threads_per_job(num_jobs, torch.get_num_threads() if num_threads is None else num_threads, flag=flag)
    return share if num_threads is not None else min(share, use_threads(model))


class TrainingThreads(NamedTuple):
    """How a training run uses its threads."""

    config: "TrainConfig"
    """The configuration with the readers of data, of each process, that the threads leave room for."""
    num_processes: int
    """Number of processes that compute; those of one thread each if there are several."""


def use_threads_for_training(config: "TrainConfig", num_threads: int | None) -> TrainingThreads:
    """Configure the threads of this process for a training run, and say what else the run uses.

    A small model on a CPU is trained by several processes of one thread; the threads that they leave read data.

    Raises:
        ConfigError: `num_threads` is out of range, or there is no such device.
    """
    import dataclasses

    from zipasr.device import SMALL_MODEL_PARAMETERS, configure_threads, select_device, split_threads
    from zipasr.model import AsrModel
    from zipasr.train.rounds import has_rounds

    device = select_device(config.device)
    num_parameters = count_parameters(lambda: AsrModel(config.model))
    is_small = device.type == "cpu" and num_parameters < SMALL_MODEL_PARAMETERS
    if is_small and num_threads != 1 and has_rounds(config) and _can_start_processes():
        wanted = num_cores() if num_threads is None else split_threads(num_threads, num_readers=0, device=device)[0]
        size = min(wanted, MOST_PROCESSES)
        if size > 1:
            left = config.num_workers if num_threads is None else min(config.num_workers, num_threads - size)
            configure_threads(1, num_parameters=num_parameters)
            return TrainingThreads(dataclasses.replace(config, num_workers=left // size), size)
    if num_threads is not None:
        num_threads, num_readers = split_threads(num_threads, num_readers=config.num_workers, device=device)
        config = dataclasses.replace(config, num_workers=num_readers)
    configure_threads(num_threads, num_parameters=num_parameters)
    return TrainingThreads(config, 1)


def num_cores() -> int:
    """Number of threads that the environment, the affinity of this process and its control group allow, one a core."""
    import torch

    limits = [torch.get_num_threads()]  # OMP_NUM_THREADS, or the cores that this process may use
    for names in _CORE_LIMITS:
        try:
            texts = [(_CONTROL_GROUP / name).read_text() for name in names]
            quota, period = " ".join(texts).split()
            if quota not in ("max", "-1"):
                limits.append(max(1, int(quota) // int(period)))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return min(limits)


def _can_start_processes() -> bool:
    """Whether a run may start processes: not under torchrun, whose processes take whole batches each, nor on Windows."""
    from zipasr.train.distributed import is_under_torchrun, ranks_of_environment

    return os.name == "posix" and not is_under_torchrun() and ranks_of_environment().size == 1


def count_parameters(make_model: "Callable[[], torch.nn.Module]") -> int:
    """The number of parameters of a model, which gets no memory."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in make_model().parameters())
