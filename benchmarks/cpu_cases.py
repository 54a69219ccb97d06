"""One measurement on a CPU, in a process of its own: `python benchmarks/cpu_cases.py CASE --repeats 3` prints JSON.

`benchmarks/cpu.py` runs it on several source trees and compares. It therefore uses only what earlier versions have too.
Models have random weights of the published shapes; features are noise. Processor time, of all threads and child processes.
Memory is the peak of the process above the loaded model (Linux only), in the first call and all that follow.
"""

import argparse
import ctypes
import dataclasses
import gc
import hashlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zipasr import model as presets
from zipasr.device import arithmetic, fast_matmul
from zipasr.encoder.rates import window_length
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.model import AsrConfig, AsrModel
from zipasr.nn.schedule import set_step
from zipasr.tokenizer import Tokenizer

Work = Callable[[], Iterable[Any]]
"""One repetition; it returns tensors or arrays, of which a digest is printed."""
_CPU = torch.device("cpu")
_NUM_LEFT_FRAMES_50HZ = 128
_CHUNK_FRAMES_50HZ = 16


def make_model(preset: str, *, is_causal: bool = False, seed: int = 0) -> AsrModel:
    """A model with random weights, in the middle of its training schedules."""
    config: AsrConfig = getattr(presets, preset)()
    if is_causal:
        assert isinstance(config.encoder, ZipformerConfig)
        config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, is_causal=True))
    torch.manual_seed(seed)
    model = AsrModel(config)
    set_step(model, 10_000.0)
    return model.eval()


