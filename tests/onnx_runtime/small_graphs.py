"""Hand-built graphs in the form of other projects: small, and quick to make and to run.

Whole utterances: frames at 25 Hz are products of every fourth feature, as many as a Zipformer makes. Zipformer 1 for
streams: frames of a chunk plus what its states remember of earlier ones, under the names and shapes of the original.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_model import tiny_tokenizer

FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
WIDTH, CONTEXT = 16, 2
"""Width of the joiner, and labels that the decoder takes."""
VOCAB_SIZE = tiny_tokenizer().vocab_size
CTC_METADATA = {"model_type": "zipformer2_ctc", "version": "1", "model_author": "k2-fsa", "comment": ""}
ENCODER_METADATA = CTC_METADATA | {"model_type": "zipformer2"}
CHUNK_FEATURES = 32
"""Features per chunk of the streaming graph, whose window has 7 more."""
STACKS = ({"layers": 2, "left": 16, "kernel": 5}, {"layers": 1, "left": 8, "kernel": 3})
ONLINE1_METADATA = {
    "model_type": "zipformer",
    "version": "1",
    "model_author": "k2-fsa",
    "decode_chunk_len": str(CHUNK_FEATURES),
    "T": str(CHUNK_FEATURES + 7),
    "num_encoder_layers": "2,1",
    "encoder_dims": f"{WIDTH},{WIDTH}",
    "attention_dims": f"{WIDTH},{WIDTH}",
    "cnn_module_kernels": "5,3",
    "left_context_len": "16,8",
}

Shape = Sequence[str | int]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal noise of a shape, the same at every call."""
    return scale * np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    constants: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """An ONNX model of these parts."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*declared) for declared in inputs],
        [helper.make_tensor_value_info(*declared) for declared in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(made, dict(metadata))
    return made


def _int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _every_fourth(width: int) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes that map features x to `projected` (N, T', width), as many frames as a Zipformer makes."""
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["frames"]),
        helper.make_node("MatMul", ["frames", "weight"], ["projected"]),
    ]
    constants = {"start": _int64(0), "end": _int64(-8), "axis": _int64(1), "step": _int64(4)}
    return nodes, constants | {"weight": random(80, width, scale=0.3)}


