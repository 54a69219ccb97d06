"""Half precision: which arithmetic the encoder runs in, and the factor on the loss that float16 needs.

float16 cannot hold gradients below 6e-8, so the loss is multiplied by a factor that grows while all is well and halves when
a gradient overflows; bfloat16 has the range of float32 and needs none. Weights, losses and gradients are float32 always.
Source: constants of the published training code (starts at 1, is pulled up towards 32, warns below 0.01).
"""

from dataclasses import dataclass

import torch
from torch import nn

from zipasr.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GROWTH_INTERVAL = 2000  # good steps before the factor doubles, whatever its size
EARLY_GROWTH = ((25, 2.0), (100, 8.0), (400, 32.0))  # every so many batches it doubles while below this
MIN_SCALE = 2.0**-16  # 1.5e-5: the published code gives up below 1e-5


@dataclass
class LossScale:
    """The factor, 1 and constant unless the run is in float16."""

    scale: float = 1.0
    num_good: int = 0
    """Steps without an overflow since the factor last changed by one, or by `GROWTH_INTERVAL`."""

    def after_good_step(self, num_batches: int) -> None:
        """Grow if it is time to, `num_batches` (from 1) after the start."""
        self.num_good += 1
        if self.num_good >= GROWTH_INTERVAL:
            self.scale, self.num_good = 2.0 * self.scale, 0
        if any(num_batches % interval == 0 and self.scale < limit for interval, limit in EARLY_GROWTH):
            self.scale *= 2.0

    def after_overflow(self) -> bool:
        """Halve; False if it was too small already, so that it is no matter of range any more."""
        if self.scale <= MIN_SCALE:
            return False
        self.scale, self.num_good = 0.5 * self.scale, 0
        return True


def check_precision(precision: str, device: torch.device) -> None:
    """See that a device can train in some precision, by doing so for a convolution and a linear layer.

    Raises:
        ConfigError: it cannot.
    """
    dtype = DTYPES[precision]
    if dtype == torch.float32:
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).to(device)
    try:
        with torch.autocast(device.type, dtype=dtype):
            out = layers(torch.ones(2, 1, 4, 4, device=device))
        out.float().sum().backward()
        is_able = out.dtype == dtype
        reason = f"its results are {str(out.dtype).removeprefix('torch.')}"
    except RuntimeError as error:
        is_able, reason = False, str(error).splitlines()[0]
    if not is_able:
        raise ConfigError(f"precision {precision} was asked for, but {device} cannot train in it ({reason}); use float32")
