"""Training steps per second on an idle and on a busy machine, by number of threads and by how OpenMP waits.

    python benchmarks/busy_machine.py --presets tiny small --json benchmarks/results/busy_machine.json

Each case runs `--seconds` in a process of its own, beside 0 or `--loops` endless loops: forward, losses, backward and
ScaledAdam on one batch of noise with 4 labels a second, 3 x 4 s for `tiny` (as its recipe has it, products through MKL) and
2 x 6 s for other presets (through oneDNN). Policies: `default` leaves OpenMP alone, which spins before it sleeps;
`passive` is OMP_WAIT_POLICY=PASSIVE, which sleeps at once; `spin=N` is GOMP_SPINCOUNT=N, which spins for N turns.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from machine import origin, write

PRESETS = ("tiny", "small", "medium", "large")
_LEAST_STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "small"], choices=PRESETS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 2], help="endless loops beside it")
    parser.add_argument("--policies", nargs="+", default=["default", "passive", "spin=10000"], metavar="POLICY")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each case, after a warm-up of two steps")
    parser.add_argument("--rounds", type=int, default=1, help="times that all cases are run, one after the other")
    parser.add_argument("--decode", action="store_true", help="encode 30 s instead of training")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--case", nargs=2, metavar=("PRESET", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case[0], int(args.case[1]), args.seconds, is_decoding=args.decode)))
        return
    head, rows = origin(), []
    for _ in range(args.rounds):
        for loops in args.loops:
            with busy_loops(loops):
                for preset in args.presets:
                    for threads in args.threads:
                        # A single thread waits for nobody.
                        for policy in args.policies if threads > 1 else ["default"]:
                            rows.append(run_case(preset, threads, policy, loops, args))
                            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        write(args.json, head, {"rows": rows})


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """So many processes that each keep a core busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run_case(preset: str, threads: int, policy: str, loops: int, args: argparse.Namespace) -> dict[str, object]:
    """Measure one case in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        env.pop(name, None)
    if policy == "passive":
        env["OMP_WAIT_POLICY"] = "PASSIVE"
    elif policy.startswith("spin="):
        env["GOMP_SPINCOUNT"] = policy.removeprefix("spin=")
    elif policy != "default":
        raise SystemExit(f"policy must be default, passive or spin=N, but is {policy}")
    command = [sys.executable, __file__, "--seconds", str(args.seconds), "--case", preset, str(threads)]
    command += ["--decode"] if args.decode else []
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
    return {"preset": preset, "threads": threads, "policy": policy, "loops": loops, **measured}


def measure(preset: str, threads: int, seconds: float, *, is_decoding: bool) -> dict[str, float | int]:
    """Run steps for a while; their number and how many there are in a second."""
    import torch

    from zipasr import model as presets
    from zipasr.device import fast_matmul
    from zipasr.model import AsrModel
    from zipasr.nn.schedule import set_step
    from zipasr.optim import ScaledAdam

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = AsrModel(getattr(presets, preset)())
    optimizer = ScaledAdam(model.named_parameters(), lr=1e-4)
    set_step(model, 10_000.0)
    size, utterance_s = (1, 30) if is_decoding else (3, 4) if preset == "tiny" else (2, 6)
    features, lens = torch.randn(size, utterance_s * 100, 80), torch.full((size,), utterance_s * 100)
    labels, label_lens = torch.randint(3, 500, (size, 4 * utterance_s)), torch.full((size,), 4 * utterance_s)

    def step() -> None:
        if is_decoding:
            with torch.inference_mode():
                model.encode(features, lens)
            return
        torch.stack(list(model(features, lens, labels, label_lens).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    model.train(not is_decoding)
    is_mkl = preset == "tiny" and not is_decoding  # as `use_onednn_matmul` of its recipe
    with contextlib.nullcontext() if is_mkl else fast_matmul(torch.device("cpu")):
        for _ in range(2):
            step()
        num_steps, start, cpu_start = 0, time.perf_counter(), time.process_time()
        while num_steps < _LEAST_STEPS or time.perf_counter() - start < seconds:
            step()
            num_steps += 1
    elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "steps": num_steps,
        "steps_per_s": round(num_steps / elapsed_s, 3),
        "cpu_s_per_step": round(cpu_s / num_steps, 3),
    }


if __name__ == "__main__":
    main()
