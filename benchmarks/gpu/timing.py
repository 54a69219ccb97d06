"""Clocks and counters: time by CUDA events, peak memory, and what the host does beside computing.

Times are milliseconds of the device where it is CUDA, and of the wall clock elsewhere.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

NUM_WARM_UPS = 3
NUM_REPEATS = 10
NUM_INPUT_SETS = 3
"""Batches of different inputs that take turns."""
LONG_S = 8.0
"""Seconds after which no more calls are timed."""
MIB = 2**20


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies, by the nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(share * (len(ranked) - 1)))]


def time_calls(calls: Sequence[Callable[[], Any]], device: torch.device, *, is_toy: bool = False) -> dict[str, Any]:
    """Time calls that do the same on different inputs, in turn.

    Args:
        calls: one for each set of inputs.
        device: where they compute.
        is_toy: warm up once and measure twice, since the figures do not matter.

    Calls that take seconds are measured less often, three times at least; num_calls says how often.

    Returns:
        ms (median), p10_ms, p90_ms, host_ms (median until the call returns) and num_calls.
    """
    times, host_times = [], []
    num_warm_ups, num_repeats = (1, 2) if is_toy else (NUM_WARM_UPS, NUM_REPEATS)
    start = time.perf_counter()
    for i in range(num_warm_ups):
        calls[i % len(calls)]()
        synchronize(device)
        if time.perf_counter() - start > LONG_S / 3:
            break
    start = time.perf_counter()
    for i in range(num_repeats):
        elapsed_ms, host_ms = time_once(calls[i % len(calls)], device)
        times.append(elapsed_ms)
        host_times.append(host_ms)
        if len(times) >= NUM_INPUT_SETS and time.perf_counter() - start > LONG_S:
            break
    return {
        "ms": percentile(times, 0.5),
        "p10_ms": percentile(times, 0.1),
        "p90_ms": percentile(times, 0.9),
        "host_ms": percentile(host_times, 0.5),
        "num_calls": len(times),
    }


def time_once(call: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Milliseconds until the device has finished, and until the call returns."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        elapsed_ms = 1e3 * (time.perf_counter() - start)
        return elapsed_ms, elapsed_ms
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start = time.perf_counter()
    first.record()
    call()
    last.record()
    host_ms = 1e3 * (time.perf_counter() - start)
    last.synchronize()
    return first.elapsed_time(last), host_ms


def peak_mib(call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Most memory that a call has allocated and reserved on a GPU, all that was there before included; nothing elsewhere."""
    if device.type != "cuda":
        call()
        return {}
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return {
        "peak_mib": torch.cuda.max_memory_allocated(device) / MIB,
        "peak_reserved_mib": torch.cuda.max_memory_reserved(device) / MIB,
    }


class OperatorCounter(TorchDispatchMode):
    """Counts, inside a block, operators that compute, bytes that they touch, and where the host waits for the device.

    Views and allocations are left out. Bytes are those of every input and output, so that a cache would save some of them.
    Host waits are `_local_scalar_dense` (`.item()`, `bool()`), copies from the device to the host (`.tolist()`) and
    operators whose output has a size that depends on values. The draws of the constraints (`torch.rand(()).item()`), which
    lie on the host, count apart. On a CPU "device" means the CPU, and copies to the host do not exist.
    """

    SIZED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive")
    ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view")

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.operators: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.num_bytes = 0
        self.num_host_draws = 0
        self._last_draw: Tensor | None = None
        self._plain: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self._plain:  # under inference_mode, item(), to() and others arrive here before they are taken apart
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
            self._plain.add(func)
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self._count_read(args[0])
        elif name in self.SIZED_BY_VALUES and self._is_here(args[0]):
            self.waits[name] += 1
        elif name in ("index", "index_put_", "index_put"):
            self._count_mask(name, args[1])
        elif name in ("_to_copy", "copy_"):
            self._count_copy(out if name == "_to_copy" else args[0], args[0] if name == "_to_copy" else args[1])
        elif name == "rand" and out.dim() == 0:
            self._last_draw = out
        self._count_work(func, name, args, kwargs, out)
        return out

    def _is_here(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.device.type == self.device.type

    def _count_read(self, tensor: Tensor) -> None:
        draw = self._last_draw  # held, so that nothing else can lie at its address
        if draw is not None and tensor.device.type == "cpu" and tensor.data_ptr() == draw.data_ptr():
            self.num_host_draws += 1
        elif self._is_here(tensor):
            self.waits["_local_scalar_dense"] += 1

    def _count_mask(self, name: str, indices: Sequence[Tensor | None]) -> None:
        masks = [index for index in indices if index is not None and index.dtype in (torch.bool, torch.uint8)]
        if any(map(self._is_here, masks)):
            self.waits[f"{name} by a mask"] += 1

    def _count_copy(self, target: Any, source: Any) -> None:
        if isinstance(source, Tensor) and source.device.type != target.device.type:
            self.waits["copy to host" if target.device.type == "cpu" else "copy to device"] += 1

    def _count_work(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        aliases = [result.alias_info for result in func._schema.returns]
        if name in self.ALLOCATIONS or any(alias is not None and not alias.is_write for alias in aliases):
            return
        tensors = [x for x in tree_iter((args, kwargs, out)) if isinstance(x, Tensor) and x.device.type == self.device.type]
        if not tensors:
            return
        self.operators[name] += 1
        # An expanded tensor has more elements than memory behind it.
        self.num_bytes += sum(min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in tensors)

    def figures(self) -> dict[str, Any]:
        """The counts; copies to the device are listed, but the host waits for them only if its memory is not pinned."""
        return {
            "operators": sum(self.operators.values()),
            "gigabytes": self.num_bytes / 1e9,
            "host_waits": sum(n for name, n in self.waits.items() if name != "copy to device"),
            "copies_to_device": self.waits["copy to device"],
            "host_draws": self.num_host_draws,
            "waits": dict(self.waits),
            "most_frequent": dict(self.operators.most_common(12)),
        }


def count_operators(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """What `OperatorCounter` finds in a call."""
    with OperatorCounter(device) as counter:
        call()
    return counter.figures()


RUNTIME_CALLS = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cudaMemcpyAsync", "cudaStreamSynchronize")


def profile_call(call: Callable[[], Any], device: torch.device, *, num_kernels: int = 30) -> dict[str, Any]:
    """One call under the profiler: its longest kernels (operators on a CPU), and how often the runtime was called."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        call()
        synchronize(device)
    events = profiler.key_averages()
    is_gpu = device.type == "cuda"
    kernels = [event for event in events if not is_gpu or event.device_type == torch.autograd.DeviceType.CUDA]

    def microseconds(event: Any) -> float:
        return event.self_device_time_total if is_gpu else event.self_cpu_time_total

    longest = sorted(kernels, key=microseconds, reverse=True)[:num_kernels]
    counts = {event.key: event.count for event in events if event.key in RUNTIME_CALLS}
    return {
        "launches": sum(n for name, n in counts.items() if "Launch" in name) if is_gpu else None,
        "runtime_calls": counts,
        "device_ms": sum(map(microseconds, kernels)) / 1e3,
        "kernels": [{"name": e.key[:120], "ms": microseconds(e) / 1e3, "count": e.count} for e in longest],
    }
