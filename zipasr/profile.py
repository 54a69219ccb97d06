"""Cost of an encoder: parameters, floating-point operations, time and memory, with the paper's figures for comparison.

Operations are counted on the meta device, without computation. Time and memory are measured in a separate process per
encoder. Input is features (N, T, F) at 100 Hz. Run as a module, this file is that process: it reads a request as JSON
from stdin and writes the measurement to stdout; its argument is the process that asks.
"""

import copy
import ctypes
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import zipasr
from zipasr.config import from_json, to_json
from zipasr.device import fast_matmul, select_device
from zipasr.encoder.frontend import ConvNeXt
from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.errors import ConfigError, ZipasrError
from zipasr.model import AsrConfig, AsrModel, make_encoder
from zipasr.nn.swoosh import SwooshLinear
from zipasr.plots import plot_costs
from zipasr.presets import Published, find_published

PAPER_SECONDS, PAPER_BATCH = 30.0, 30
"""Length and number of the utterances with which the paper counts operations and, on a GPU, measures time and memory."""
PAPER_FRAMES = round(PAPER_SECONDS * FEATURE_RATE_HZ)
_MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """Measured time and memory of an encoder pass."""

    device: str
    batch: int
    """Batch size N."""
    seconds: float
    """Length of each utterance."""
    threads: int
    """Number of CPU threads that PyTorch used."""
    time_s: float
    """Median time of a pass over the repeats."""
    min_s: float
    max_s: float
    peak_mib: float | None
    """Peak memory during a pass, minus that of model and input; None if the device does not report it (MPS)."""

    @property
    def setting(self) -> str:
        """Human-readable description of batch, device and threads."""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        return f"{self.batch} x {self.seconds:g} s on {self.device}{threads}"


@dataclass(frozen=True)
class ModelProfile:
    """Size and cost of one model, with published and measured figures if there are any."""

    name: str
    params: int
    """Parameters of the whole model."""
    encoder_params: int
    flops: int
    """Operations of the encoder for 30 s."""
    published: Published | None = None
    """Published figures, if the paper has the model."""
    measured: Measured | None = None

    @property
    def published_like_params(self) -> int:
        """Number of parameters with the head that the published count includes."""
        if self.published is None or self.published.head_params is None:
            return self.params
        return self.encoder_params + self.published.head_params

    @property
    def gflops(self) -> float:
        """Operations of the encoder for 30 s, in 10^9."""
        return self.flops / 1e9

    @property
    def params_difference(self) -> float | None:
        """Difference from the published number of parameters, in percent."""
        return None if self.published is None else _percent(self.published_like_params / 1e6, self.published.params_m)

    @property
    def gflops_difference(self) -> float | None:
        """Difference from the published number of operations, in percent."""
        if self.published is None or self.published.gflops is None:
            return None
        return _percent(self.gflops, self.published.gflops)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON; differences from the paper are in percent."""
        return {
            "name": self.name,
            "params": self.params,
            "encoder_params": self.encoder_params,
            "published_like_params": self.published_like_params,
            "gflops": self.gflops,
            "published": asdict(self.published) if self.published is not None else None,
            "params_difference": self.params_difference,
            "gflops_difference": self.gflops_difference,
            "measured": asdict(self.measured) if self.measured is not None else None,
        }


def _percent(ours: float, published: float) -> float:
    return 100.0 * (ours / published - 1.0)


def profile_model(name: str, config: AsrConfig, measured: Measured | None = None) -> ModelProfile:
    """Count parameters and operations of a model without allocating it.

    Args:
        name: name of the model; if it is a published preset, the paper's figures are included.
        config: configuration of the model.
        measured: result of `profile_encoder`, to be included.
    """
    with torch.device("meta"):
        whole = AsrModel(config)
    return ModelProfile(
        name=name,
        params=count_params(whole),
        encoder_params=count_params(whole.encoder),
        flops=count_flops(whole.encoder, num_features=config.features.num_mel_bins),
        published=find_published(name),
        measured=measured,
    )


def plot_profiles(profiles: Sequence[ModelProfile], path: str | os.PathLike[str]) -> Path:
    """Draw the measured models among `profiles` into a PNG; see `plots.plot_costs`."""
    rows, setting = [], ""
    for profile in profiles:
        paper, measured = profile.published, profile.measured
        if measured is None:
            continue
        setting = measured.setting
        family = profile.name if paper is None else paper.family
        rows.append(
            {
                "family": family,
                "label": "" if paper is None else paper.title.removeprefix(family).lstrip("-"),
                "params_m": profile.published_like_params / 1e6,
                "time_s": measured.time_s,
                "peak_mib": measured.peak_mib,
            }
        )
    return plot_costs(rows, path, title=f"Encoding {setting}")


def count_params(module: nn.Module) -> int:
    """Number of parameters, including frozen ones."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(encoder: nn.Module, num_frames: int = PAPER_FRAMES, *, num_features: int = 80) -> int:
    """Floating-point operations of an encoder for one utterance in eval mode, by the rule behind the paper's table.

    A product in a linear layer, convolution or attention counts 2, and so does an output element of a Bypass. The bias of
    a convolution, an activation, a softmax and the input of a sum count 1 per element, normalization 5. Plain additions
    and multiplications, embeddings and dropout are not counted, nor are activations that are fused with the following
    linear layer (SwooshLinear).

    Args:
        encoder: takes features (1, T, F) and lens (1,); on any device. It is not modified, and no memory is allocated.
        num_frames: T, at 100 Hz.
        num_features: F.
    Source: Yao et al. 2024, arXiv:2310.11230, table 2; tests/test_profile.py::test_published_flops has its figures.
    """
    twin = _meta_twin(encoder).eval()
    features = torch.zeros(1, num_frames, num_features, device="meta")
    lens = torch.full((1,), num_frames, device="meta")
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),  # fused attention would hide its softmax
        FlopCounterMode(display=False) as products,
        _ElementwiseCounter(twin) as elements,
    ):
        twin(features, lens)
    return int(products.get_total_flops()) + elements.total


