"""ScaledAdam: Adam whose step on a tensor is proportional to the tensor's own size (its root mean square, rms).

In: parameters and their gradients, any shapes, float32 or float64. Out: the parameters, updated in place. Two things
are learned for every tensor: its entries, by a step relative to its rms, and the logarithm of its rms, by a separate
Adam. Gradients are clipped against the running median of their own norm, so the scale of the loss has no effect.

A step is bound by memory traffic on a CPU and by kernel launches on a GPU. Tensors are therefore processed in chunks
(small ones on a CPU, so that a chunk stays in the cache; large ones elsewhere), and momentum is kept in units of the
tensor's rms: one rate then applies to a whole chunk, and torch's one-pass AdamW kernel does most of the work.

Source: Yao et al. 2024, "Zipformer", arXiv:2310.11230. Where the paper and the published training code
differ (momentum acts on the finished update, the rms is learned every 4 steps), this follows the code; its trajectories
are in tests/optim/test_scaled_adam.py::test_golden_trajectory.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zipasr.optim.clipping import clip_factor, clipped, new_clipping_state

CHUNK_ELEMENTS = {"cpu": 2**18}  # 2^16 to 2^20 differ by less than 10 %; single tensors or all at once are 20 % slower
LARGE_CHUNK_ELEMENTS = 2**24  # a few hundred tensors per launch, at most 128 MiB of temporaries
NO_CORRECTION_FROM = 0.99  # value of 1 - beta2^t from which bias correction is skipped, as in the published code
TINY_LR = 1e-30  # replaces a rate of 0, because the kernel's weight decay is divided by it
MAX_SIZE_STEP = 0.1  # largest change of a tensor's log rms in one update, before momentum


class _Tensors(NamedTuple):
    """Flat views of some parameters; entry i of each list belongs to parameter i."""

    values: list[Tensor]
    grads: list[Tensor]
    squares: list[Tensor]
    deltas: list[Tensor]

    def part(self, start: int, end: int) -> "_Tensors":
        return _Tensors(*(tensors[start:end] for tensors in self))


class ScaledAdam(torch.optim.Optimizer):
    """Adam with steps relative to the rms of each tensor, learned tensor sizes and median-based gradient clipping.

    For a tensor p of more than one element, gradient g, step t = 0, 1, ..., r = rms(p) as of the last size update:

        v <- beta2 v + (1 - beta2) g^2;   d = -lr max(r, param_min_rms) g / (sqrt(v / (1 - beta2^(t+1))) + eps)
        every size_update_period steps:   d <- d + s p,  s an Adam step of rate lr*scalar_lr_scale on log r
        m <- beta1 m + (1 - beta1) d;     p <- p + m

    Tensors of one element ("scalars") take lr*scalar_lr_scale in place of lr r, and stay within +-scalar_max.

    A parameter without a gradient is treated as having a gradient of zero: its momentum still moves it, and the limits on
    size still apply. To freeze parameters, leave them out (`parameter_groups(..., frozen=...)`).

    Clipping is done for each parameter group by itself: one norm, one median (logged), one threshold. It starts after
    10 steps; gradients whose norm is not finite are dropped from the first step on. Steps without gradients do not count if
    there are more of them than others. Read `last_clip_factor`, `num_clipped` and `model_norm_threshold` to log it; each
    waits for the device.

    State: `exp_avg_sq` (v) and `delta` (m / max(r, param_min_rms)) of every parameter. State of a whole group is stored
    with the group's first parameter: `step`; `param_rms`, `scale_grads` and `scale_exp_avg_sq` with one entry per tensor
    of more than one element, in the group's order; and the state of clipping.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either (`{"params": ..., "lr": ...}`; the key
            `named_params` also works). A group must have one dtype and one device. Names make warnings readable.
        lr: relative change per step; 0.045 in the published runs, lowered by `Eden`.
        clipping_scale: gradients whose norm exceeds this times the median are scaled down to it; None disables clipping;
            2.0 in the published runs.
        betas: decay of momentum and of the second moment.
        scalar_lr_scale: factor on `lr` for scalars and for the size of tensors.
        eps: added to the root of the second moment.
        param_min_rms: smallest rms assumed for a tensor.      param_max_rms: size beyond which a tensor is shrunk.
        scalar_max: bound of scalars.
        size_update_period: steps between updates of the size.      clipping_update_period: steps between medians.
    Raises:
        ValueError: an option is out of its range; parameters are complex, of half precision (steps are too small for
            it: keep the model in float32 and train under autocast), or mixed in one group; a gradient is sparse.
        ZipasrError: raised by `step` if half of the recent gradients were not finite. That step changes no parameter.
    """

    # Differs: more than 8 parameters, as in every torch optimizer, to be a drop-in; the group dicts are the config.
    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.03,
        *,
        clipping_scale: float | None = None,
        betas: tuple[float, float] = (0.9, 0.98),
        scalar_lr_scale: float = 0.1,
        eps: float = 1e-8,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        clipping_update_period: int = 100,
    ) -> None:
        defaults = {
            "lr": lr,
            "clipping_scale": clipping_scale,
            "betas": betas,
            "scalar_lr_scale": scalar_lr_scale,
            "eps": eps,
            "param_min_rms": param_min_rms,
            "param_max_rms": param_max_rms,
            "scalar_max": scalar_max,
            "size_update_period": size_update_period,
            "clipping_update_period": clipping_update_period,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: `params` or `named_params`, and any option that differs from the optimizer's own."""
        if "named_params" in param_group:
            rest = {key: value for key, value in param_group.items() if key != "named_params"}
            param_group = {"params": list(param_group["named_params"]), **rest}
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @property
    def last_clip_factor(self) -> float:
        """Factor on the gradients of the last step: the smallest over the groups, 1.0 if not clipped."""
        return self._smallest("clip_factor", otherwise=1.0)

    @property
    def num_clipped(self) -> int:
        """Number of clipped steps since the last threshold was set, summed over the groups."""
        return sum(int(state["num_clipped"]) for state in self.state.values() if "num_clipped" in state)

    @property
    def model_norm_threshold(self) -> float:
        """Norm above which gradients are clipped: the smallest over the groups, inf before the first median."""
        return self._smallest("model_norm_threshold", otherwise=math.inf)

    def _smallest(self, name: str, *, otherwise: float) -> float:
        return min((float(state[name]) for state in self.state.values() if name in state), default=otherwise)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter once; `closure`, if given, recomputes the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["params"]:
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = sorted(group["params"], key=_is_scalar)  # stable: scalars last, the rest in order
        num_sized = len(params) - sum(map(_is_scalar, params))
        shared = self._prepare_state(group, params[:num_sized])
        tensors = _Tensors(
            values=[p.contiguous() for p in params],
            grads=[_dense_gradient(p) for p in params],
            squares=[self.state[p]["exp_avg_sq"] for p in params],
            deltas=[self.state[p]["delta"] for p in params],
        )
        factor = clip_factor(group, shared, tensors.grads, params)
        for start, end in _chunks(tensors.values[:num_sized]):
            _update_sized(group, shared, slice(start, end), tensors.part(start, end), factor)
        if num_sized < len(params):
            _update_scalars(group, shared, tensors.part(num_sized, len(params)), factor)
        for p, value in zip(params, tensors.values, strict=True):
            if value is not p:
                p.copy_(value)
        shared["step"] += 1

    def _prepare_state(self, group: dict[str, Any], sized: list[Tensor]) -> dict[str, Any]:
        """Return the group's shared state; create what is missing in it, at the first step also the parameters' state."""
        first: Tensor = group["params"][0]
        shared = self.state[first]
        if not shared:
            self._create_state(group, sized, first, shared)
        if group["clipping_scale"] is not None and "model_norms" not in shared:  # clipping may be enabled at any step
            shared |= new_clipping_state(first, group["clipping_update_period"])
        return shared

    def _create_state(self, group: dict[str, Any], sized: list[Tensor], first: Tensor, shared: dict[str, Any]) -> None:
        for p in group["params"]:
            if p.dtype != first.dtype or p.device != first.device:
                raise ValueError(
                    f"a parameter group must have one dtype and one device, but has {first.dtype} on {first.device} "
                    f"and {p.dtype} on {p.device}; make a group of each"
                )
            for name in ("exp_avg_sq", "delta"):
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.contiguous_format)
        shared["step"] = 0
        if sized:
            shared["param_rms"] = _rms(sized)
            shared["scale_grads"] = first.new_zeros(group["size_update_period"], len(sized))
            shared["scale_exp_avg_sq"] = first.new_zeros(len(sized))


