"""Compute device (CUDA, then Apple's MPS, then the CPU), number of threads, and precision."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import nn

from zipasr.errors import ConfigError

SMALL_MODEL_PARAMETERS = 5_000_000
"""Below this size a second thread costs more than it gains on a busy machine: the threads of small operations constantly
wait for each other and for a free core. Beside two other programs on two cores `tiny` (2 M) trains at 3.2 steps per second
with one thread and 0.9 with two (benchmarks/LOG.md)."""
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
"""Precision of a model's computation; its weights are float32. `tf32`: float32, but matrix products and convolutions on a
GPU round their inputs to 10 bits. `bfloat16` and `float16`: autocast, so that sums, norms and softmax stay in float32."""
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MAX_THREADS = 1024
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def select_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes CUDA if there is one, else MPS, else the CPU.

    Raises:
        ConfigError: the name is unknown or this machine has no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind, colon, index = name.partition(":")
    if kind not in available or (colon and not (kind == "cuda" and index.isascii() and index.isdigit())):
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, but is {name!r}")
    if not available[kind]:
        raise ConfigError(f"device {name} was requested, but this machine has none; use --device auto or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"device {name} was requested, but there are {torch.cuda.device_count()}, counted from 0")
    return torch.device(kind, int(index)) if index else torch.device(kind)


def configure_threads(num_threads: int | None = None, *, num_parameters: int) -> int:
    """Set the number of CPU threads of this process for a model of `num_parameters` parameters.

    Exported graphs that are opened later use the same number.

    Args:
        num_threads: number of threads; None: OMP_NUM_THREADS if set, else 1 for a model below `SMALL_MODEL_PARAMETERS`
            and PyTorch's default, one per core, for others.
        num_parameters: size of the model.
    Returns:
        The number of threads.
    Raises:
        ConfigError: `num_threads` is not from 1 to 1024.
    """
    if num_threads is None:
        is_set = any(os.environ.get(name) for name in _THREAD_VARIABLES)
        if is_set or num_parameters >= SMALL_MODEL_PARAMETERS:
            return torch.get_num_threads()
        num_threads = 1
    _check_threads(num_threads)
    torch.set_num_threads(num_threads)
    return num_threads


def split_threads(num_threads: int, *, num_readers: int, device: torch.device) -> tuple[int, int]:
    """Split the threads of a training run between computation and processes that prefetch data.

    Args:
        num_threads: total number of threads.
        num_readers: desired number of prefetching processes.
        device: device of the model. On a CPU reading takes a few percent of the time and thus gets at most a quarter of the
            threads; with an accelerator one thread remains for the process that feeds it.
    Returns:
        Number of compute threads and of reading processes; `num_threads` in total.
    Raises:
        ConfigError: `num_threads` is not from 1 to 1024.
    """
    _check_threads(num_threads)
    room = num_threads // 4 if device.type == "cpu" else num_threads - 1
    num_readers = min(num_readers, room)
    return num_threads - num_readers, num_readers


def _check_threads(num_threads: int) -> None:
    if not 1 <= num_threads <= _MAX_THREADS:
        raise ConfigError(f"threads must be from 1 to {_MAX_THREADS}, but is {num_threads}")


def check_precision(precision: str, device: torch.device, *, is_training: bool = False) -> None:
    """Check that a device supports a precision, by running a convolution and a linear layer in it.

    Args:
        precision: one of `Precision`.
        device: device to check.
        is_training: whether gradients are needed too.
    Raises:
        ConfigError: the precision is unknown, or the device does not support it.
    """
    if precision not in DTYPES:
        raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, but is {precision!r}")
    dtype = DTYPES[precision]
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise ConfigError(f"precision tf32 needs an NVIDIA GPU, Ampere or newer, but the device is {device}; use float32")
    if dtype == torch.float32:
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).to(device)
    try:
        with torch.set_grad_enabled(is_training), torch.autocast(device.type, dtype=dtype):
            out = layers(torch.ones(2, 1, 4, 4, device=device))
        if is_training:
            out.float().sum().backward()
        is_able = out.dtype == dtype
        reason = f"its results are {str(out.dtype).removeprefix('torch.')}"
    except RuntimeError as error:
        is_able, reason = False, str(error).splitlines()[0]
    if not is_able:
        verb = "train" if is_training else "compute"
        raise ConfigError(f"precision {precision} was requested, but {device} cannot {verb} in it ({reason}); use float32")


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Context manager: compute in `precision` inside the block.

    On CUDA, float32 means true float32: PyTorch's default lets convolutions round to TF32.
    """
    with _tf32(precision == "tf32") if device.type == "cuda" else nullcontext():
        dtype = DTYPES[precision]
        with nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype):
            yield


@contextmanager
def _tf32(is_on: bool) -> Iterator[None]:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = is_on
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Context manager: use oneDNN for float32 matrix products on a CPU, if that loses no precision.

    PyTorch uses MKL unless lower precision is allowed. On AMD processors with AVX-512 oneDNN is 2 to 4 times as fast
    (benchmarks/LOG.md) and equally exact. Nothing changes where oneDNN would actually round to bfloat16 (processors with
    AMX) and on other devices.
    """
    with _medium_precision() if device.type == "cpu" and _is_onednn_exact() else nullcontext():
        yield


@contextmanager
def _medium_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _is_onednn_exact() -> bool:
    """Whether matrix products under `medium` precision have float32 accuracy on this machine."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 256, generator=generator), torch.randn(256, 64, generator=generator)
    with _medium_precision():
        error = (a @ b - (a.double() @ b.double())).abs().max().item()
    return error < 1e-4  # float32 gives 1e-5 here, bfloat16 0.1
