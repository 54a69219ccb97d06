"""Seeds that depend only on their parts, and the states of torch's random generators, for runs that resume exactly."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def stable_seed(*parts: int) -> int:
    """A 63-bit seed that depends only on `parts`, the same on every machine."""
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States (bytes) of the global random generators that training on a device uses."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore the result of `random_state`; generators missing in it or on this machine are unchanged."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
