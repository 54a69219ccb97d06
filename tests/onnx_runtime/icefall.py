"""Folders of graphs as icefall exports them: our modules under its names, with its metadata, example inputs and limits.

Unlike our own exports, graphs of whole utterances take no batch that is longer than its longest utterance, and streaming
graphs take no lengths.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from zipasr.encoder.rates import embed_lengths, window_length
from zipasr.export.offline import OfflineModel, normal, offline_graphs
from zipasr.export.online import StreamingModel, online_graphs
from zipasr.export.onnx import _halve_weights
from zipasr.export.trace import Graph, trace
from zipasr.model import AsrModel
from zipasr.tokenizer import Tokenizer

EXAMPLE_FRAMES = 300
"""Features that icefall traces a graph with since 2026; it was 100 in 2023."""


class IcefallOffline(nn.Module):
    """Features and lengths, if it takes them, -> outputs and lengths. The mask is as long as the longest utterance."""

    def __init__(self, model: OfflineModel, *, takes_lengths: bool) -> None:
        super().__init__()
        self.model, self.takes_lengths = model, takes_lengths

    def forward(self, x: Tensor, x_lens: Tensor | None = None) -> tuple[Tensor, ...]:
        """Map (N, T, F) and (N,) to (N, T', J or V) and (N,)."""
        encoder = self.model.encoder
        lens = torch.full((x.shape[0],), x.shape[1]) if x_lens is None else x_lens
        frames, lens = encoder.encode_frames(encoder.frontend(x), embed_lengths(lens))
        mask = torch.arange(lens.max()) >= lens.unsqueeze(1)
        outputs = self.model.head(frames.masked_fill(mask.unsqueeze(-1), 0.0))
        return (outputs, lens) if self.takes_lengths else (outputs,)


class IcefallOnline(nn.Module):
    """A window and states -> outputs and states."""

    def __init__(self, model: StreamingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 2 C + 13, F) and states to (N, C / 2, J or V) and states."""
        return self.model(x, *states, torch.full((x.shape[0],), x.shape[1]))


def export_offline(
    model: AsrModel, tokenizer: Tokenizer, folder: Path, head: str, *, int32: bool = False, takes_lengths: bool = True
) -> Path:
    """Write a folder of graphs for whole utterances; `head` is transducer or ctc."""
    graphs, part = offline_graphs(model), "encoder" if head == "transducer" else "ctc"
    whole = graphs[part]
    assert isinstance(whole.module, OfflineModel)
    case = normal(1, EXAMPLE_FRAMES, 80), _integer(torch.tensor([EXAMPLE_FRAMES]), int32)
    number = 2 if takes_lengths else 1
    traced = dataclasses.replace(
        whole,
        module=IcefallOffline(whole.module, takes_lengths=takes_lengths),
        inputs=whole.inputs[:number],
        outputs=whole.outputs[:number],
        cases=[case[:number]],
    )
    return _write(folder, {part: traced}, graphs, tokenizer, "epoch-99-avg-1", int32=int32)


def export_online(
    model: AsrModel, tokenizer: Tokenizer, folder: Path, head: str, *, chunk: int, left: int, int32: bool = False
) -> Path:
    """Write a folder of streaming graphs; `head` is transducer or ctc."""
    graphs = online_graphs(model, chunk_frames_50hz=chunk, left_context_frames_50hz=left)
    part = "encoder" if head == "transducer" else "ctc"
    whole = graphs[part]
    assert isinstance(whole.module, StreamingModel)
    _, *states, _ = (tensor[:, :1] if axes.dynamic.keys() == {1} else tensor[:1] for axes, tensor in _first_case(whole))
    case = normal(1, window_length(chunk), 80), *(_integer(state, int32) for state in states)
    traced = dataclasses.replace(
        whole, module=IcefallOnline(whole.module), inputs=whole.inputs[:-1], defaults={}, cases=[case]
    )
    stem = f"epoch-99-avg-1-chunk-{chunk}-left-{left}"
    return _write(folder, {part: traced}, graphs, tokenizer, stem, int32=int32)


def _first_case(graph: Graph) -> list[tuple[Any, Tensor]]:
    return list(zip(graph.inputs, graph.cases[0], strict=True))


def _integer(tensor: Tensor, int32: bool) -> Tensor:
    return tensor.int() if int32 and not tensor.is_floating_point() else tensor


def _write(
    folder: Path, traced: dict[str, Graph], graphs: dict[str, Graph], tokenizer: Tokenizer, stem: str, *, int32: bool
) -> Path:
    """Trace and write graphs, with tokens.txt and bpe.model beside them."""
    if "encoder" in traced:
        for part in ("decoder", "joiner"):
            case = tuple(_integer(tensor[:1], int32) for tensor in graphs[part].cases[0])
            traced[part] = dataclasses.replace(graphs[part], cases=[case])
    folder.mkdir(parents=True, exist_ok=True)
    for part, graph in traced.items():
        onnx.save(trace(graph), folder / f"{part}-{stem}.onnx")
    files = tokenizer.to_files()
    (folder / "tokens.txt").write_bytes(files["tokens.txt"])
    (folder / "bpe.model").write_bytes(files["tokenizer.model"])
    return folder


def quantize(folder: Path, parts: Sequence[str] = ("encoder", "decoder", "joiner", "ctc")) -> None:
    """Add graphs in 8 bits, as icefall makes them."""
    for path in [path for part in parts for path in folder.glob(f"{part}-*.onnx") if ".int8" not in path.name]:
        types = ["MatMul", "Gather"] if path.name.startswith("decoder") else ["MatMul"]
        quantize_dynamic(path, path.with_suffix(".int8.onnx"), op_types_to_quantize=types, weight_type=QuantType.QInt8)


def halve(folder: Path, parts: Sequence[str] = ("encoder", "decoder", "joiner", "ctc")) -> None:
    """Add graphs with weights in float16, which take and return float32."""
    for path in [path for part in parts for path in folder.glob(f"{part}-*.onnx") if ".int8" not in path.name]:
        model = onnx.load(path)
        _halve_weights(model)
        onnx.save(model, path.with_suffix(".fp16.onnx"))
