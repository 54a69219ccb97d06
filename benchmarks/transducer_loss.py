"""Time and memory of the transducer losses, forward and backward, on a CPU: B=8 T=250 U=60 V=500 R=5.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/transducer_loss.py --threads 1 2 --repeats 15

Cases: `simple` (smoothed simple loss), `pruned` (pruned loss, the logits given), `all` (simple loss, pruning, joiner of
width 512 with tanh, pruned loss). Every case and number of threads runs in a process of its own: one untimed call,
`--repeats` timed ones, and the peak of resident memory above what the inputs and the libraries already hold, over one
forward and backward pass (Linux's VmHWM, reset before the pass; the logits are counted in `all`, not in `pruned`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import origin, write
from torch import Tensor
from torch.nn import functional

from zipasr.losses import prune_ranges, pruned_transducer_loss, simple_transducer_loss

BATCH, FRAMES, LABELS, VOCAB, RANGE, WIDTH = 8, 250, 60, 500, 5, 512
CASES = ("simple", "pruned", "all")


def make_case(name: str) -> Callable[[], None]:
    """Return one forward and backward pass of the case, with inputs made."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    labels = torch.randint(1, VOCAB, (BATCH, LABELS), generator=generator)
    frame_lens, label_lens = torch.full((BATCH,), FRAMES), torch.full((BATCH,), LABELS)
    am = normal(BATCH, FRAMES, VOCAB).requires_grad_()
    lm = normal(BATCH, LABELS + 1, VOCAB).requires_grad_()

    def simple() -> None:
        simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0).loss_N.sum().backward()

    if name == "simple":
        return simple

    with torch.no_grad():
        loss = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0)
    band = prune_ranges(*loss[1:], frame_lens, label_lens, RANGE)

    def pruned() -> None:
        pruned_transducer_loss(logits, band.first_label_NT, labels, frame_lens, label_lens, blank=0).sum().backward()

    if name == "pruned":
        logits = normal(BATCH, FRAMES, band.width, VOCAB).requires_grad_()
        return pruned

    encoder, decoder = normal(BATCH, FRAMES, WIDTH).requires_grad_(), normal(BATCH, LABELS + 1, WIDTH).requires_grad_()
    encoder_proj, decoder_proj = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
    output = torch.nn.Linear(WIDTH, VOCAB)

    def everything() -> None:
        simple_loss = simple_transducer_loss(am, lm, labels, frame_lens, label_lens, blank=0)
        band = prune_ranges(*simple_loss[1:], frame_lens, label_lens, RANGE)
        position = band.positions_NTR.flatten(1)[:, :, None].expand(-1, -1, WIDTH)
        rows = decoder_proj(decoder).gather(1, position).view(BATCH, FRAMES, band.width, WIDTH)
        logits = functional.linear(torch.tanh(rows + encoder_proj(encoder)[:, :, None]), output.weight, output.bias)
        loss = pruned_transducer_loss(logits, band.first_label_NT, labels, frame_lens, label_lens, blank=0)
        del logits, rows
        (simple_loss.loss_N.sum() + loss.sum()).backward()

    return everything


def status_mib(field: str) -> float:
    """Read a memory field of this process, in MiB; nan where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), float("nan"))


def measure(name: str, threads: int, repeats: int) -> dict[str, float]:
    """Time one case in this process."""
    torch.set_num_threads(threads)
    run = make_case(name)
    run()
    times_ms = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return {"median_ms": statistics.median(times_ms), "min_ms": min(times_ms), "max_ms": max(times_ms)}


def measure_memory(name: str, threads: int) -> dict[str, float]:
    """Peak resident memory of the first pass of one case in this process, the libraries being loaded."""
    torch.set_num_threads(threads)
    small = torch.randn(64, 64, requires_grad=True)
    (small @ small).tanh().logsumexp(0).sum().backward()
    run = make_case(name)
    before = status_mib("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return {"peak_mib": float("nan")}
    run()
    return {"peak_mib": status_mib("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15, help="timed passes in each process")
    parser.add_argument("--json", type=Path, help="also write the results here, e.g. benchmarks/results/NAME.json")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        threads = args.threads[0]
        result = measure_memory(args.case, threads) if args.memory else measure(args.case, threads, args.repeats)
        print(json.dumps(result))
        return

    head, results = origin(), []
    print(f"{'case':8} {'threads':>7} {'median ms':>10} {'min':>8} {'max':>8} {'peak MiB':>9}")
    for threads in args.threads:
        for case in CASES:
            command = [sys.executable, __file__, "--case", case, "--threads", str(threads)]
            row = {"case": case, "threads": threads}
            for extra in (["--repeats", str(args.repeats)], ["--memory"]):
                row |= json.loads(subprocess.run(command + extra, check=True, capture_output=True, text=True).stdout)
            results.append(row)
            print(
                f"{case:8} {threads:7} {row['median_ms']:10.1f} {row['min_ms']:8.1f} {row['max_ms']:8.1f} "
                f"{row['peak_mib']:9.1f}"
            )
    if args.json:
        write(args.json, head, {"repeats": args.repeats, "results": results})


if __name__ == "__main__":
    main()
