"""Weights in eight bits: named tensors -> int8 rows with a scale each -> named tensors, a quarter of the size on disk.

A matrix W (R, ...) is stored as int8 q under its name and float32 s (R,) under its name with `/scale`; W = s q, row by row.
The largest error of a weight is half a step, 1/254 of the largest weight of its row. Other tensors stay as they are.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

SCALE_SUFFIX = "/scale"
"""Ending of the name of the scales of a tensor; names of parameters have no slash."""
_SHORTEST_ROW = 32
"""Rows with fewer values stay float32: little would be gained, and short rows are filters of single channels."""
_LARGEST = 127


def to_eight_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with their matrices in eight bits; `from_eight_bits` is the inverse up to rounding.

    Args:
        tensors: named tensors, without any in eight bits.
    Raises:
        ValueError: a matrix has values that are not finite.
    """
    stored = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.ndim < 2 or tensor[0].numel() < _SHORTEST_ROW:
            stored[name] = tensor
            continue
        rows = tensor.detach().float().flatten(1)
        if not rows.isfinite().all():
            raise ValueError(f"{name} must be finite, but is not; use another checkpoint")
        scale = rows.abs().amax(1) / _LARGEST
        steps = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round()
        stored[name] = steps.to(torch.int8).reshape(tensor.shape)
        stored[name + SCALE_SUFFIX] = scale
    return stored


def from_eight_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with those in eight bits as float32, and without their scales.

    Raises:
        ValueError: scales belong to no tensor in eight bits, or to one with another number of rows.
    """
    expanded = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE_SUFFIX)}
    for scale_name in tensors.keys() - expanded.keys():
        name, scale_R = scale_name.removesuffix(SCALE_SUFFIX), tensors[scale_name]
        steps = tensors.get(name)
        if steps is None or steps.dtype != torch.int8 or scale_R.shape != steps.shape[:1]:
            found = "missing" if steps is None else f"{tuple(steps.shape)} of {steps.dtype}"
            raise ValueError(f"{name} must be int8 with {tuple(scale_R.shape)} rows, as its scales say, but is {found}")
        expanded[name] = steps.float() * scale_R.reshape(-1, *[1] * (steps.ndim - 1))
    return expanded


def is_in_eight_bits(names: Iterable[str]) -> bool:
    """Whether tensors of these names include some in eight bits."""
    return any(name.endswith(SCALE_SUFFIX) for name in names)
