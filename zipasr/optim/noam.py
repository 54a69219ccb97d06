"""Noam: linear warm-up, then decay with the inverse square root of the batch number. Numbers in, numbers out.

It is the schedule of the Adam baseline that the Zipformer paper compares ScaledAdam with (rate 7.5, 10,000 batches of
warm-up). It has the interface of `Eden`; the epoch has no effect.

Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3; the constants: Yao et al. 2024, arXiv:2310.11230.
"""

from torch.optim import Optimizer

from zipasr.optim.eden import BatchEpochSchedule, positive


def noam_factor(batch: float, *, warmup_batches: float, model_dim: int = 512) -> float:
    """model_dim^(-1/2) * min(b^(-1/2), b * warmup_batches^(-3/2)); 0 at batch 0."""
    if batch == 0:
        return 0.0
    return model_dim**-0.5 * min(batch**-0.5, batch * warmup_batches**-1.5)


class Noam(BatchEpochSchedule):
    """Sets the rate to `lr * noam_factor(batch)`; the groups' `lr` is a multiplier here (7.5 in the paper's baseline).

    Args:
        optimizer: any torch optimizer.
        warmup_batches: batches until the highest rate, lr * model_dim^(-1/2) * warmup_batches^(-1/2).
        model_dim: the D of the formula; the baseline uses 512 for every model.
    """

    def __init__(self, optimizer: Optimizer, warmup_batches: float = 10_000.0, *, model_dim: int = 512) -> None:
        self.warmup_batches = positive("warmup_batches", warmup_batches)
        self.model_dim = positive("model_dim", model_dim)
        super().__init__(optimizer)

    def factor(self, batch: int, epoch: float) -> float:
        """`noam_factor` with the arguments of this schedule."""
        return noam_factor(batch, warmup_batches=self.warmup_batches, model_dim=self.model_dim)
