"""Parameter groups of an optimizer for the parts of a model: lower rates for some modules, others frozen.

In: a module, and names of modules or parameters in it. Out: group dicts of named parameters, which every optimizer of
torch accepts; `lr` is the rate of each group.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn


def parameter_groups(
    module: nn.Module, lr: float, *, lr_scale: Mapping[str, float] | None = None, frozen: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return one group per learning rate, with (name, parameter) pairs in the module's order.

    Args:
        module: the model. Parameters that do not require a gradient are left out.
        lr: default learning rate.
        lr_scale: name of a module or parameter inside `module` -> factor on its rate; a parameter takes the product of
            the factors on its path ("encoder" and "encoder.stacks.0" both apply to parameters of the latter). A shared
            parameter has several paths, and each factor on any of them applies once.
        frozen: names whose parameters are left out, so that they do not change. The module is not modified; to skip
            computing their gradients too, call `requires_grad_(False)` on them.
    Raises:
        ValueError: a name matches no parameter, a factor is not > 0, or no parameter is left.
    """
    scales = dict(lr_scale or {})
    paths: dict[nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        paths.setdefault(parameter, []).append(name)
    names = [name for names in paths.values() for name in names]
    for prefix in [*scales, *frozen]:
        if not any(_lies_in(name, prefix) for name in names):
            raise ValueError(f"{prefix!r} must name a module or parameter, but matches none; {_nearest(prefix, names)}")
    for prefix, scale in scales.items():
        if not scale > 0:
            raise ValueError(f"the factor of {prefix!r} must be > 0, but is {scale}; list it in `frozen` to stop it")

    members: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for parameter, own in paths.items():
        if not parameter.requires_grad or any(_lies_in(name, prefix) for prefix in frozen for name in own):
            continue
        rate = lr
        for prefix, scale in scales.items():
            if any(_lies_in(name, prefix) for name in own):
                rate *= scale
        members.setdefault(rate, []).append((own[0], parameter))
    if not members:
        raise ValueError("at least one parameter must be trainable, but all are frozen; shorten `frozen`")
    return [{"params": pairs, "lr": rate} for rate, pairs in members.items()]


def _lies_in(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _nearest(prefix: str, names: list[str]) -> str:
    parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    found = difflib.get_close_matches(prefix, sorted(parts), n=3, cutoff=0.0)
    return f"the nearest names are {', '.join(found)}" if found else "the module has no parameters"
