"""What graphs of other projects are: from their metadata, and the names, types and shapes of their tensors, to `described`.

Graphs that cannot run here are refused with the reason: those of other architectures, and those that take only inputs of one
size.
"""

from collections.abc import Mapping

import numpy as np

from zipasr.encoder.rates import FEATURES_PER_FRAME_50HZ
from zipasr.errors import CheckpointError
from zipasr.features import FbankConfig
from zipasr.onnx_runtime.graph import Graph, GraphInput
from zipasr.onnx_runtime.layout import ExportedConfig, ExportedFiles

_MODEL_TYPES = ("zipformer", "zipformer2", "zipformer2_ctc")
"""Zipformer 1, Zipformer 2, and its CTC model of whole utterances."""
_CTC_OUTPUT = "log_probs"
_STATES_PER_LAYER, _OTHER_STATES = 6, 2
"""Caches of Zipformer 2: of a layer, and of Conv-Embed and the number of frames so far."""
_STATES_PER_STACK = 7
"""Caches of Zipformer 1, which has those of all layers of a stack in one."""
_PROBE_FRAMES = 39
"""Features with which a graph runs to find the size of its output."""
_USUAL_BINS = 80
"""Mel bins, where the graph does not say."""
_FIXED = (
    "such graphs are made for accelerators (QNN, RKNN) with --dynamic-axes 0 or --max-len; export the model with dynamic "
    "axes, or use its PyTorch checkpoint"
)


def described(graphs: Mapping[str, Graph]) -> ExportedConfig:
    """The sizes and features of graphs by part, without their files and the blank.

    Raises:
        CheckpointError: the graphs are no Zipformer, take only inputs of one size, or do not fit each other.
    """
    encoder = graphs.get("encoder") or graphs["ctc"]
    _check_kind(encoder, is_ctc="ctc" in graphs)
    streams = is_streaming(encoder)
    _check_features(encoder, is_streaming=streams)
    chunk, left = _chunk_sizes(encoder) if streams else (None, None)
    context_size, joiner_dim = _transducer_sizes(graphs) if "encoder" in graphs else (0, 0)
    return ExportedConfig(
        files=ExportedFiles(),
        context_size=context_size,
        joiner_dim=joiner_dim,
        features=_features(encoder),
        chunk_frames_50hz=chunk,
        left_context_frames_50hz=left,
    )


def is_streaming(encoder: Graph) -> bool:
    """Whether an encoder or CTC graph processes chunks."""
    return "decode_chunk_len" in encoder.metadata or len(encoder.inputs) > 2


def output_width(graph: Graph) -> int:
    """Size of the last axis of the first output, found by running the graph where it does not say."""
    declared = _declared_width(graph)
    if declared is not None:
        return declared
    arrays = []
    for given in graph.inputs:
        sizes = [1 if size is None else size for size in given.shape]
        if len(sizes) == 3 and given.shape[1] is None:
            sizes[1] = _PROBE_FRAMES
        is_lens = len(sizes) == 1 and graph.inputs[0].shape[1:2] == (None,)
        arrays.append(np.full(sizes, _PROBE_FRAMES if is_lens else 0, given.dtype))
    return int(graph.run(*arrays)[0].shape[-1])


def _declared_width(graph: Graph) -> int | None:
    return graph.outputs[0][-1] if graph.outputs and graph.outputs[0] else None


def _check_kind(encoder: Graph, *, is_ctc: bool) -> None:
    found = encoder.metadata.get("model_type")
    if found is None:
        raise CheckpointError(
            f"{encoder.name} must say in its metadata what it is (model_type, such as {_MODEL_TYPES[1]}), but does not; "
            "export the model with a script of icefall (export-onnx*.py) or with zipasr export"
        )
    if found not in _MODEL_TYPES:
        raise CheckpointError(
            f"{encoder.name} must be a Zipformer ({', '.join(_MODEL_TYPES)}), but its metadata says {found!r}; zipasr runs "
            "no other architectures, sherpa-onnx may"
        )
    gives_log_probs = found == "zipformer2_ctc" or _CTC_OUTPUT in encoder.output_names
    if gives_log_probs != is_ctc:
        here, needed = ("the encoder of a transducer", "encoder_out") if not is_ctc else ("a CTC model", _CTC_OUTPUT)
        raise CheckpointError(
            f"{encoder.name} must be {here}, as its name says, and return {needed}, but returns "
            f"{', '.join(encoder.output_names[:2])}; give it its own name back"
        )