def noise(batch: int, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, T, 80) and their lengths."""
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(batch, num_frames, 80, generator=generator) - 8, torch.full((batch,), num_frames)


def encode(preset: str, batch: int, seconds: float, precision: str = "float32") -> Work:
    """The offline encoder in PyTorch."""
    model, (features, lens) = make_model(preset), noise(batch, round(100 * seconds))

    def run() -> Iterable[Any]:
        with torch.no_grad(), arithmetic(precision, _CPU):  # type: ignore[arg-type]
            return [model.encode(features, lens).frames]

    return run


def encode_exported(preset: str, batch: int, seconds: float) -> Work:
    """The exported offline encoder in onnxruntime."""
    import onnxruntime

    from zipasr.export.offline import offline_graphs
    from zipasr.export.trace import trace

    graph = trace(offline_graphs(make_model(preset))["encoder"]).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    features, lens = noise(batch, round(100 * seconds))
    given = {"x": features.numpy(), "x_lens": lens.numpy()}
    return lambda: session.run(None, given)[:1]


def encode_chunk(preset: str, num_streams: int) -> Work:
    """The streaming encoder in PyTorch: one chunk of 320 ms with 2.56 s of left context."""
    model = make_model(preset, is_causal=True)
    sizes = {"chunk_frames_50hz": _CHUNK_FRAMES_50HZ, "left_context_frames_50hz": _NUM_LEFT_FRAMES_50HZ}
    states = [model.initial_state(1, **sizes) for _ in range(num_streams)]
    features, lens = noise(num_streams, window_length(_CHUNK_FRAMES_50HZ))

    def run() -> Iterable[Any]:
        nonlocal states
        with torch.no_grad():
            encoded, states = model.encode_chunks(features, lens, states)
        return [encoded.frames]

    return run


def train_step(preset: str, batch: int, seconds: float) -> Work:
    """Forward, transducer losses and backward, without the optimizer."""
    model = make_model(preset).train()
    features, lens = noise(batch, round(100 * seconds))
    num_labels = round(4 * seconds)
    labels, label_lens = torch.randint(3, 500, (batch, num_labels)), torch.full((batch,), num_labels)

    def run() -> Iterable[Any]:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        with fast_matmul(_CPU):
            losses = model(features, lens, labels, label_lens)
            torch.stack(list(losses.values())).sum().backward()
        return [loss.detach() for loss in losses.values()]

    return run


def step_optimizer(kind: str) -> Work:
    """Four steps of an optimizer on the published small model, as every fourth step of ScaledAdam costs more."""
    from scaled_adam import published_small_shapes

    from zipasr.optim import ScaledAdam

    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape) * 0.1) for shape in published_small_shapes()]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 0.01
    optimizer: torch.optim.Optimizer
    if kind == "scaled":
        optimizer = ScaledAdam(parameters, lr=1e-12, clipping_scale=2.0)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=1e-12, fused=True)

    def run() -> Iterable[Any]:
        for _ in range(4):
            optimizer.step()
        return []

    return run


def start_cold() -> Work:
    """`zipasr transcribe` with `tiny` on one second, from start to end of the process, where no other zipasr lies."""
    folder = Path(tempfile.mkdtemp())
    tokenizer = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz '"], kind="char", vocab_size=None)
    torch.manual_seed(0)
    AsrModel(presets.tiny().for_vocabulary(tokenizer)).save(folder / "model", tokenizer)
    with wave.open(str(folder / "noise.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.random.default_rng(0).integers(-3000, 3000, 16_000).astype(np.int16).tobytes())
    command = [sys.executable, "-m", "zipasr", "transcribe", str(folder / "model"), str(folder / "noise.wav")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")  # as pip leaves it, also where this is a checkout

    def run() -> Iterable[Any]:
        done = subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.PIPE)
        return [np.frombuffer(done.stdout, np.uint8)]

    run()  # compiles it
    return run


CASES: dict[str, Callable[[], Work]] = {
    "encoder small 1x30s": lambda: encode("small", 1, 30.0),
    "encoder small 8x10s": lambda: encode("small", 8, 10.0),
    "encoder medium 1x30s": lambda: encode("medium", 1, 30.0),
    "encoder large 1x30s": lambda: encode("large", 1, 30.0),
    "encoder medium 1x30s bfloat16": lambda: encode("medium", 1, 30.0, "bfloat16"),
    "exported small 1x30s": lambda: encode_exported("small", 1, 30.0),
    "chunk small 1 stream": lambda: encode_chunk("small", 1),
    "chunk small 16 streams": lambda: encode_chunk("small", 16),
    "training step small 4x10s": lambda: train_step("small", 4, 10.0),
    "training step tiny 3x4s": lambda: train_step("tiny", 3, 4.0),
    "4 steps of ScaledAdam": lambda: step_optimizer("scaled"),
    "4 steps of AdamW fused": lambda: step_optimizer("fused"),
    "cold start tiny": start_cold,
}
"""What is measured, by name: a function that prepares it."""


def _switch_off_blocks() -> None:
    from zipasr.nn import attention

    attention._BLOCK_ROWS = 2**31


def _switch_off_slices() -> None:
    from zipasr.encoder import frontend

    frontend._SLICE_FRAMES = 2**31


def _medium_precision() -> None:
    torch.set_float32_matmul_precision("medium")


CHANGES: dict[str, Callable[[], None]] = {
    "without blocks": _switch_off_blocks,
    "without slices": _switch_off_slices,
    "without kept memory": lambda: None,
    "with medium": _medium_precision,
}
"""What a measurement can do otherwise than the source tree. "with medium" may round products to bfloat16."""


def processor_s() -> float:
    """Processor time of this process and of the children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def resident_mib(field: str) -> float:
    """VmRSS or VmHWM of this process."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{field}:"))) / 1024


def digest(values: Iterable[Any]) -> str:
    """Hash of all numbers, for exact comparison."""
    content = hashlib.sha256()
    for value in values:
        content.update(np.ascontiguousarray(value.numpy() if isinstance(value, torch.Tensor) else value).tobytes())
    return content.hexdigest()[:12]


def measure(case: str, repeats: int, minimum_s: float = 0.5) -> dict[str, Any]:
    """Medians of `repeats` repetitions after one that does not count; each lasts at least `minimum_s`, by calling again."""
    work = CASES[case]()
    gc.collect()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # what the preparation has freed would hide what the work needs
        library.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts anew
    before_mib = resident_mib("VmRSS")
    started = time.monotonic()
    found = digest(work())
    calls = max(1, round(minimum_s / (time.monotonic() - started)))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times, walls = [], []
    for _ in range(repeats):
        began, began_wall = processor_s(), time.monotonic()
        for _ in range(calls):
            work()
        times.append((processor_s() - began) / calls)
        walls.append((time.monotonic() - began_wall) / calls)
    return {
        "processor_ms": 1e3 * statistics.median(times),
        "wall_ms": 1e3 * statistics.median(walls),
        "peak_mib": resident_mib("VmHWM") - before_mib,
        "page_faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / (repeats * calls),
        "digest": found,
    }


def main() -> None:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--change", choices=CHANGES)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if args.change != "without kept memory" and importlib.util.find_spec("zipasr.cli.memory"):  # the first versions lack it
        from zipasr.cli.memory import keep_freed_memory

        keep_freed_memory()
    if args.change is not None:
        CHANGES[args.change]()
    print(json.dumps(measure(args.case, args.repeats)))


if __name__ == "__main__":
    main()