def _meta_twin(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes but no storage."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in module.parameters()
    }
    memo |= {id(b): b.detach().to("meta") for b in module.buffers()}
    return copy.deepcopy(module, memo)


def _per_input(cost: int) -> Callable[[tuple[Any, ...], Any], int]:
    return lambda args, out: cost * args[0].numel()


def _per_output(cost: int) -> Callable[[tuple[Any, ...], Any], int]:
    return lambda args, out: cost * out.numel()


def _conv_bias(args: tuple[Any, ...], out: Any) -> int:
    return 0 if args[2] is None else out.numel()


_ELEMENTWISE_COSTS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "convolution": _conv_bias,
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax", "sigmoid", "tanh"), _per_output(1)),
    **dict.fromkeys(("softplus", "relu", "silu", "gelu", "glu"), _per_output(1)),  # softplus: the heart of a Swoosh
    "sum": _per_input(1),
    "addcmul": _per_output(2),  # a Bypass
    "linalg_vector_norm": _per_input(5),  # a BiasNorm
    "native_layer_norm": _per_input(5),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), _per_input(2)),  # scale and shift
}
"""Name of an ATen operator, in place or not -> function of its arguments and output that counts its other operations."""


class _ElementwiseCounter(TorchDispatchMode):
    """Sums `_ELEMENTWISE_COSTS` over all operators that run inside the block."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.total = 0
        self._num_paused = 0
        for part in module.modules():
            if isinstance(part, SwooshLinear):
                part.register_forward_pre_hook(self._pause)
                part.register_forward_hook(self._resume)
            elif isinstance(part, ConvNeXt):
                # The paper treats these as 1x1 convolutions, whose bias counts, unlike that of a linear layer.
                part.pointwise1.register_forward_hook(self._count_bias)
                part.pointwise2.register_forward_hook(self._count_bias)

    def _pause(self, *_: Any) -> None:
        self._num_paused += 1

    def _resume(self, *_: Any) -> None:
        self._num_paused -= 1

    def _count_bias(self, module: nn.Module, args: Any, out: Tensor) -> None:
        self.total += out.numel()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        cost = _ELEMENTWISE_COSTS.get(func.overloadpacket.__name__.removesuffix("_"))
        if cost is not None and not self._num_paused:
            self.total += cost(args, out)
        return out


def profile_encoder(
    config: AsrConfig,
    *,
    batch: int | None = None,
    seconds: float = PAPER_SECONDS,
    threads: int | None = None,
    device: str = "auto",
    repeats: int = 5,
) -> Measured:
    """Measure time and peak memory of encoder passes (eval, float32, random weights and input) in a separate process.

    Args:
        config: configuration of the model; its heads are not used.
        batch: batch size; by default 30 on a GPU, as in the paper, and 1 elsewhere.
        seconds: length of each utterance.
        threads: number of CPU threads; by default PyTorch's choice.
        device: see `select_device`.
        repeats: measured passes, after one warm-up pass.
    Raises:
        ConfigError: a number is out of range or there is no such device.
        ZipasrError: the pass fails, for example for lack of memory.
    """
    kind = select_device(device)
    if batch is None:
        batch = PAPER_BATCH if kind.type == "cuda" else 1
    for name, value, least in (("batch", batch, 1), ("seconds", seconds, 0.2), ("repeats", repeats, 1)):
        if not least <= value < math.inf:
            raise ConfigError(f"{name} must be at least {least}, but is {value}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, but is {threads}")
    request = {"config": to_json(config), "batch": batch, "seconds": seconds, "threads": threads}
    request |= {"device": str(kind), "repeats": repeats}
    search_path = [str(Path(zipasr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))}
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    # -P: do not search the working directory for modules.
    command = [sys.executable, "-P", "-m", "zipasr.profile", str(os.getpid())]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=env)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        reason = "it was killed, most likely for lack of memory" if done.returncode < 0 else lines[-1]
        raise ZipasrError(
            f"{batch} x {seconds:g} s could not be encoded on {kind}: {reason}; use a smaller batch or fewer seconds"
        )
    return Measured(**json.loads(done.stdout))


def _measure(request: dict[str, Any]) -> Measured:
    """Build and run the encoder, and measure time and memory; runs in the separate process."""
    config = from_json(AsrConfig, request["config"])
    device = torch.device(request["device"])
    batch, num_frames = request["batch"], round(request["seconds"] * FEATURE_RATE_HZ)
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    encoder = make_encoder(config.encoder).eval().to(device)
    features = torch.randn(batch, num_frames, config.features.num_mel_bins).to(device)
    lens = torch.full((batch,), num_frames).to(device)
    times = []
    with torch.inference_mode(), fast_matmul(device):
        _synchronize(device)
        before = start_of_peak(device)
        for _ in range(request["repeats"] + 1):
            start = time.perf_counter()
            encoder(features, lens)
            _synchronize(device)
            times.append(time.perf_counter() - start)
        peak = peak_bytes(device)
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        batch=batch,
        seconds=request["seconds"],
        threads=torch.get_num_threads(),
        time_s=statistics.median(times[1:]),
        min_s=min(times[1:]),
        max_s=max(times[1:]),
        peak_mib=None if peak is None or before is None else max(0.0, (peak - before) / _MIB),
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def start_of_peak(device: torch.device) -> int | None:
    """Bytes in use now; also resets the peak, if the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if device.type == "cpu" and sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which building the model has raised
        except OSError:
            pass
        else:
            return process_status("VmRSS")
    return peak_bytes(device)


def peak_bytes(device: torch.device) -> int | None:
    """Peak bytes in use since `start_of_peak`; None if the device does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return None
    if sys.platform == "linux":
        return process_status("VmHWM")  # unlike ru_maxrss it does not include the size of the parent process
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def process_status(name: str) -> int:
    """Value of a size field in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _end_with_the_parent(parent: int) -> None:
    """Let Linux end this process with the one that asks for the measurement, which SIGTERM may end alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it has ended before
            sys.exit(1)


if __name__ == "__main__":
    _end_with_the_parent(int(sys.argv[1]))
    print(json.dumps(asdict(_measure(json.load(sys.stdin)))))
