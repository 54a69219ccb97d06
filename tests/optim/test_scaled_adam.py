"""ScaledAdam. Golden: trajectories of the published code. Reference: one parameter at a time, written plainly. Law:
deterministic, independent of chunking and of the scale of loss and weights, converges. Contract: the interface of torch's
optimizers, resume, errors."""

import copy
import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from zipasr.errors import ZipasrError
from zipasr.optim import ScaledAdam, scaled_adam

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = {
    "weight": (7, 5),
    "same": (7, 5),
    "bias": (5,),
    "conv": (3, 2, 1, 4),
    "scalar": (),
    "one": (1,),
    "zeros": (6,),
    "large": (40, 30),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(shape, generator=generator, dtype=dtype) * 0.3 for name, shape in SHAPES.items()}
    values["zeros"].zero_()
    return {name: nn.Parameter(value) for name, value in values.items()}


def make_gradients(step: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor | None]:
    """Gradients with a preferred direction, occasional outliers, and one parameter without a gradient on some steps."""
    generator = torch.Generator().manual_seed(1000 + step)
    size = 300.0 if step % 37 == 30 else 1.0
    grads: dict[str, Tensor | None] = {
        name: (torch.randn(shape, generator=generator, dtype=dtype) + 0.3) * size for name, shape in SHAPES.items()
    }
    if step % 5 == 2:
        grads["same"] = None
    return grads


def run(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], steps: range, scale: float = 1.0) -> None:
    dtype = next(iter(parameters.values())).dtype
    for step in steps:
        grads = make_gradients(step, dtype)
        for name, parameter in parameters.items():
            grad = grads[name]
            parameter.grad = None if grad is None else grad * scale
        optimizer.step()


def assert_equal(got: dict[str, nn.Parameter], want: dict[str, nn.Parameter]) -> None:
    for name in want:
        assert torch.equal(got[name], want[name]), name


