"""Time one step of ScaledAdam beside torch's AdamW on the parameters of the published small model.

    python benchmarks/scaled_adam.py --repeats 20 --json benchmarks/results/scaled_adam.json

Every optimizer owns the same tensors (the rate is so low that none moves) and they take turns, one step each, so that a
busy machine slows all alike: read the ratios. A round is 4 steps of each, since every fourth step of ScaledAdam costs
more; `to_foreach` and `to_fused` are medians over rounds of (mean step / mean step of that AdamW in the same round). Times
are processor time, of all threads together, which other programs disturb less than wall time. `extra` is the peak of what
a step allocates beside the state. With 2 threads on a shared machine, set OMP_WAIT_POLICY=PASSIVE.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from machine import origin, write
from torch import Tensor, nn

from zipasr.optim import ScaledAdam

BASELINES = {"to_foreach": "AdamW foreach", "to_fused": "AdamW fused"}
"""AdamW as PyTorch offers it: one call for each kind of operation, its default on a GPU, or one call for all of it."""


def published_small_shapes() -> list[tuple[int, ...]]:
    """Shapes of the 567 parameters of the small model (transducer, 500 tokens, context 2), computed from its config."""
    channels, hidden = (192, 256, 256, 256, 256, 256), (512, 768, 768, 768, 768, 768)
    kernels, heads, downsample = (31, 31, 15, 15, 15, 31), (4, 4, 4, 8, 4, 4), (1, 2, 4, 8, 4, 2)
    vocabulary, joiner, top = 500, 512, max(channels)
    shapes: list[tuple[int, ...]] = []
    for out, inside in ((8, 1), (32, 8), (128, 32)):
        shapes += [(out, inside, 3, 3), (out,)]
    shapes += [(128, 1, 7, 7), (128,), (384, 128, 1, 1), (384,), (128, 384, 1, 1), (128,)]
    shapes += [*linear(channels[0], 128 * 19), (), (channels[0],)]
    for stack, (c, h, k, f, ds) in enumerate(zip(channels, heads, kernels, hidden, downsample, strict=True)):
        for _ in range(2):
            shapes += layer_shapes(c, h, k, f)
        if stack > 0:
            shapes += [(ds,), (c,)]
    shapes += [(2,), (vocabulary, joiner), (joiner, 4, 2)]
    shapes += [*linear(joiner, top), *linear(joiner, joiner), *linear(vocabulary, joiner)]
    shapes += [*linear(vocabulary, top), *linear(vocabulary, joiner)]
    assert len(shapes) == 567
    assert sum(map(math.prod, shapes)) == 23_285_615
    return shapes


def layer_shapes(c: int, heads: int, kernel: int, hidden: int) -> Iterator[tuple[int, ...]]:
    """Shapes of one Zipformer layer of width `c`."""
    yield from [(c,), (c,), (c,)]  # bypasses
    yield from linear(68 * heads, c)
    yield (4 * heads, 48)
    for _ in range(2):
        yield from [*linear(12 * heads, c), *linear(c, 12 * heads)]
    for size in (3 * hidden // 4, hidden, 5 * hidden // 4):
        yield from [*linear(size, c), *linear(c, size)]
    yield from [*linear(9 * c // 4, c), *linear(c, 3 * c // 4)]
    for _ in range(2):
        yield from [*linear(2 * c, c), (c, 1, kernel), (c,), *linear(c, c)]
    yield from [(), (c,)]  # norm


def linear(rows: int, columns: int) -> list[tuple[int, ...]]:
    """Weight and bias."""
    return [(rows, columns), (rows,)]


def make_optimizers(parameters: list[nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
    """Every contestant on the same parameters; the rate is too low to change a float32."""
    lr = 1e-12
    return {
        "ScaledAdam": ScaledAdam(parameters, lr=lr, clipping_scale=2.0),
        "ScaledAdam, no clipping": ScaledAdam(parameters, lr=lr),
        "AdamW foreach": torch.optim.AdamW(parameters, lr=lr, foreach=True),
        "AdamW fused": torch.optim.AdamW(parameters, lr=lr, fused=True),
        "AdamW for-loop": torch.optim.AdamW(parameters, lr=lr, foreach=False),
    }


def time_steps(optimizers: dict[str, torch.optim.Optimizer], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every single step; in each round all contestants take one step in turn."""
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            start = time.process_time()
            optimizer.step()
            times[name].append(time.process_time() - start)
    return times


def per_period(times: list[float], period: int = 4) -> list[float]:
    """Mean time of each run of `period` steps, in milliseconds."""
    return [1e3 * statistics.fmean(times[i : i + period]) for i in range(0, len(times) - period + 1, period)]


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors that the optimizer keeps between steps."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def peak_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Most bytes that tensors made during one step take at a time, by the profiler's record of the allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        optimizer.step()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure(threads: int, repeats: int, seed: int = 0) -> list[dict[str, float | int | str]]:
    """One row per contestant."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(shape) * 0.1) for shape in published_small_shapes()]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 0.01
    optimizers = make_optimizers(parameters)
    time_steps(optimizers, 8)  # memory is allocated, caches fill
    means = {name: per_period(times) for name, times in time_steps(optimizers, 4 * repeats).items()}
    rows: list[dict[str, float | int | str]] = []
    for name, values in means.items():
        low, *_, high = statistics.quantiles(values, n=10)
        ratios: dict[str, float] = {}
        for key, baseline in BASELINES.items():
            quotients = [value / base for value, base in zip(values, means[baseline], strict=True)]
            ratios[key] = statistics.median(quotients)
            ratios[f"{key}_p10"], *_, ratios[f"{key}_p90"] = statistics.quantiles(quotients, n=10)
        rows.append(
            {
                "optimizer": name,
                "threads": threads,
                "median_ms": statistics.median(values),
                "p10_ms": low,
                "p90_ms": high,
                "min_ms": min(values),
                **ratios,
                "state_bytes": state_bytes(optimizers[name]),
                "peak_extra_bytes": peak_bytes(optimizers[name]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=20, help="rounds of 4 steps of each optimizer")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    head = origin()
    rows = [row for threads in arguments.threads for row in measure(threads, arguments.repeats)]
    print(f"step on {len(published_small_shapes())} tensors, 23,285,615 parameters")
    print(f"{'threads':>7} {'optimizer':24} {'ms':>7} {'p10-p90':>15} {'min':>7} {'foreach':>8} {'fused':>6} "
          f"{'state MB':>9} {'extra MB':>9}")  # fmt: skip
    for row in rows:
        print(
            f"{row['threads']:>7} {row['optimizer']:24} {row['median_ms']:7.1f} "
            f"{row['p10_ms']:7.1f}-{row['p90_ms']:<7.1f} {row['min_ms']:7.1f} {row['to_foreach']:8.2f} "
            f"{row['to_fused']:6.2f} {row['state_bytes'] / 1e6:9.1f} "
            f"{row['peak_extra_bytes'] / 1e6:9.1f}"
        )
    if arguments.json:
        write(arguments.json, head, {"rows": rows})


if __name__ == "__main__":
    main()
