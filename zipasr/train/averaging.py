"""The running average of the weights, in float64, and the average over an interval between two of them.

After every `average_period` steps the model is added to the mean of all such models since the start. The mean is kept
on the model's device, except for MPS, which has no float64: then on the CPU. Two means, at steps
s < e, determine the mean of the models between them: avg_e · e/(e-s) - avg_s · s/(e-s).
Source: checkpoint averaging of the published recipe.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zipasr.nn.lora import merged_state_dict


class RunningAverage:
    """Mean of the models at multiples of `period` steps, without the initial model."""

    def __init__(self, model: nn.Module, period: int) -> None:
        self.period = period
        self.tensors = {name: in_float64(tensor).clone() for name, tensor in _weights(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, num_steps: int) -> None:
        """Add the model after `num_steps` steps if that is a multiple of `period`."""
        if num_steps % self.period:
            return
        weight = self.period / num_steps
        for name, tensor in _weights(model).items():
            self.tensors[name].lerp_(in_float64(tensor), weight)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the saved value of `tensors`."""
        self.tensors = {name: tensors[name].to(own) for name, own in self.tensors.items()}


def interval_average(
    start: Mapping[str, Tensor], start_steps: int, end: Mapping[str, Tensor], end_steps: int, period: int
) -> dict[str, Tensor]:
    """Mean, in float32, of the models between two running averages, the first exclusive.

    Args:
        start: running average after `start_steps`, float64; ignored if that is below `period`.
        end: running average after `end_steps`, float64.
        period: steps between two averaged models.
    """
    start_steps, end_steps = start_steps // period * period, end_steps // period * period
    if not 0 < start_steps < end_steps:
        return {name: tensor.float() for name, tensor in end.items()}
    weight = end_steps / (end_steps - start_steps)
    return {name: torch.lerp(start[name].to(tensor), tensor, weight).float() for name, tensor in end.items()}


def in_float64(tensor: Tensor) -> Tensor:
    """`tensor` in float64, detached; on the CPU if it is on MPS, which has no float64."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    # Adapters are merged first: the mean of products is not the product of means.
    return {name: tensor for name, tensor in merged_state_dict(model).items() if tensor.is_floating_point()}
