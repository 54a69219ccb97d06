"""Precision of the encoder: a check that model and device support it, and of the frames (N, T, D) at 25 Hz it computes."""

import torch
from torch import nn

from zipasr.device import Precision, check_precision
from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.scorer import Scorer


def checked_precision(precision: Precision, scorer: Scorer, device: torch.device) -> Precision:
    """The precision, after a check that a model can encode in it on a device.

    Raises:
        ConfigError: there is no such precision, the device cannot compute in it, or the model is an exported graph, whose
            precision was chosen when it was exported.
    """
    check_precision(precision, device)
    if precision != "float32" and not isinstance(scorer, nn.Module):
        raise ConfigError(
            f"exported graphs compute in the precision of their export, but {precision} was asked for; "
            "leave precision out, or use the PyTorch model"
        )
    return precision


def checked_frames(encoded: Encoded, precision: Precision) -> Encoded:
    """Encoder frames as float32, which heads and searches compute in.

    Raises:
        ConfigError: activations exceed the range of float16.
    """
    if precision == "float16" and not bool(encoded.frames.isfinite().all()):
        raise ConfigError("activations of this model leave the range of float16 (65504); use precision bfloat16 or float32")
    return encoded if encoded.frames.dtype == torch.float32 else encoded._replace(frames=encoded.frames.float())
