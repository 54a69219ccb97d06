"""Loss scale for training in float16.

float16 cannot represent gradients below 6e-8, so the loss is multiplied by a factor that grows over steps without overflow
and halves at an overflow; bfloat16 has the range of float32 and needs no scale. Weights, losses and gradients are float32.
Source: constants of the published training code (starts at 1, is pulled up toward 32, warns below 0.01).
Differs: the published AISHELL, WenetSpeech and GigaSpeech trainers pull it up every 100 batches only and reach 8 a hundred
batches later; no effect on error rates is expected.
"""

from dataclasses import dataclass

GROWTH_INTERVAL = 2000  # good steps before the factor doubles, regardless of its size
EARLY_GROWTH = (
    (25, 2.0),
    (100, 8.0),
    (400, 32.0),
)  # (interval in steps, limit): it doubles at the interval while below the limit
MIN_SCALE = 2.0**-16  # 1.5e-5: the published code gives up below 1e-5


@dataclass
class LossScale:
    """Loss scale; constantly 1 unless the run is in float16."""

    scale: float = 1.0
    num_good: int = 0
    """Steps without an overflow since the factor last changed by one, or by `GROWTH_INTERVAL`."""

    def after_good_step(self, num_steps: int) -> None:
        """Increase the scale if due, after `num_steps` steps (from 1)."""
        self.num_good += 1
        if self.num_good >= GROWTH_INTERVAL:
            self.scale, self.num_good = 2.0 * self.scale, 0
        if any(num_steps % interval == 0 and self.scale < limit for interval, limit in EARLY_GROWTH):
            self.scale *= 2.0

    def after_overflow(self) -> bool:
        """Halve the scale; False if it was already so small that the cause is not the range of float16."""
        if self.scale <= MIN_SCALE:
            return False
        self.scale, self.num_good = 0.5 * self.scale, 0
        return True
