"""Moving tensors between the host and an accelerator."""

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; the host does not wait for an accelerator that it copies to.

    It does wait for one that it copies from: what arrives must be there when it is read.
    """
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")
