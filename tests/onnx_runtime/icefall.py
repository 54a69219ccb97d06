"""Folders of graphs as icefall exports them: our modules under its names, with its metadata, example inputs and limits.

Unlike our own exports, graphs of whole utterances take no batch that is longer than its longest utterance, and streaming
graphs take no lengths.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from zipasr.encoder.rates import embed_lengths, window_length
from zipasr.export.offline import OfflineModel, normal, offline_graphs
from zipasr.export.online import StreamingModel, online_graphs
from zipasr.export.onnx import _halve_weights, _name_hidden_frames
from zipasr.export.trace import Graph, join, trace
from zipasr.model import AsrModel
from zipasr.tokenizer import Tokenizer

EXAMPLE_FRAMES = 300
"""Features that icefall traces a graph with since 2026; it was 100 in 2023."""
HEADS = ("transducer", "ctc")


class IcefallOffline(nn.Module):
    """Features and lengths -> outputs and lengths. The mask is as long as the longest utterance."""

    def __init__(self, model: OfflineModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, T, F) and (N,) to (N, T', J) and (N,)."""
        encoder = self.model.encoder
        lens = embed_lengths(x_lens)
        embedded = encoder.frontend(x)
        mask = torch.arange(lens.max()) >= lens.unsqueeze(1)
        frames, lens = encoder.encode_frames(embedded.masked_fill(mask.unsqueeze(-1), 0.0), lens)
        return self.model.head(frames), lens


class IcefallOnline(nn.Module):
    """A window and states -> outputs and states."""

    def __init__(self, model: StreamingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 2 C + 13, F) and states to (N, C / 2, J) and states."""
        outputs: tuple[Tensor, ...] = self.model(x, *states, torch.full((x.shape[0],), x.shape[1], dtype=torch.int64))
        return outputs


def export_offline(model: AsrModel, tokenizer: Tokenizer, root: Path) -> dict[str, Path]:
    """Write folders of graphs for whole utterances, with each of `HEADS`, and return them."""
    graphs = offline_graphs(model)
    whole = graphs["encoder"]
    assert isinstance(whole.module, OfflineModel)
    case = normal(1, EXAMPLE_FRAMES, 80), torch.tensor([EXAMPLE_FRAMES])
    encoder = dataclasses.replace(whole, module=IcefallOffline(whole.module), cases=[case])
    return _write(root, encoder, graphs, tokenizer, "epoch-99-avg-1")


def export_online(model: AsrModel, tokenizer: Tokenizer, root: Path, *, chunk: int, left: int) -> dict[str, Path]:
    """Write folders of streaming graphs, with each of `HEADS`, and return them."""
    graphs = online_graphs(model, chunk_frames_50hz=chunk, left_context_frames_50hz=left)
    whole = graphs["encoder"]
    assert isinstance(whole.module, StreamingModel)
    pairs = zip(whole.inputs, whole.cases[0], strict=True)
    _, *states, _ = (tensor[:, :1] if axes.dynamic.keys() == {1} else tensor[:1] for axes, tensor in pairs)
    case = normal(1, window_length(chunk), 80), *states
    encoder = dataclasses.replace(
        whole, module=IcefallOnline(whole.module), inputs=whole.inputs[:-1], defaults={}, cases=[case]
    )
    return _write(root, encoder, graphs, tokenizer, f"epoch-99-avg-1-chunk-{chunk}-left-{left}")


def _write(root: Path, encoder: Graph, graphs: Mapping[str, Graph], tokenizer: Tokenizer, stem: str) -> dict[str, Path]:
    """Trace the graphs, and write them with tokens.txt and bpe.model beside them."""
    small = {part: dataclasses.replace(graphs[part], cases=[_of_one(graphs[part])]) for part in ("decoder", "joiner")}
    traced = {"encoder": trace(encoder)} | {part: trace(graph) for part, graph in small.items()}
    folders = {"transducer": _save(root / "transducer", traced, tokenizer, stem)}
    if "ctc_head" in graphs:
        _name_hidden_frames(traced["encoder"])
        whole = dataclasses.replace(graphs["ctc"], cases=encoder.cases, inputs=encoder.inputs, defaults={})
        if isinstance(graphs["ctc"].module, StreamingModel):
            whole = dataclasses.replace(whole, module=IcefallOnline(graphs["ctc"].module))
        ctc = join(traced["encoder"], trace(graphs["ctc_head"]), whole)
        folders["ctc"] = _save(root / "ctc", {"ctc": ctc}, tokenizer, stem)
    return folders


def _of_one(graph: Graph) -> tuple[Tensor, ...]:
    return tuple(tensor[:1] for tensor in graph.cases[0])


def _save(folder: Path, graphs: Mapping[str, Any], tokenizer: Tokenizer, stem: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, graph in graphs.items():
        onnx.save(graph, folder / f"{part}-{stem}.onnx")
    files = tokenizer.to_files()
    (folder / "tokens.txt").write_bytes(files["tokens.txt"])
    (folder / "bpe.model").write_bytes(files["tokenizer.model"])
    return folder


def changed(source: Path, out: Path, change: Callable[[Any], None]) -> Path:
    """Write a copy of a folder in which every graph is changed, and return it."""
    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    for path in out.glob("*.onnx"):
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)
    return out


def take_int32(model: Any) -> None:
    """Make whole numbers 32 bits wide, as --use-int32-inputs does."""
    graph = model.graph
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            value.type.tensor_type.elem_type = TensorProto.INT32
            for node in graph.node:
                node.input[:] = [f"{name}_wide" if name == value.name else name for name in node.input]
            graph.node.insert(0, helper.make_node("Cast", [value.name], [f"{value.name}_wide"], to=TensorProto.INT64))
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            value.type.tensor_type.elem_type = TensorProto.INT32
            for node in graph.node:
                node.output[:] = [f"{name}_wide" if name == value.name else name for name in node.output]
            graph.node.append(helper.make_node("Cast", [f"{value.name}_wide"], [value.name], to=TensorProto.INT32))


def take_no_lengths(model: Any) -> None:
    """Leave out the lengths, as --keep-x-lens 0 does: every utterance is as long as the batch."""
    graph = model.graph
    if [value.name for value in graph.input[1:]] != ["x_lens"]:
        return
    del graph.input[1], graph.output[1]
    graph.initializer.extend(numpy_helper.from_array(torch.tensor([i]).numpy(), f"axis_{i}") for i in (0, 1))
    graph.node.insert(0, helper.make_node("Expand", ["length", "size"], ["x_lens"]))
    for i, name in enumerate(("size", "length")):
        graph.node.insert(0, helper.make_node("Gather", ["shape", f"axis_{i}"], [name], axis=0))
    graph.node.insert(0, helper.make_node("Shape", ["x"], ["shape"]))


def quantize(folder: Path) -> None:
    """Add graphs in 8 bits, as icefall makes them."""
    for path in list(folder.glob("*.onnx")):
        types = ["MatMul", "Gather"] if path.name.startswith("decoder") else ["MatMul"]
        quantize_dynamic(path, path.with_suffix(".int8.onnx"), op_types_to_quantize=types, weight_type=QuantType.QInt8)


def halve(folder: Path) -> None:
    """Add graphs with weights in float16, which take and return float32."""
    for path in [path for path in folder.glob("*.onnx") if ".int8" not in path.name]:
        model = onnx.load(path)
        _halve_weights(model)
        onnx.save(model, path.with_suffix(".fp16.onnx"))
