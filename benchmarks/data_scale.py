"""Time from the start of a process to its first training batch, and the memory it takes, by the number of cuts.

    python benchmarks/data_scale.py --cuts 200000 10000000 --json benchmarks/results/data_scale.json

Writes a manifest of so many cuts of 1 to 20 s, all of one recording of noise, as small as lhotse reads them; then, each in a
process of its own: index (the first start: the index and the vocabulary are made), begin (each further start: choose the
utterances, plan the epoch, read batches from its middle in two other processes) and resume (the same in a later epoch).
"""

import argparse
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from machine import origin, write

from zipasr.data.batching import BatchConfig, BatchReader
from zipasr.data.reading import read_batches
from zipasr.features import FbankConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TokenizerConfig, TrainConfig
from zipasr.train.data import make_tokenizer, read_cuts, select

PHASES = ("index", "begin", "resume")
WORDS = ("the", "of", "and", "a", "to", "in", "he", "that", "it", "was", "his", "as", "with", "for", "at", "on", "by", "she")
NUM_BATCHES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, nargs="+", default=[200_000], help="numbers of cuts")
    parser.add_argument("--workers", type=int, default=2, help="processes that read ahead")
    parser.add_argument("--folder", type=Path, help="for the manifests: about 700 bytes a cut; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        print(json.dumps(measure(args.phase, args.folder, args.workers)))
        return
    head, rows = origin(), []
    for size in args.cuts:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            write_data(Path(folder), size)
            for phase in PHASES:
                command = [sys.executable, __file__, "--phase", phase, "--folder", folder, "--workers", str(args.workers)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                rows.append({"cuts": size, "phase": phase, **json.loads(done.stdout)})
                print(json.dumps(rows[-1]), flush=True)
    if args.json:
        write(args.json, head, {"rows": rows})


def write_data(folder: Path, size: int) -> None:
    """A data folder of so many training utterances and a few others."""
    rng = np.random.default_rng(0)
    soundfile.write(folder / "noise.flac", 0.01 * rng.standard_normal(20 * 16_000), 16_000)
    source = {"type": "file", "channels": [0], "source": str(folder / "noise.flac")}
    shape = {"sampling_rate": 16_000, "num_samples": 320_000, "duration": 20.0}
    recording = json.dumps({"id": "noise", "sources": [source], **shape})
    for name, number in (("train", size), ("dev", 10)):
        with (folder / f"{name}_cuts.jsonl").open("w") as file:
            for first in range(0, number, 10_000):
                durations_s = np.round(rng.lognormal(1.9, 0.6, 10_000).clip(1.0, 20.0), 2)
                for i in range(first, min(first + 10_000, number)):
                    words = " ".join(WORDS[(i * 7 + k * k) % len(WORDS)] for k in range(int(durations_s[i - first] * 2.5)))
                    file.write(line_of(f"{name}{i}", float(durations_s[i - first]), words, recording))


def line_of(name: str, duration_s: float, text: str, recording: str) -> str:
    """A cut as JSON, put together faster than a library would."""
    supervision = f'{{"id": "{name}", "recording_id": "noise", "start": 0.0, "duration": {duration_s}, "text": "{text}"}}'
    cut = f'"id": "{name}", "start": 0.0, "duration": {duration_s}, "channel": 0, "supervisions": [{supervision}]'
    return f'{{{cut}, "recording": {recording}, "type": "MonoCut"}}\n'


def measure(phase: str, folder: Path, num_workers: int) -> dict[str, Any]:
    """Seconds of each part of a start, and memory at its end."""
    torch.set_num_threads(1)
    seconds, clock, began = {}, time.monotonic(), time.monotonic()

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name], clock = round(time.monotonic() - clock, 3), time.monotonic()

    config = TrainConfig(data=str(folder), batch=BatchConfig(max_duration_s=200.0))
    loaded_mib = memory_mib(os.getpid(), "RssAnon")
    cuts, dev_cuts = (read_cuts(folder / f"{name}_cuts.jsonl.gz") for name in ("train", "dev"))
    lap("open")
    if phase == "index":
        make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None)).save(folder)
        lap("vocabulary")
        return {"seconds": seconds, "main_peak_mib": memory_mib(os.getpid(), "VmHWM")}
    tokenizer = Tokenizer.load(folder)
    data = select(cuts, dev_cuts, tokenizer, config)
    lap("select")
    plan, epoch = data.plan(config), 7 if phase == "resume" else 0
    num_batches = plan.num_batches(epoch)
    lap("plan")
    reader = BatchReader(data.cuts, tokenizer, FbankConfig(), config.batch, seed=1)
    batches = read_batches(plan, reader, start=(epoch, num_batches // 2), num_epochs=epoch + 1, num_workers=num_workers)
    next(batches)
    lap("first batch")
    total_s = round(time.monotonic() - began, 3)
    for _ in range(NUM_BATCHES):
        next(batches)
    gc.collect()
    workers = [process.pid for process in multiprocessing.active_children() if process.pid is not None]
    return {
        "utterances": len(data.train),
        "batches": num_batches,
        "seconds": seconds,
        "total_s": total_s,
        "main_anonymous_mib": memory_mib(os.getpid(), "RssAnon"),
        "main_before_data_mib": loaded_mib,
        "main_peak_mib": memory_mib(os.getpid(), "VmHWM"),
        "worker_anonymous_mib": [memory_mib(pid, "RssAnon") for pid in workers],
        "worker_file_mib": [memory_mib(pid, "RssFile") for pid in workers],
    }


def memory_mib(pid: int, kind: str) -> float:
    """Resident memory: RssAnon, the process' own and what it shares since a fork; RssFile; or VmHWM, the peak of both."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"/proc/{pid}/status must say {kind}, but does not; run this on Linux")


if __name__ == "__main__":
    main()
