"""Clipping of the gradients of one parameter group against the running median of their norm, for `ScaledAdam`.

In: gradients, any shapes, and the state of the group's clipping. Out: one factor for all of them, a tensor () on their
device. Source: the published training code of Yao et al. 2024, "Zipformer", arXiv:2310.11230.
"""

import logging
import math
from typing import Any

import torch
from torch import Tensor

from zipasr.errors import ZipasrError

EARLY_THRESHOLD_STEPS = (10, 20, 40)
"""Steps whose median is based on few steps, so that the threshold is doubled."""
_UNUSED = -1.0  # a slot of the norms without a norm
log = logging.getLogger(__name__)


def new_clipping_state(like: Tensor, period: int) -> dict[str, Tensor]:
    """The state before the first norm: those of the last `period` steps, the threshold, and what is logged."""
    return {
        "model_norms": like.new_full((period,), _UNUSED),
        "model_norm_threshold": like.new_full((), math.inf),
        "clip_factor": like.new_ones(()),
        "num_clipped": like.new_zeros(()),
    }


def clip_factor(group: dict[str, Any], shared: dict[str, Any], grads: list[Tensor], params: list[Tensor]) -> Tensor | None:
    """Return the () factor for this step's gradients, on their device, or None if it is known to be 1.

    The norm weights each gradient by the size of its tensor, so that it measures the resulting step. A norm that is
    not finite gives 0.
    """
    t, scale = shared["step"], group["clipping_scale"]
    if scale is None:
        return None
    norms = torch.stack(torch._foreach_norm(grads))
    num_sized = shared["param_rms"].numel() if "param_rms" in shared else 0
    norms[:num_sized] *= shared.get("param_rms", 1.0)
    norms[num_sized:] *= group["scalar_lr_scale"]
    total = torch.linalg.vector_norm(norms)
    period = group["clipping_update_period"]
    if t > 0:  # as in the published code, the norm of the very first step does not count
        shared["model_norms"][t % period] = total
        if t % period == 0 or t in EARLY_THRESHOLD_STEPS:
            _set_threshold(shared, t, period, scale)
    # Differs: the published code lets non-finite gradients pass while there is no threshold. Here inf / inf gives 0.
    factor = (shared["model_norm_threshold"] / (total + 1e-20)).clamp_max(1.0).nan_to_num(nan=0.0)
    shared["clip_factor"] = factor
    shared["num_clipped"] += factor < 1
    if factor.device.type != "cpu":  # reading it would stall the device
        return factor
    if factor < 0.5:
        _warn_of_clipping(group, shared, norms, params)
    return factor if factor < 1 else None


def _set_threshold(shared: dict[str, Any], t: int, period: int, scale: float) -> None:
    """Set the clipping threshold from the recent norms, and log their quartiles.

    Differs: where most of the norms are 0, because the group had a gradient in few of the steps, the published code has
    a threshold of 0, and the group never learns. Here the median is that of the finite norms above 0.
    """
    is_early = t % period != 0
    norms = shared["model_norms"].sort().values
    if is_early:
        norms = norms[-t:]  # checkpoints of earlier versions have zeros in slots not yet used
    norms = norms[norms != _UNUSED]
    if norms[_quartile(norms, 2)] == 0:
        norms = norms[(norms > 0) & norms.isfinite()]
        if not norms.numel():
            return
    quartiles = norms[[_quartile(norms, k) for k in range(5)]]
    values = quartiles.tolist()
    if not math.isfinite(values[2]):
        raise ZipasrError(
            f"too many gradients were not finite: at step {t} the median of the recent norms must be finite, but is "
            f"{values[2]}; lower the learning rate, or look for infinities in the loss or the data"
        )
    shared["model_norm_threshold"] = quartiles[2] * (2 * scale if is_early else scale)
    percent = 100 * float(shared["num_clipped"]) / (t if is_early else period)
    listed = " ".join(f"{value:.3e}" for value in values)
    threshold = float(shared["model_norm_threshold"])
    log.info("step %d: gradient norm quartiles %s, threshold %.3e, clipped %.1f %%", t, listed, threshold, percent)
    shared["num_clipped"].zero_()


def _quartile(sorted_norms: Tensor, k: int) -> int:
    """Index of the k-th quartile, as the published code takes it."""
    num = sorted_norms.numel()
    return min(num - 1, num // 4 * k)


def _warn_of_clipping(group: dict[str, Any], shared: dict[str, Any], norms: Tensor, params: list[Tensor]) -> None:
    names = {id(p): name for p, name in zip(group["params"], group.get("param_names", ()), strict=False)}
    shares = norms.square() / norms.square().sum()
    top = torch.topk(shares.nan_to_num(nan=math.inf), k=min(3, len(params))).indices.tolist()
    listed = ", ".join(
        f"{names.get(id(params[i]), f'tensor of shape {tuple(params[i].shape)}')} {float(shares[i]):.0%}" for i in top
    )
    log.warning("step %d: gradients scaled by %.3g; largest parts: %s", shared["step"], shared["clip_factor"], listed)


def clipped(grads: list[Tensor], factor: Tensor | None) -> list[Tensor]:
    """Return the gradients times the factor; all are zero if it is 0, even those that are not finite."""
    if factor is None:
        return grads
    scaled = torch._foreach_mul(grads, factor)
    is_dropped = factor == 0
    for grad in scaled:
        grad.masked_fill_(is_dropped, 0.0)
    return list(scaled)
