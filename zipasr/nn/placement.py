"""Moving tensors between the host and an accelerator."""

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; copies to an accelerator are asynchronous.

    Copies from an accelerator block, so that the values are there when the host reads them.
    """
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")