def offline_graph(
    *,
    is_ctc: bool,
    metadata: Mapping[str, str] | None = None,
    x: Shape = ("N", "T", 80),
    lens: int | None = INT64,
    output: Shape | None = None,
    width: int | None = None,
    step: int = 1,
) -> onnx.ModelProto:
    """A graph of whole utterances.

    Args:
        is_ctc: whether it gives log-probabilities, or frames for the joiner.
        metadata: None: those of the original.
        x: declared axes of the features.
        lens: type of the lengths; None: it takes none.
        output: declared axes of the output; None: the true ones.
        width: size of the output; None: that of the vocabulary or of the joiner.
        step: it takes only numbers of features that are 7 more than a multiple.
    """
    width = width or (VOCAB_SIZE if is_ctc else WIDTH)
    nodes, constants = _every_fourth(width)
    name = "log_probs" if is_ctc else "encoder_out"
    if step > 1:
        nodes += [
            helper.make_node("Slice", ["x", "seven", "infinite", "axis"], ["rest"]),
            helper.make_node("Reshape", ["rest", "groups"], ["grouped"]),
            helper.make_node("ReduceSum", ["grouped"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["projected", "nothing"], ["kept"]),
        ]
        constants |= {"seven": _int64(7), "infinite": _int64(10**9), "groups": _int64(0, -1, 80 * step)}
        constants["zero"] = np.zeros((), np.float32)
    nodes.append(helper.make_node("LogSoftmax" if is_ctc else "Identity", ["kept" if step > 1 else "projected"], [name]))
    inputs = [("x", FLOAT, x)]
    outputs = [(name, FLOAT, output or ("N", "U", width))]
    if lens is not None:
        inputs.append(("x_lens", lens, ("N",)))
        outputs.append((f"{name}_len" if is_ctc else f"{name}_lens", lens, ("N",)))
        dtype = helper.tensor_dtype_to_np_dtype(lens)
        constants |= {f"len_{number}": np.array(number, dtype) for number in (1, 2, 7)}
        steps = (("Sub", 7, "x_lens", "rest_len"), ("Div", 2, "rest_len", "half_len"), ("Add", 1, "half_len", "more_len"))
        for kind, number, given, result in (*steps, ("Div", 2, "more_len", outputs[1][0])):
            nodes.append(helper.make_node(kind, [given, f"len_{number}"], [result]))
    return model(nodes, inputs, outputs, constants, metadata or (CTC_METADATA if is_ctc else ENCODER_METADATA))


def decoder_graph(*, batch: str | int = "N", context: int = CONTEXT, kind: int = INT64) -> onnx.ModelProto:
    """A decoder: embeddings of the labels, those of negative ids are zero, and their sum."""
    nodes = [
        helper.make_node("Cast", ["y"], ["y64"], to=INT64),
        helper.make_node("Add", ["y64", "one"], ["shifted"]),
        helper.make_node("Gather", ["embedding", "shifted"], ["embedded"]),
        helper.make_node("ReduceSum", ["embedded", "axis"], ["decoder_out"], keepdims=0),
    ]
    embedding = random(VOCAB_SIZE + 1, WIDTH, seed=1, scale=0.5)
    embedding[0] = 0.0
    constants = {"one": _int64(1), "embedding": embedding, "axis": _int64(1)}
    metadata = {"context_size": str(context), "vocab_size": str(VOCAB_SIZE)}
    return model(nodes, [("y", kind, (batch, context))], [("decoder_out", FLOAT, (batch, WIDTH))], constants, metadata)


def joiner_graph(*, output: Shape = ("N", VOCAB_SIZE), width: int = WIDTH) -> onnx.ModelProto:
    """A joiner: linear(tanh(sum))."""
    nodes = [
        helper.make_node("Add", ["encoder_out", "decoder_out"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["active"]),
        helper.make_node("MatMul", ["active", "weight"], ["logit"]),
    ]
    inputs = [(name, FLOAT, ("N", width)) for name in ("encoder_out", "decoder_out")]
    constants = {"weight": random(width, VOCAB_SIZE, seed=2)}
    return model(nodes, inputs, [("logit", FLOAT, output)], constants, {"joiner_dim": str(width)})


def zipformer1_states() -> list[tuple[str, int, Shape]]:
    """Name, type and axes of the states of a small Zipformer 1: of each kind, those of all stacks."""
    shapes: dict[str, Any] = {
        "len": lambda s: (s["layers"], "N"),
        "avg": lambda s: (s["layers"], "N", WIDTH),
        "key": lambda s: (s["layers"], s["left"], "N", WIDTH),
        "val": lambda s: (s["layers"], s["left"], "N", WIDTH // 2),
        "val2": lambda s: (s["layers"], s["left"], "N", WIDTH // 2),
        "conv1": lambda s: (s["layers"], "N", WIDTH, s["kernel"] - 1),
        "conv2": lambda s: (s["layers"], "N", WIDTH, s["kernel"] - 1),
    }
    return [
        (f"cached_{kind}_{i}", INT64 if kind == "len" else FLOAT, shape(stack))
        for kind, shape in shapes.items()
        for i, stack in enumerate(STACKS)
    ]


def zipformer1_graph() -> onnx.ModelProto:
    """A streaming encoder with the names, states and metadata of Zipformer 1.

    Every state is half of what it was plus the mean frame of the chunk, in its own layout; that of `len` counts frames. The
    frames of a chunk depend on the means of all states.
    """
    nodes, constants = _every_fourth(WIDTH)
    nodes += [
        helper.make_node("Tanh", ["projected"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Slice", ["mean", "zeros", "half_width", "axis"], ["half_mean"]),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
    ]
    constants |= {"zeros": _int64(0), "half_width": _int64(WIDTH // 2), "last": _int64(-1), "middle": _int64(1)}
    constants |= {"half": np.array(0.5, np.float32), "sixteen": _int64(CHUNK_FEATURES // 2), "scale": np.float32(0.01)}
    remembered = []
    for name, kind, shape in zipformer1_states():
        place = list(shape).index("N")
        others = [axis for axis in range(len(shape)) if axis != place]
        value = name
        if kind == INT64:
            nodes.append(helper.make_node("Add", [name, "sixteen"], [f"new_{name}"]))
            nodes += [
                helper.make_node("Cast", [name], [f"{name}_float"], to=FLOAT),
                helper.make_node("Mul", [f"{name}_float", "scale"], [f"{name}_scaled"]),
            ]
            value = f"{name}_scaled"
        else:
            added = "column" if "conv" in name else "half_mean" if "val" in name else "mean"
            nodes.append(helper.make_node("Mul", [name, "half"], [f"{name}_half"]))
            nodes.append(helper.make_node("Add", [f"{name}_half", added], [f"new_{name}"]))
        nodes.append(helper.make_node("ReduceMean", [value], [f"{name}_mean"], axes=others, keepdims=0))
        remembered.append(f"{name}_mean")
    nodes += [
        helper.make_node("Sum", remembered, ["memory"]),
        helper.make_node("Unsqueeze", ["memory", "both"], ["memory_N11"]),
        helper.make_node("Add", ["active", "memory_N11"], ["encoder_out"]),
    ]
    constants["both"] = _int64(1, 2)
    inputs = [("x", FLOAT, ("N", CHUNK_FEATURES + 7, 80)), *zipformer1_states()]
    outputs = [("encoder_out", FLOAT, ("N", CHUNK_FEATURES // 4, WIDTH))]
    outputs += [(f"new_{name}", kind, shape) for name, kind, shape in zipformer1_states()]
    return model(nodes, inputs, outputs, constants, ONLINE1_METADATA)


def write(folder: Path, **graphs: onnx.ModelProto) -> Path:
    """Write graphs by stem, and the tiny tokenizer as tokens.txt and bpe.model."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, graph in graphs.items():
        onnx.save(graph, folder / f"{stem}.onnx")
    files = tiny_tokenizer().to_files()
    (folder / "tokens.txt").write_bytes(files["tokens.txt"])
    (folder / "bpe.model").write_bytes(files["tokenizer.model"])
    return folder


def transducer(**encoder: Any) -> dict[str, onnx.ModelProto]:
    """The graphs of a transducer; arguments are those of `offline_graph`."""
    return {"encoder": offline_graph(is_ctc=False, **encoder), "decoder": decoder_graph(), "joiner": joiner_graph()}
