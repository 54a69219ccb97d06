"""What every comparison encoder does about padding: check features (N, T, F) and `lens` (N,), and mark what is beyond."""

import torch
from torch import Tensor


def check_input(features: Tensor, lens: Tensor, *, num_features: int, min_frames: int) -> None:
    """Raise ValueError unless features are (N, T >= min_frames, num_features) and 0 <= lens <= T.

    Lengths on an accelerator are not read, since that would make the processor wait.
    """
    if features.dim() != 3 or features.shape[2] != num_features or features.shape[1] < min_frames:
        raise ValueError(
            f"features must be (N, T >= {min_frames}, {num_features}), but are {tuple(features.shape)}; "
            "pad short input with features.PADDING_VALUE"
        )
    if lens.shape != features.shape[:1]:
        raise ValueError(f"lens must be ({features.shape[0]},), but is {tuple(lens.shape)}")
    if lens.is_floating_point() or lens.dtype == torch.bool:
        raise ValueError(f"lens must count frames, as int64, but is {lens.dtype}; turn shares into (share * T).long()")
    if lens.device.type == "cpu" and len(lens) and not 0 <= int(lens.min()) <= int(lens.max()) <= features.shape[1]:
        raise ValueError(f"lens must be within 0 and T = {features.shape[1]}, but are {lens.tolist()}")


def padding_mask(lens: Tensor, x: Tensor) -> Tensor:
    """Bool (N, T) on the device of `x` (N, T, ...), True at the frames beyond `lens` (N,)."""
    return torch.arange(x.shape[1], device=x.device) >= lens.to(x.device).unsqueeze(1)


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (N, T, ...) with zeros where `mask` (N, T) is True, as a convolution sees what lies beyond the ends."""
    return x.masked_fill(mask.view(*mask.shape, *(1,) * (x.dim() - 2)), 0.0)