def _update_sized(
    group: dict[str, Any], shared: dict[str, Any], chunk: slice, tensors: _Tensors, factor: Tensor | None
) -> None:
    """Update tensors with more than one element; `chunk` is their range in the vectors of the shared state."""
    t, period = shared["step"], group["size_update_period"]
    grads = clipped(tensors.grads, factor)
    scale_grads = shared["scale_grads"][:, chunk]
    dots = [torch.dot(value.view(-1), grad.view(-1)) for value, grad in zip(tensors.values, grads, strict=True)]
    torch.stack(dots, out=scale_grads[t % period])
    rms = shared["param_rms"][chunk]
    unit = rms.clamp_min(group["param_min_rms"])
    is_size_update = t % period == period - 1
    if is_size_update:
        rms.copy_(_rms(tensors.values))
        old_unit, unit = unit, rms.clamp_min(group["param_min_rms"])
        torch._foreach_mul_(tensors.deltas, (old_unit / unit).unbind())
    _update_moments(group, t, tensors, grads)
    if is_size_update and t > 0:
        size_steps = _size_steps(group, t, rms, scale_grads, shared["scale_exp_avg_sq"][chunk])
        shares = size_steps * (1 - group["betas"][0]) / unit
        torch._foreach_addcmul_(tensors.deltas, tensors.values, shares.unbind())
    torch._foreach_addcmul_(tensors.values, tensors.deltas, unit.unbind())


