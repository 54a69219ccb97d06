"""Choosing where to compute: CUDA, then Apple's MPS, then the CPU."""

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
    kind = name.split(":")[0]
    if kind not in available:
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, but is {name!r}")
    if not available[kind]:
        raise ConfigError(f"device {name} was asked for, but this machine has none; use --device auto or cpu")
    return torch.device(name)
