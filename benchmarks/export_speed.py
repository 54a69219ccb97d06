"""How fast an exported encoder runs in onnxruntime: the simplified graph beside the plain one, in one run, with what each
spends its time on.

Run: `python benchmarks/export_speed.py [--model small] [--seconds 30 4] [--threads N] [--repeats N] [--int8] [--json FILE]`.
With `--int8`, the simplified graph with all products in 8 bits that `zipasr export --int8` may quantize takes part too.
Plain is the encoder traced as it is, but for what tracing gets wrong or ONNX lacks: the relative shift gathers, as in the
original's export, positions are computed and frames to group repeated in the graph. Weights are random, every layer with its
own: onnxruntime would merge equal ones. The runs of both graphs take turns.
"""

import argparse
import collections
import copy
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import origin, write
from real_time_factor import PRESETS
from search import sharpened_model
from torch import Tensor, nn

from zipasr.encoder import frontend
from zipasr.encoder.stack import Downsample, ZipformerStack
from zipasr.encoder.zipformer import Zipformer
from zipasr.export.attention import TracedPositions
from zipasr.export.offline import OfflineModel, offline_graphs
from zipasr.export.quantize import quantize
from zipasr.export.trace import check, trace
from zipasr.model import AsrModel
from zipasr.nn import attention

_PERTURBATION = 0.1
_TOLERANCE = 1e-4


class PlainPositions(nn.Module):
    """Positional encodings of any number of frames."""

    def __init__(self, module: attention.RelativePositionalEncoding) -> None:
        super().__init__()
        self.inner = TracedPositions(module)

    def forward(self, num_frames: Tensor | int, left_context: Tensor | int) -> Tensor:
        """Encodings (2T + left - 1, D)."""
        encodings: Tensor = self.inner(num_frames, left_context)
        return encodings[1:]


class PlainDownsample(nn.Module):
    """`Downsample` without a condition on the length."""

    def __init__(self, module: Downsample) -> None:
        super().__init__()
        self.factor, self.bias = module.factor, module.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, ceil(T / factor), D)."""
        num_groups = (x.shape[1] + self.factor - 1) // self.factor
        x = torch.cat([x, x[:, -1:].expand(-1, self.factor - 1, -1)], dim=1)[:, : num_groups * self.factor]
        groups = x.reshape(x.shape[0], num_groups, self.factor, x.shape[2])
        return (groups * self.bias.softmax(0).unsqueeze(1)).sum(2)


class GatheredShift:
    """Stands in for the relative shift."""

    @staticmethod
    def apply(scores: Tensor) -> Tensor:
        """Map (N, H, T, 2T - 1) to (N, H, T, T)."""
        num_frames = scores.shape[2]
        frames = torch.arange(num_frames)
        index = num_frames - 1 - frames.unsqueeze(1) + frames
        return torch.gather(scores, 3, index.expand(scores.shape[0], scores.shape[1], -1, -1))


def plain_encoder(encoder: Zipformer) -> Zipformer:
    """A copy that can be traced, and no more."""
    encoder = copy.deepcopy(encoder)
    for stack in encoder.stacks:
        assert isinstance(stack, ZipformerStack)
        stack.positions = PlainPositions(stack.positions)  # type: ignore[assignment]
        if stack.factor > 1:
            stack.downsample = PlainDownsample(stack.downsample)  # type: ignore[assignment]
    encoder.output_downsample = PlainDownsample(encoder.output_downsample)  # type: ignore[assignment]
    return encoder


def make_graphs(model: AsrModel) -> dict[str, Any]:
    """The plain and the simplified ONNX encoder, both compared with PyTorch."""
    assert isinstance(model.encoder, Zipformer) and model.transducer is not None
    simplified = offline_graphs(model)["encoder"]
    module = OfflineModel(plain_encoder(model.encoder), copy.deepcopy(model.transducer.joiner.encoder_proj))
    plain = dataclasses.replace(simplified, module=module)
    # Loops over parts of an utterance, in which PyTorch computes on a CPU, would be unrolled for the traced length.
    never = mock.Mock(return_value=False)
    with (
        mock.patch.object(attention, "RelativeShift", GatheredShift),
        mock.patch.object(attention, "is_cpu_inference", never),
        mock.patch.object(frontend, "is_cpu_inference", never),
    ):
        traced = {"plain": trace(plain)}
    traced["simplified"] = trace(simplified)
    for name, graph in (("plain", plain), ("simplified", simplified)):
        difference = check(traced[name], graph, tolerance=_TOLERANCE)
        print(f"{name}: {len(traced[name].graph.node)} nodes, differs from PyTorch by {difference:.1e}")
    return traced


def open_session(graph: Any, threads: int, profile: str | None = None) -> Any:
    """A session, with a profile in files that begin with `profile`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def time_by_operation(graph: Any, given: dict[str, Any], threads: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a run that each kind of node takes, most first."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(graph, threads, os.path.join(folder, "profile"))
        for _ in range(repeats):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: collections.Counter[str] = collections.Counter()
    for event in events:
        is_node = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if is_node and event["args"]["op_name"] != "Scan":  # the nodes inside count by themselves
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: round(spent[name] / 1e3 / repeats, 1) for name, _ in spent.most_common()}