def _update_scalars(group: dict[str, Any], shared: dict[str, Any], tensors: _Tensors, factor: Tensor | None) -> None:
    """Update tensors with one element: their size is fixed instead of learned, and their values are bounded."""
    _update_moments(group, shared["step"], tensors, clipped(tensors.grads, factor))
    torch._foreach_add_(tensors.values, tensors.deltas, alpha=group["scalar_lr_scale"])
    torch._foreach_clamp_min_(tensors.values, -group["scalar_max"])
    torch._foreach_clamp_max_(tensors.values, group["scalar_max"])


def _update_moments(group: dict[str, Any], t: int, tensors: _Tensors, grads: list[Tensor]) -> None:
    """v <- beta2 v + (1 - beta2) g^2, then m <- beta1 m - (1 - beta1) lr g / (sqrt(v / correction) + eps).

    AdamW without a first moment, with m as the weights, rate (1 - beta1) lr and a weight decay that leaves beta1 of m,
    is this formula, so torch's one-pass AdamW kernel computes it. Its buffer for first moments is scratch memory.
    """
    beta1, beta2 = group["betas"]
    lr = max(group["lr"], TINY_LR)
    adam_step = t + 1 if 1 - beta2 ** (t + 1) < NO_CORRECTION_FROM else 10**9  # 1 - beta2^(10^9) is 1
    torch._fused_adamw_(
        tensors.deltas,
        grads,
        [torch.zeros_like(grad) for grad in grads],
        tensors.squares,
        [],
        [torch.full((), float(adam_step), device=grads[0].device)] * len(grads),
        lr=(1 - beta1) * lr,
        beta1=0.0,
        beta2=beta2,
        weight_decay=1 / lr,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def _size_steps(group: dict[str, Any], t: int, rms: Tensor, scale_grads: Tensor, scale_squares: Tensor) -> Tensor:
    """Return for each tensor the relative change of its size: an Adam step on the gradient with respect to log rms."""
    period = group["size_update_period"]
    beta = group["betas"][1] ** period
    scale_squares.lerp_(scale_grads.square().mean(dim=0), 1 - beta)
    correction = 1 - beta ** ((t + 1) // period)
    rate = -group["lr"] * group["scalar_lr_scale"] * math.sqrt(correction)
    steps = scale_grads.sum(dim=0) / (scale_squares.sqrt() + group["eps"]) * rate
    steps.masked_fill_(rms < group["param_min_rms"], 0.0).clamp_(-MAX_SIZE_STEP, MAX_SIZE_STEP)
    return torch.minimum(steps, (group["param_max_rms"] - rms) / rms)


def _dense_gradient(p: Tensor) -> Tensor:
    if p.grad is None:
        return torch.zeros_like(p, memory_format=torch.contiguous_format)
    if p.grad.layout != torch.strided:
        raise ValueError(f"gradients must be dense, but one is {p.grad.layout}; make the layer with sparse=False")
    return p.grad.contiguous()


def _is_scalar(p: Tensor) -> bool:
    return p.numel() <= 1


def _chunks(tensors: list[Tensor]) -> Iterator[tuple[int, int]]:
    """Split the list into runs of whole tensors, each with as many as fit a chunk and at least one."""
    if not tensors:
        return
    limit = CHUNK_ELEMENTS.get(tensors[0].device.type, LARGE_CHUNK_ELEMENTS)
    start, filled = 0, 0
    for i, tensor in enumerate(tensors):
        if i > start and filled + tensor.numel() > limit:
            yield start, i
            start, filled = i, 0
        filled += tensor.numel()
    yield start, len(tensors)


def _rms(tensors: list[Tensor]) -> Tensor:
    norms = torch._foreach_norm(tensors)
    return torch.stack(torch._foreach_div(norms, [math.sqrt(tensor.numel()) for tensor in tensors]))


def _check_group(group: dict[str, Any]) -> None:
    """Raise ValueError for an invalid option or an unsupported parameter."""
    names = group.get("param_names", [f"parameter {i}" for i in range(len(group["params"]))])
    for name, p in zip(names, group["params"], strict=True):
        if p.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"parameters must be float32 or float64, but {name} is {p.dtype}; keep the model in float32 and train "
                "under torch.autocast"
            )
    for option in ("eps", "param_min_rms", "param_max_rms", "scalar_max"):
        if not group[option] > 0:
            raise ValueError(f"{option} must be > 0, but is {group[option]}")
    for option in ("lr", "scalar_lr_scale"):
        if not group[option] >= 0:
            raise ValueError(f"{option} must be >= 0, but is {group[option]}")
    for option in ("size_update_period", "clipping_update_period"):
        if not (isinstance(group[option], int) and group[option] >= 1):
            raise ValueError(f"{option} must be a whole number >= 1, but is {group[option]}")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas must be in [0, 1), but are {group['betas']}")
    if group["clipping_scale"] is not None and not group["clipping_scale"] > 0:
        raise ValueError(f"clipping_scale must be None or > 0, but is {group['clipping_scale']}")