class ReferenceScaledAdam:
    """The published algorithm with the published settings, parameter by parameter, for one group."""

    def __init__(self, parameters: dict[str, nn.Parameter], lr: float, clipping_scale: float | None) -> None:
        self.parameters, self.lr, self.clipping_scale = parameters, lr, clipping_scale
        self.t = 0
        self.norms = [0.0] * 100
        self.threshold: float | None = None
        self.state = {
            name: {
                "v": torch.zeros_like(p),
                "m": torch.zeros_like(p),
                "rms": float(p.detach().square().mean().sqrt()),
                "w": 0.0,
                "G": [0.0] * 4,
            }
            for name, p in parameters.items()
        }

    @torch.no_grad()
    def step(self) -> None:
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.parameters.items()}
        factor = self.clip_factor(grads)
        for name, p in self.parameters.items():
            self.step_one(p, grads[name] * factor, self.state[name])
        self.t += 1

    def clip_factor(self, grads: dict[str, Tensor]) -> float:
        if self.clipping_scale is None or self.t == 0:
            return 1.0
        total = 0.0
        for name, g in grads.items():
            weight = 0.1 if g.numel() == 1 else self.state[name]["rms"]
            total += float((g * weight).square().sum())
        norm = math.sqrt(total)
        self.norms[self.t % 100] = norm
        if self.t % 100 == 0 or self.t in (10, 20, 40):
            early = self.t % 100 != 0
            values = sorted(self.norms)[-self.t if early else 0 :]
            median = values[min(len(values) - 1, len(values) // 4 * 2)]
            self.threshold = self.clipping_scale * median * (2 if early else 1)
        return 1.0 if self.threshold is None else min(1.0, self.threshold / (norm + 1e-20))

    def step_one(self, p: Tensor, g: Tensor, state: dict) -> None:
        t, lr, eps = self.t, self.lr, 1e-8
        state["v"] = 0.98 * state["v"] + 0.02 * g * g
        correction = 1 - 0.98 ** (t + 1)
        v = state["v"] / correction if correction < 0.99 else state["v"]
        if p.numel() == 1:
            d = -lr * 0.1 * g / (v.sqrt() + eps)
        else:
            state["G"][t % 4] = float((p * g).sum())
            if t % 4 == 3:
                state["rms"] = float(p.square().mean().sqrt())
            rms = state["rms"]
            d = -lr * g / (v.sqrt() + eps) * max(rms, 1e-5)
            if t % 4 == 3:
                d = d + p * self.size_step(state, rms)
        state["m"] = 0.9 * state["m"] + 0.1 * d
        p += state["m"]
        if p.numel() == 1:
            p.clamp_(-10, 10)

    def size_step(self, state: dict, rms: float) -> float:
        beta = 0.98**4
        state["w"] = beta * state["w"] + (1 - beta) * sum(x * x for x in state["G"]) / 4
        if rms < 1e-5:
            return 0.0
        correction = 1 - beta ** ((self.t + 1) // 4)
        s = -self.lr * 0.1 * math.sqrt(correction) * sum(state["G"]) / (math.sqrt(state["w"]) + 1e-8)
        return min(max(-0.1, min(0.1, s)), (3.0 - rms) / rms)


@pytest.mark.parametrize("name", ["clip", "clip100", "limits", "noclip"])
def test_golden_trajectory(name: str) -> None:
    with safe_open(GOLDEN / f"c_scaled_adam_{name}.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["meta"])
        golden = {key: file.get_tensor(key) for key in file.keys()}
    parameters = {key: nn.Parameter(golden[f"in.p0.{key}"].clone()) for key in meta["order"]}
    optimizer = ScaledAdam(parameters.items(), **meta["args"])
    num_compared = 0
    for step in range(meta["steps"]):
        for key, parameter in parameters.items():
            parameter.grad = golden.get(f"in.g{step}.{key}")
        optimizer.step()
        for key, parameter in parameters.items():
            if (want := golden.get(f"out.p{step + 1}.{key}")) is not None:
                torch.testing.assert_close(parameter.detach(), want, rtol=0, atol=1e-6)
                num_compared += 1
    assert num_compared >= 10 * len(parameters)

    scalars = meta["scalar_state"]
    if "f_scalar.num_clipped" in scalars:
        assert optimizer.num_clipped == scalars["f_scalar.num_clipped"]
        assert optimizer.model_norm_threshold == pytest.approx(scalars["f_scalar.model_norm_threshold"], rel=1e-6)
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for key, parameter in parameters.items():
        by_shape.setdefault(tuple(parameter.shape), []).append(key)
    sized = [key for key in meta["order"] if parameters[key].numel() > 1]
    shared = optimizer.state[parameters[meta["order"][0]]]
    for keys in by_shape.values():
        want_squares = golden[f"out.state.{keys[0]}.exp_avg_sq"]
        want_deltas = golden[f"out.state.{keys[0]}.delta"]
        for i, key in enumerate(keys):
            state = optimizer.state[parameters[key]]
            unit = torch.tensor(meta["args"].get("scalar_lr_scale", 0.1))
            if key in sized:
                rms = shared["param_rms"][sized.index(key)]
                torch.testing.assert_close(rms, golden[f"out.state.{keys[0]}.param_rms"][i].flatten()[0])
                unit = rms.clamp_min(meta["args"].get("param_min_rms", 1e-5))
            torch.testing.assert_close(state["exp_avg_sq"], want_squares[i], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(state["delta"] * unit, want_deltas[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("clipping_scale", [None, 2.0])
def test_equals_reference(clipping_scale: float | None) -> None:
    ours, theirs = make_parameters(), make_parameters()
    optimizer = ScaledAdam(ours.items(), lr=0.045, clipping_scale=clipping_scale)
    reference = ReferenceScaledAdam(theirs, lr=0.045, clipping_scale=clipping_scale)
    for step in range(450):
        run(optimizer, ours, range(step, step + 1))
        run(reference, theirs, range(step, step + 1))  # type: ignore[arg-type]
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-9, msg=name)


def test_equals_reference_in_float32() -> None:
    ours, theirs = make_parameters(torch.float32), make_parameters(torch.float32)
    run(ScaledAdam(ours.values(), lr=0.045, clipping_scale=2.0), ours, range(450))
    run(ReferenceScaledAdam(theirs, lr=0.045, clipping_scale=2.0), theirs, range(450))  # type: ignore[arg-type]
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5, msg=name)


def test_deterministic() -> None:
    runs = []
    for _ in range(2):
        parameters = make_parameters(torch.float32)
        run(ScaledAdam(parameters.values(), clipping_scale=2.0), parameters, range(60))
        runs.append(parameters)
    assert_equal(*runs)


@pytest.mark.parametrize("chunk_elements", [1, 30, 10**9])
def test_chunk_size_changes_nothing(chunk_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want, got = make_parameters(torch.float32), make_parameters(torch.float32)
    run(ScaledAdam(want.values(), clipping_scale=2.0), want, range(60))
    monkeypatch.setitem(scaled_adam.CHUNK_ELEMENTS, "cpu", chunk_elements)
    run(ScaledAdam(got.values(), clipping_scale=2.0), got, range(60))
    assert_equal(got, want)


def test_groups_change_nothing_without_clipping() -> None:
    want, got = make_parameters(torch.float32), make_parameters(torch.float32)
    run(ScaledAdam(want.values()), want, range(40))
    values = list(got.values())
    run(ScaledAdam([{"params": values[5:]}, {"params": values[:5]}]), got, range(40))
    assert_equal(got, want)


def test_gradient_scale_changes_nothing() -> None:
    """Sums and means of losses train alike. The scale is a power of 2, so only eps makes a difference to rounding."""
    want, got = make_parameters(), make_parameters()
    run(ScaledAdam(want.values(), clipping_scale=2.0), want, range(60))
    run(ScaledAdam(got.values(), clipping_scale=2.0), got, range(60), scale=1024.0)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_weight_scale_scales_the_trajectory() -> None:
    """A tensor k times as large, in a loss of x / k, follows the same path k times as large."""
    start = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    paths = []
    for k in (1.0, 4.0):
        p = nn.Parameter(start * k)
        optimizer = ScaledAdam([p], clipping_scale=2.0)
        for _ in range(50):
            optimizer.zero_grad()
            ((p / k - 0.2) ** 2).sum().backward()
            optimizer.step()
        paths.append(p.detach() / k)
    torch.testing.assert_close(paths[1], paths[0], rtol=1e-5, atol=1e-6)


def test_converges() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    target = torch.tanh(x @ torch.randn(10, 3))
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 3))
    optimizer = ScaledAdam(model.named_parameters(), lr=0.045, clipping_scale=2.0)
    losses = []
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.045 * (1 - step / 200)
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("stop", [7, 43])
def test_resume_is_bit_identical(stop: int) -> None:
    want = make_parameters(torch.float32)
    run(ScaledAdam(want.items(), clipping_scale=2.0), want, range(stop + 30))
    got = make_parameters(torch.float32)
    first = ScaledAdam(got.items(), clipping_scale=2.0)
    run(first, got, range(stop))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = ScaledAdam(got.items(), lr=0.5)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    run(second, got, range(stop, stop + 30))
    assert_equal(got, want)
    assert second.last_clip_factor == 1.0 or second.num_clipped > 0


def test_state_of_a_new_optimizer_round_trips() -> None:
    want, got = make_parameters(), make_parameters()
    run(ScaledAdam(want.values()), want, range(3))
    optimizer = ScaledAdam(got.values())
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, got, range(3))
    assert_equal(got, want)


def test_missing_gradient_is_a_zero_gradient() -> None:
    want, got = make_parameters(), make_parameters()
    for parameters, is_missing in ((want, False), (got, True)):
        optimizer = ScaledAdam(parameters.values(), clipping_scale=2.0)
        run(optimizer, parameters, range(6))
        before = parameters["weight"].detach().clone()
        for p in parameters.values():
            p.grad = None if is_missing else torch.zeros_like(p)
        optimizer.step()
        assert not torch.equal(parameters["weight"], before), "momentum continues"
    assert_equal(got, want)


def test_step_before_any_gradient_leaves_parameters() -> None:
    want, got = make_parameters(), make_parameters()
    ScaledAdam(got.values(), clipping_scale=2.0).step()
    assert_equal(got, want)


def test_gradients_are_left_alone() -> None:
    parameters = make_parameters()
    optimizer = ScaledAdam(parameters.values(), clipping_scale=2.0)
    run(optimizer, parameters, range(30))
    run(optimizer, parameters, range(30, 31))  # an outlier
    assert optimizer.last_clip_factor < 0.1
    assert optimizer.num_clipped == 1
    for name, grad in make_gradients(30).items():
        if grad is not None:
            assert torch.equal(parameters[name].grad, grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [5, 25])
def test_non_finite_gradient_is_dropped(bad: float, step: int) -> None:
    parameters = make_parameters()
    optimizer = ScaledAdam(parameters.values(), clipping_scale=2.0)
    run(optimizer, parameters, range(step))
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    parameters["large"].grad[3, 4] = bad  # type: ignore[index]
    optimizer.step()
    assert optimizer.last_clip_factor == 0.0
    run(optimizer, parameters, range(step + 1, step + 20))
    assert all(torch.isfinite(p).all() for p in parameters.values())


def test_too_many_non_finite_gradients_stop_training() -> None:
    parameters = make_parameters()
    optimizer = ScaledAdam(parameters.values(), clipping_scale=2.0)
    run(optimizer, parameters, range(2))
    with pytest.raises(ZipasrError, match="too many gradients were not finite: at step 10"):
        run(optimizer, parameters, range(2, 12), scale=math.nan)
    assert all(torch.isfinite(p).all() for p in parameters.values())


def test_clipping_is_logged_with_names(caplog: pytest.LogCaptureFixture) -> None:
    parameters = make_parameters()
    optimizer = ScaledAdam(parameters.items(), clipping_scale=2.0)
    with caplog.at_level(logging.INFO, logger="zipasr"):
        run(optimizer, parameters, range(31))
    messages = [record.getMessage() for record in caplog.records]
    assert [m for m in messages if m.startswith("step 20: gradient norm quartiles")]
    assert [m for m in messages if m.startswith("step 30: gradients scaled by 0.0") and "large" in m]


def test_rate_of_zero_only_lets_momentum_run_out() -> None:
    parameters, want = make_parameters(), make_parameters()
    run(ScaledAdam(parameters.values(), lr=0.0), parameters, range(10))
    for name in want:
        torch.testing.assert_close(parameters[name], want[name], rtol=0, atol=1e-20)


def test_each_group_has_its_rate() -> None:
    parameters = make_parameters()
    other = make_parameters()
    optimizer = ScaledAdam(
        [{"named_params": [("weight", parameters["weight"])], "lr": 0.01}, {"params": [("bias", parameters["bias"])]}],
        lr=0.02,
    )
    run(optimizer, {name: parameters[name] for name in ("weight", "bias")}, range(5))
    run(ScaledAdam([other["weight"]], lr=0.01), {"weight": other["weight"]}, range(5))
    run(ScaledAdam([other["bias"]], lr=0.02), {"bias": other["bias"]}, range(5))
    assert_equal(parameters, other)
    assert optimizer.param_groups[0]["param_names"] == ["weight"]


def test_closure_returns_the_loss() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = ScaledAdam([p])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert closure().item() < 3.0


def test_any_memory_layout() -> None:
    torch.manual_seed(0)
    want = nn.Parameter(torch.randn(4, 3, 5, 2))
    got = nn.Parameter(want.detach().clone(memory_format=torch.channels_last))
    assert not got.is_contiguous()
    optimizers = [ScaledAdam([p], clipping_scale=2.0) for p in (want, got)]
    for _ in range(12):
        for p, optimizer in zip((want, got), optimizers, strict=True):
            optimizer.zero_grad()
            (p * p.detach().cos()).sum().backward()
            optimizer.step()
    assert torch.equal(got, want)


def test_empty_parameter() -> None:
    parameters = [nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.ones(4))]
    optimizer = ScaledAdam(parameters, clipping_scale=2.0)
    for _ in range(12):
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.isfinite(parameters[1]).all()


def test_limits_on_size() -> None:
    """A tensor above the largest rms shrinks below it even without a gradient; a scalar stays within its bound."""
    tensor, scalar = nn.Parameter(torch.full((4, 4), 3.2)), nn.Parameter(torch.tensor(12.0))
    optimizer = ScaledAdam([tensor, scalar])
    for _ in range(60):
        optimizer.step()
    assert 2.5 < float(tensor.detach().square().mean().sqrt()) < 3.0
    assert scalar.item() == 10.0


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float16, torch.bfloat16])
def test_refuses_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"layer\.weight is torch.*keep the model in float32"):
        ScaledAdam([("layer.weight", nn.Parameter(torch.zeros(3, dtype=dtype)))])


def test_refuses_mixed_group_and_sparse_gradient() -> None:
    with pytest.raises(ValueError, match="one dtype and one device"):
        ScaledAdam([nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, dtype=torch.float64))]).step()
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="must be dense"):
        ScaledAdam(embedding.parameters()).step()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", -1.0),
        ("eps", 0.0),
        ("betas", (0.9, 1.0)),
        ("clipping_scale", 0.0),
        ("size_update_period", 0),
        ("clipping_update_period", 2.5),
        ("param_max_rms", math.nan),
    ],
)
def test_refuses_option(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        ScaledAdam([nn.Parameter(torch.zeros(3))], **{option: value})  # type: ignore[arg-type]
