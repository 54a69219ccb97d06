"""The weights to come: where the momentum of ScaledAdam alone takes the parameters of a model in some steps.

Gradients of these weights fit a later step better than those of the present weights: of the update of a step, beta1 (nine
tenths) of the momentum before it, and a tenth of a new step, the first part is known.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zipasr.optim.scaled_adam import ScaledAdam


@contextmanager
def looking_ahead(optimizer: ScaledAdam, num_steps: int) -> Iterator[None]:
    """Context manager: move the parameters to where momentum alone takes them in `num_steps` steps, and back.

    That is where steps with gradients of zero lead, except that the sizes of tensors are not updated. Before the first step
    there is no momentum.
    """
    groups = [group for group in optimizer.param_groups if group["params"] and optimizer.state.get(group["params"][0])]
    params: list[Tensor] = [p for group in groups for p in group["params"]] if num_steps > 0 else []
    with torch.no_grad():
        before = [p.clone() for p in params]
        for group in groups if params else ():
            _add_momentum(optimizer, group, sum(group["betas"][0] ** n for n in range(1, num_steps + 1)))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(params, before, strict=True):
                p.copy_(value)


def _add_momentum(optimizer: ScaledAdam, group: dict[str, Any], factor: float) -> None:
    """Add the present momentum of a group times a factor to its parameters."""
    sized = [p for p in group["params"] if p.numel() > 1]
    scalars = [p for p in group["params"] if p.numel() <= 1]
    if sized:
        units = optimizer.state[group["params"][0]]["param_rms"].clamp_min(group["param_min_rms"]) * factor
        torch._foreach_addcmul_(sized, [optimizer.state[p]["delta"] for p in sized], units.unbind())
    if scalars:
        deltas = [optimizer.state[p]["delta"] for p in scalars]
        torch._foreach_add_(scalars, deltas, alpha=factor * group["scalar_lr_scale"])