def measure(graphs: dict[str, Any], seconds: float, threads: int, repeats: int) -> dict[str, Any]:
    """Shortest times of both graphs, and what they are made of."""
    num_frames = round(100 * seconds)
    features = 3 * torch.randn(1, num_frames, 80, generator=torch.Generator().manual_seed(0)) - 8
    given = {"x": features.numpy(), "x_lens": torch.tensor([num_frames]).numpy()}
    sessions = {name: open_session(graph, threads) for name, graph in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    clock = time.process_time if threads == 1 else time.perf_counter  # other programs disturb the former less
    for _ in range(repeats + 1):
        for name, session in sessions.items():
            started = clock()
            session.run(None, given)
            times[name].append(clock() - started)
    best = {name: min(values[1:]) for name, values in times.items()}
    spent = {name: time_by_operation(graph, given, threads, repeats) for name, graph in graphs.items()}
    return {
        "seconds": seconds,
        "times_ms": {name: round(1e3 * value, 1) for name, value in best.items()},
        "gain": round(best["plain"] / best["simplified"], 2),
        **({"int8_gain": round(best["simplified"] / best["int8"], 2)} if "int8" in best else {}),
        "by_operation_ms": spent,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=PRESETS, default="small")
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 4.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--int8", action="store_true", help="products in 8 bits too")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    head = origin()
    torch.manual_seed(0)
    model = sharpened_model(dataclasses.replace(PRESETS[args.model](), ctc=None))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(_PERTURBATION * parameter.abs().mean() * torch.randn_like(parameter))
    graphs = make_graphs(model)
    if args.int8:
        graphs["int8"] = quantize(graphs["simplified"], keep=[])
        sizes = {name: f"{graph.ByteSize() / 1e6:.0f} MB" for name, graph in graphs.items()}
        print(f"sizes: {sizes}")
    rows = [measure(graphs, seconds, args.threads, args.repeats) for seconds in args.seconds]
    print(f"{args.model}, {args.threads} threads\n| sound | plain | simplified | times as fast |\n|---:|---:|---:|---:|")
    for row in rows:
        times = row["times_ms"]
        print(f"| {row['seconds']:g} s | {times['plain']} ms | {times['simplified']} ms | {row['gain']} |")
        if "int8" in times:
            print(f"8 bits: {times['int8']} ms, {row['int8_gain']} times as fast as simplified")
    for name, spent in rows[0]["by_operation_ms"].items():
        parts = ", ".join(f"{operation} {value}" for operation, value in list(spent.items())[:9])
        print(f"{name}, {rows[0]['seconds']:g} s, ms by operation: {parts}")
    if args.json:
        write(args.json, head, {"model": args.model, "threads": args.threads, "repeats": args.repeats, "rows": rows})


if __name__ == "__main__":
    main()
