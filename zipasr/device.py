"""Choosing where to compute (CUDA, then Apple's MPS, then the CPU), and the fast way to multiply matrices there."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zipasr.errors import ConfigError


def select_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes CUDA if there is one, else MPS, else the CPU.

    Raises:
        ConfigError: the name is unknown or this machine has no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind, _, index = name.partition(":")
    if kind not in available or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, but is {name!r}")
    if not available[kind]:
        raise ConfigError(f"device {name} was asked for, but this machine has none; use --device auto or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"device {name} was asked for, but there are {torch.cuda.device_count()}, counted from 0")
    return torch.device(name)


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Let float32 matrix products on a CPU go through oneDNN, where that loses no precision, inside a block.

    PyTorch sends them to MKL unless told that lower precision would do; on AMD processors with AVX-512 oneDNN is 2 to 4
    times as fast (benchmarks/LOG.md) and just as exact. Where oneDNN would really round to bfloat16 (processors with
    AMX), nothing changes, nor on other devices.
    """
    before = torch.get_float32_matmul_precision()
    if device.type != "cpu" or before == "medium" or not _is_onednn_exact():
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _is_onednn_exact() -> bool:
    """Whether products under `medium` precision agree with float64 as float32 should, on this machine."""
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 256, generator=generator), torch.randn(256, 64, generator=generator)
    torch.set_float32_matmul_precision("medium")
    try:
        error = (a @ b - (a.double() @ b.double())).abs().max().item()
    finally:
        torch.set_float32_matmul_precision(before)
    return error < 1e-4  # float32 gives 1e-5 here, bfloat16 0.1
