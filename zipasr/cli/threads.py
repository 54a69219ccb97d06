"""CPU threads: the flag `--threads`, its default, and how threads wait for each other."""

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from zipasr.train.config import TrainConfig

_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_without_spinning() -> None:
    """Make the threads of an operation sleep while they wait for each other, unless the environment says how they wait.

    By default OpenMP lets them spin for milliseconds. If other programs run, that takes the core from the thread that they
    wait for, and training is many times slower (benchmarks/LOG.md). Has an effect only before torch is loaded.
    """
    if not any(name in os.environ for name in _WAIT_VARIABLES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def add_threads_option(parser: argparse.ArgumentParser, what: str = "") -> None:
    """Add `--threads` to a verb; `what` is added to its help."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help=f"total number of CPU threads{what} (default: OMP_NUM_THREADS, else 1 for models below 5 M parameters and one "
        "per core for others)",
    )


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


def divide_threads(model: str, num_jobs: int, num_threads: int | None = None) -> int:
    """The threads for each of several processes with a model on disk, which together have those of `--threads`.

    Raises:
        ConfigError: there are fewer threads than processes.
        CheckpointError: there is no such model.
    """
    import torch

    from zipasr.recognizer import threads_per_job

    share = threads_per_job(num_jobs, torch.get_num_threads() if num_threads is None else num_threads)
    return share if num_threads is not None else min(share, use_threads(model))


def use_threads_for_training(config: "TrainConfig", num_threads: int | None) -> "TrainConfig":
    """Configure the threads for a training run; return its configuration with the readers that they leave room for.

    Raises:
        ConfigError: `num_threads` is out of range, or there is no such device.
    """
    import dataclasses

    from zipasr.device import select_device, split_threads
    from zipasr.model import AsrModel

    if num_threads is not None:
        num_threads, num_readers = split_threads(
            num_threads, num_readers=config.num_workers, device=select_device(config.device)
        )
        config = dataclasses.replace(config, num_workers=num_readers)
    use_threads_for(lambda: AsrModel(config.model), num_threads)
    return config


def use_threads_for(make_model: "Callable[[], torch.nn.Module]", num_threads: int | None = None) -> None:
    """Configure the threads for a model that has not been constructed yet.

    Raises:
        ConfigError: `num_threads` is out of range.
    """
    import torch

    from zipasr.device import configure_threads

    with torch.device("meta"):  # counts without computing anything
        num_parameters = sum(p.numel() for p in make_model().parameters())
    configure_threads(num_threads, num_parameters=num_parameters)
