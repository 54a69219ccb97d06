"""Hours of sound trained on per hour, model FLOPs utilisation and peak memory of a preset, for a stated batch.

    python benchmarks/train_throughput.py --preset small --batch-s 200 --device cuda --precision bfloat16 --peak-tflops 989
    python benchmarks/train_throughput.py --batch-s 40 --threads 2 --json benchmarks/results/train_throughput.json

A step is everything but reading: forward, losses, backward, gradient norm, ScaledAdam. Features are noise, with 4 labels a
second. The operations of a step are taken as 3 times those of the encoder's forward pass by the paper's rule
(`zipasr.profile.count_flops`); heads are left out, so the utilisation is a lower bound. `--peak-tflops` is the machine's
peak for the precision; without it, the rate of a large matrix product in this process stands in for it.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
from machine import origin, write

from zipasr.data.batching import Batch
from zipasr.device import fast_matmul, select_device
from zipasr.model import AsrModel
from zipasr.nn.schedule import set_step
from zipasr.optim import Eden, ScaledAdam
from zipasr.presets import find_preset
from zipasr.profile import count_flops
from zipasr.train.averaging import RunningAverage
from zipasr.train.config import TrainConfig
from zipasr.train.distributed import Ranks
from zipasr.train.state import Position, TrainState
from zipasr.train.step import Stepper

LABELS_PER_S = 4
_GIB = 2**30


def noise_batch(batch_s: float, utterance_s: float, num_features: int, vocab_size: int) -> Batch:
    """Utterances of one length, as many as fill the batch."""
    size, num_frames = max(1, int(batch_s / utterance_s)), round(utterance_s * 100)
    generator = torch.Generator().manual_seed(0)
    num_labels = round(utterance_s * LABELS_PER_S)
    return Batch(
        features=torch.randn(size, num_frames, num_features, generator=generator),
        feature_lens=torch.full((size,), num_frames),
        labels=torch.randint(3, vocab_size, (size, num_labels), generator=generator),
        label_lens=torch.full((size,), num_labels),
        ids=tuple(f"noise{i}" for i in range(size)),
        audio_s=size * utterance_s,
    )


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 1536
    a = torch.randn(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)


def peak_gib(device: torch.device) -> float:
    """Most memory in use so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch-s", type=float, default=40.0, help="seconds of sound in a batch")
    parser.add_argument("--utterance-s", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=5, help="steps that count, after two that do not")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, help="threads of the processor")
    parser.add_argument("--peak-tflops", type=float, help="peak of the machine at this precision")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    head = origin()
    device = select_device(args.device)
    model_config = find_preset(args.preset)
    config = TrainConfig(model=model_config, precision=args.precision)
    torch.manual_seed(0)
    model = AsrModel(model_config).to(device).train()
    optimizer = ScaledAdam(model.named_parameters(), lr=config.lr, clipping_scale=config.clipping_scale)
    scheduler = Eden(optimizer, lr_batches=config.lr_batches, lr_epochs=config.lr_epochs)
    state = TrainState(model, optimizer, scheduler, RunningAverage(model, 10**9), Position())
    set_step(model, 5000.0)
    batch = noise_batch(args.batch_s, args.utterance_s, model_config.features.num_mel_bins, model_config.vocab_size)
    stepper = Stepper(config, state, Ranks(), device)
    times = []
    with fast_matmul(device):
        for number in range(args.steps + 2):
            start = time.perf_counter()
            result = stepper.step([batch], number + 1)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
            assert result.is_learned, result.problems
        peak_memory = peak_gib(device)
        dtype = torch.float32 if args.precision == "float32" else getattr(torch, args.precision)
        peak = args.peak_tflops * 1e12 if args.peak_tflops else product_rate(device, dtype)
    step_s = statistics.median(times[2:])
    flops = 3.0 * len(batch.ids) * count_flops(model.encoder, round(args.utterance_s * 100))
    row = {
        "preset": args.preset,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": args.precision,
        "batch": f"{len(batch.ids)} x {args.utterance_s:g} s",
        "step_s": step_s,
        "min_s": min(times[2:]),
        "max_s": max(times[2:]),
        "hours_per_hour": batch.audio_s / step_s,
        "tflops": flops / step_s / 1e12,
        "utilisation": flops / step_s / peak,
        "peak_is_measured": args.peak_tflops is None,
        "peak_gib": peak_memory,
    }
    print(json.dumps(row, indent=1))
    if args.json:
        write(args.json, head, row)


if __name__ == "__main__":
    main()