def _check_features(encoder: Graph, *, is_streaming: bool) -> None:
    """Check the inputs of an encoder: features of any batch, then their lengths, if at all, or the states of streams."""
    name, features, others = encoder.name, encoder.inputs[:1], encoder.inputs[1:]
    if not features or len(features[0].shape) != 3 or not issubclass(features[0].dtype, np.floating):
        raise CheckpointError(
            f"{name} must take features (N, T, F) first, but takes {_listed(encoder.inputs)}; export the model again"
        )
    free = (0,) if is_streaming else (0, 1)
    if any(features[0].shape[axis] is not None for axis in free):
        what = "any number of streams" if is_streaming else "utterances of any number and length"
        raise CheckpointError(f"{name} must take {what}, but takes only {features[0]}; {_FIXED}")
    if is_streaming:
        _check_states(encoder, others)
    elif len(others) == 1 and not (len(others[0].shape) == 1 and issubclass(others[0].dtype, np.integer)):
        raise CheckpointError(f"{name} must take features and their lengths (N,), but takes {_listed(encoder.inputs)}")


def _check_states(encoder: Graph, states: list[GraphInput]) -> None:
    name, layers = encoder.name, _numbers(encoder, "num_encoder_layers")
    if encoder.metadata["model_type"] == "zipformer":
        expected = _STATES_PER_STACK * len(layers)
    else:
        expected = _STATES_PER_LAYER * sum(layers) + _OTHER_STATES
    if len(states) != expected or len(encoder.outputs) != 1 + expected:
        raise CheckpointError(
            f"{name} must take {expected} states of a stream and return as many, for layers {layers}, but takes "
            f"{len(states)} and returns {len(encoder.outputs) - 1}; export the model again"
        )
    for state in states:
        if len(state.free_axes) != 1:
            raise CheckpointError(f"{name} must take states of any number of streams, but takes {state}; {_FIXED}")


def _chunk_sizes(encoder: Graph) -> tuple[int, int]:
    """The chunk and the left context at 50 Hz; that of the first stack, which is not downsampled."""
    (length,) = _numbers(encoder, "decode_chunk_len", count=1)
    if length < 4 or length % 4:
        raise CheckpointError(
            f"{encoder.name} must process chunks of a multiple of 4 features, but has decode_chunk_len {length}"
        )
    return length // FEATURES_PER_FRAME_50HZ, _numbers(encoder, "left_context_len")[0]


def _transducer_sizes(graphs: Mapping[str, Graph]) -> tuple[int, int]:
    """The context size and the width of the joiner.

    Raises:
        CheckpointError: decoder or joiner take something else, or the graphs are of different models.
    """
    decoder, joiner = graphs["decoder"], graphs["joiner"]
    kinds = ((decoder, 1, "labels (N, context)"), (joiner, 2, "frames (N, J) and contexts (N, J)"))
    for graph, num_inputs, wanted in kinds:
        if [len(given.shape) for given in graph.inputs] != [2] * num_inputs:
            raise CheckpointError(f"{graph.name} must take {wanted}, but takes {_listed(graph.inputs)}; export it again")
        if any(given.shape[0] is not None for given in graph.inputs):
            raise CheckpointError(f"{graph.name} must take any number, but takes only {_listed(graph.inputs)}; {_FIXED}")
    context_size = decoder.inputs[0].shape[1] or _numbers(decoder, "context_size", count=1)[0]
    widths = {
        "the encoder's frames": _declared_width(graphs["encoder"]),
        "the decoder's contexts": _declared_width(decoder),
        "the joiner's frames": joiner.inputs[0].shape[1],
        "the joiner's contexts": joiner.inputs[1].shape[1],
    }
    known = {what: width for what, width in widths.items() if width is not None}
    if len(set(known.values())) > 1:
        sizes = ", ".join(f"{what} {width}" for what, width in known.items())
        raise CheckpointError(f"encoder, decoder and joiner must be of one model, but have different widths: {sizes}")
    return context_size, next(iter(known.values()), 0) or output_width(decoder)


def _features(encoder: Graph) -> FbankConfig:
    kind, num_bins = encoder.metadata.get("feature", ""), encoder.inputs[0].shape[2]
    if kind not in ("", "fbank", "whisper"):
        raise CheckpointError(f"{encoder.name} must take features of Kaldi or Whisper, but its metadata says {kind!r}")
    return FbankConfig(kind="whisper" if kind == "whisper" else "kaldi", num_mel_bins=num_bins or _USUAL_BINS)


def _numbers(graph: Graph, key: str, *, count: int | None = None) -> list[int]:
    """The numbers of an entry of the metadata.

    Raises:
        CheckpointError: it is missing, or is something else.
    """
    text = graph.metadata.get(key, "")
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 8 for part in parts) or count not in (None, len(parts)):
        raise CheckpointError(
            f"{graph.name} must have {key} in its metadata, numbers with commas between them, but has {text or 'none'!r}; "
            "export the model again"
        )
    return [int(part) for part in parts]


def _listed(inputs: list[GraphInput]) -> str:
    return ", ".join(map(str, inputs[:3])) or "nothing"
