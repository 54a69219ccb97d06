"""Where tensors are: moving them between the host and an accelerator, and what depends on the place."""

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; copies to an accelerator are asynchronous.

    Copies from an accelerator block, so that the values are there when the host reads them.
    """
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def is_cpu_inference(x: Tensor) -> bool:
    """Whether `x` is processed on a CPU without gradients, where parts that fit its caches are fastest."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()
