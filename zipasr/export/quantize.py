"""8-bit export with a gate: `export_int8` writes graphs only if their word error rate on given recordings is good enough.

Products with constant weights are in 8 bits: weights are quantized per output channel, activations per tensor at run time
(`export.integer`). The predictor stays in float32, and so do the modules whose quantization changes
the encoder's output most. Their share starts small and grows until the word error rate rises by no more than allowed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.errors import DataError, ExportError
from zipasr.export import integer
from zipasr.export.integer import WEIGHT_STEPS
from zipasr.export.offline import offline_graphs
from zipasr.export.onnx import ExportReport, exported_config, make_graphs, open_model, write_graphs
from zipasr.export.search import search_of_graphs, search_of_head
from zipasr.features import Fbank
from zipasr.model import AsrModel
from zipasr.onnx_runtime import open_graphs
from zipasr.recognizer import Recognizer
from zipasr.recognizer.opening import open_language_models
from zipasr.search.default_search import read_default_search
from zipasr.search.keywords import Keyword

QUANTIZATION_FILE = "quantization.json"
"""Document of an exported folder: the `quantization` part of `QuantizationReport.to_dict`."""
FLOAT_SHARES = (0.1, 0.25, 0.5)
"""Shares of the encoder's modules that stay in float32, tried in this order; with the last, the joiner does too."""
_ACTIVATION_STEPS = 255
_SAMPLE_S = 20.0
"""Seconds of audio on which the sensitivity of the modules is measured."""
_PARTS = {"transducer": ("encoder", "joiner"), "ctc": ("ctc",)}
"""The graphs of each head that are quantized."""
_MEASURED_WITH = {"transducer": ("decoder", "ctc_head"), "ctc": ()}
"""Those that a recognizer with this head needs besides; the CTC head is part of `joint`."""


class Measured(NamedTuple):
    """Word error rate and speed of a recognizer on recordings with known text."""

    word_error_rate: float
    """In percent."""
    real_time_factor: float
    """Seconds of computing per second of audio."""


@dataclass(frozen=True, kw_only=True)
class HeadQuantization:
    """Accuracy, speed and size of the graphs of one head before and after quantization."""

    before: Measured
    """In float32."""
    after: Measured
    """In 8 bits."""
    num_bytes_before: int
    """Size of the graphs in float32."""
    num_bytes_after: int
    """Size of the graphs in 8 bits."""
    kept_float: tuple[str, ...]
    """Modules that stay in float32, the most sensitive first."""

    @property
    def increase(self) -> float:
        """Increase of the word error rate in points."""
        return self.after.word_error_rate - self.before.word_error_rate


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """The result of an 8-bit export, with accuracy and speed before and after."""

    export: ExportReport
    """The report of the export itself."""
    heads: dict[str, HeadQuantization]
    """By head: transducer, ctc."""
    sensitivity: dict[str, float]
    """Relative error of the encoder's output when a single module is quantized, by module; the largest first."""

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return self.export.to_dict() | {"quantization": _to_dict(self.heads, self.sensitivity)}

    def table(self) -> str:
        """The report as text."""
        lines = [self.export.table().splitlines()[0]]
        for name, head in self.heads.items():
            before, after = head.before, head.after
            lines.append(
                f"  {name}: {head.num_bytes_before / 1e6:.1f} -> {head.num_bytes_after / 1e6:.1f} MB, real-time factor "
                f"{before.real_time_factor:.4f} -> {after.real_time_factor:.4f}, WER {before.word_error_rate:.2f} -> "
                f"{after.word_error_rate:.2f} % ({head.increase:+.2f}), {len(head.kept_float)} of {len(self.sensitivity)} "
                "modules kept in float32"
            )
        notes = [] if self.export.limits is None else [f"note: {self.export.limits}"]
        return "\n".join([*lines, *notes])


# Differs: nine parameters, those of `export_model` and what is measured.
def export_int8(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recordings: Sequence[np.ndarray],
    measure: Callable[[Recognizer], Measured],
    max_increase: float = 0.5,
    tolerance: float | None = None,
    chunk_ms: int | None = None,
    left_context_ms: int | None = None,
    keywords: Sequence[str | Keyword] = (),
) -> QuantizationReport:
    """Export a model to a folder of 8-bit ONNX graphs, if they are good enough, and return a report.

    Args:
        folder: the folder of a model or of a training run.
        out: the folder to write; an earlier export there is replaced.
        recordings: typical audio, each (samples,) at 16 kHz; some of it is used to rank the modules.
        measure: measures word error rate and speed of a recognizer on the recordings that decide; its search is the default
            of the folder if that uses its head.
        max_increase: points by which the word error rate of each head may exceed that in float32.
        tolerance: largest allowed difference from PyTorch before quantization; see `export_model`.
        chunk_ms: chunk length for streaming with a causal model; the measured recognizers use these chunks too.
        left_context_ms, keywords: see `export_model`.
    Raises:
        CheckpointError: the model cannot be read, or the folder cannot be written.
        ConfigError: the model cannot be exported, `out` holds something else, or a package is missing.
        DataError: no recording is long enough to measure with.
        ExportError: the word error rate rises too much, or a graph differs from PyTorch; nothing is written.
    """
    opened = open_model(folder, out, chunk_ms=chunk_ms, left_context_ms=left_context_ms, keywords=keywords)
    samples, tokenizer = _sample(recordings), opened.tokenizer
    graphs, differences = make_graphs(opened.graphs(), tolerance=tolerance)
    default = search_of_graphs(read_default_search(opened.source))
    models = open_language_models(None, None, tokenizer, torch.device("cpu"), opened.source)

    def measure_graphs(head: str, own: Mapping[str, Any]) -> Measured:
        config = exported_config(opened, own, "float32")
        names = config.files.named()
        scorer = open_graphs(config, {names[part]: graph.SerializeToString() for part, graph in own.items()})
        known = partial(Recognizer, default_search=search_of_head(default, head), language_models=models)
        return measure(known(scorer, tokenizer, features=config.features, use_true_times=False))

    sensitivity = measure_sensitivity(opened.model, samples, is_streaming=opened.sizes is not None)
    heads, chosen = _quantize_heads(graphs, sensitivity, measure_graphs, max_increase)
    documents = {QUANTIZATION_FILE: _to_dict(heads, sensitivity)}
    report = write_graphs(opened, out, graphs | chosen, "int8", differences, documents)
    return QuantizationReport(export=report, heads=heads, sensitivity=sensitivity)


def _quantize_heads(
    graphs: dict[str, Any],
    sensitivity: Mapping[str, float],
    measure: Callable[[str, Mapping[str, Any]], Measured],
    max_increase: float,
) -> tuple[dict[str, HeadQuantization], dict[str, Any]]:
    """The reports of the heads and the quantized graphs.

    In our own folders the CTC head takes its frames from the encoder of the transducer, whose share in float32 must
    therefore suffice for both.
    """
    heads: dict[str, HeadQuantization] = {}
    chosen: dict[str, dict[str, Any]] = {}
    for head, parts in _PARTS.items():
        own = {part: graph for part, graph in graphs.items() if part in (*parts, *_MEASURED_WITH[head])}
        if parts[0] in own:
            heads[head], chosen[head] = _quantize_head(head, own, sensitivity, partial(measure, head), max_increase)
    first, second = (heads.get(head) for head in _PARTS)
    if first is not None and second is not None and len(first.kept_float) < len(second.kept_float):
        own = {part: graph for part, graph in graphs.items() if part not in _PARTS["ctc"]}
        again = partial(measure, "transducer")
        heads["transducer"], chosen["transducer"] = _quantize_head(
            "transducer", own, sensitivity, again, max_increase, before=first.before, min_kept=len(second.kept_float)
        )
    return heads, {part: graph for of_head in chosen.values() for part, graph in of_head.items()}


def _quantize_head(
    head: str,
    graphs: dict[str, Any],
    sensitivity: Mapping[str, float],
    measure: Callable[[Mapping[str, Any]], Measured],
    max_increase: float,
    *,
    before: Measured | None = None,
    min_kept: int = 1,
) -> tuple[HeadQuantization, dict[str, Any]]:
    """The report of one head and its quantized graphs, with as few modules in float32 as the gate allows.

    Args:
        head: transducer or ctc.
        graphs: the graphs to measure, of which those in `_PARTS` are quantized.
        sensitivity: from `measure_sensitivity`.
        measure: measures graphs.
        max_increase: points by which the word error rate may rise.
        before: the result in float32; None: it is measured.
        min_kept: modules that stay in float32 at least.
    Raises:
        ExportError: it rises more, whatever stays in float32.
    """
    parts = [part for part in _PARTS[head] if part in graphs]
    after = before = before or measure(graphs)
    for share in FLOAT_SHARES:
        if round(share * len(sensitivity)) < min_kept and share != FLOAT_SHARES[-1]:
            continue
        kept = tuple(list(sensitivity)[: max(1, round(share * len(sensitivity)))])
        is_last = share == FLOAT_SHARES[-1]
        chosen = {part: quantize(graphs[part], keep=kept) for part in parts if part != "joiner" or not is_last}
        made = graphs | chosen
        after = measure(made)
        if after.word_error_rate - before.word_error_rate <= max_increase:
            report = HeadQuantization(
                before=before,
                after=after,
                num_bytes_before=sum(graphs[part].ByteSize() for part in parts),
                num_bytes_after=sum(made[part].ByteSize() for part in parts),
                kept_float=kept,
            )
            return report, chosen
    raise ExportError(
        f"the word error rate of the {head} in 8 bits must rise by at most {max_increase:g} points, but rises from "
        f"{before.word_error_rate:.2f} to {after.word_error_rate:.2f} % even with half of the modules in float32; nothing "
        "was written. Export with --fp16 or in float32, or allow more with --max-wer-increase"
    )


def quantize(graph: Any, *, keep: Sequence[str]) -> Any:
    """A copy of a graph whose products with constant weights are in 8 bits, except in the modules of `keep`."""

    def is_quantized(node_name: str) -> bool:  # such as /stacks.0/layers.1/conv1/gate_proj/MatMul
        linear = node_name.strip("/").rpartition("/")[0].replace("/", ".")
        return not _is_always_float(linear) and _module_of(linear) not in keep

    return integer.quantize(graph, is_quantized)


def _is_always_float(linear: str) -> bool:
    """Whether a layer is never quantized: position encodings cost little, and the error of the output is not averaged."""
    return linear.endswith("linear_pos") or linear.startswith("head")


def _module_of(linear: str) -> str:
    """The module that a linear layer belongs to: stacks.0.layers.1.conv1 of stacks.0.layers.1.conv1.out_proj.linear."""
    names = [name for name in linear.split(".") if name != "block"]  # that of a loop
    return ".".join(names[:5]) if names[0] == "stacks" else ".".join(names[:2])


def measure_sensitivity(model: AsrModel, samples: Sequence[np.ndarray], *, is_streaming: bool = False) -> dict[str, float]:
    """Relative error of the encoder's output when a single module is in 8 bits, by module; the largest first.

    Args:
        model: the model.
        samples: recordings, each (samples,) at 16 kHz.
        is_streaming: whether graphs of chunks are exported; they are encoded as a whole here nevertheless.
    """
    graphs = offline_graphs(model, is_streaming=is_streaming)
    module = (graphs.get("encoder") or graphs["ctc"]).module
    fbank = Fbank(model.config.features)
    inputs = [(fbank.normalized(x).unsqueeze(0), torch.tensor([len(x)])) for x in map(fbank, samples)]
    groups: dict[str, list[nn.Linear]] = {}
    for name, linear in module.named_modules():
        name = name.removeprefix("encoder.")
        if isinstance(linear, nn.Linear) and not _is_always_float(name):
            groups.setdefault(_module_of(name), []).append(linear)
    errors = {}
    with torch.inference_mode():
        exact = [module(*given)[0] for given in inputs]
        for name, linears in groups.items():
            with _rounded(linears):
                found = [module(*given)[0] for given in inputs]
            error = sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True))
            errors[name] = (error / sum(float(a.square().sum()) for a in exact)) ** 0.5
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


@contextmanager
def _rounded(linears: Sequence[nn.Linear]) -> Iterator[None]:
    """Simulate 8-bit arithmetic in these layers while the block runs."""
    hooks = [linear.register_forward_hook(_forward_in_8_bits) for linear in linears]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _forward_in_8_bits(linear: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
    assert isinstance(linear, nn.Linear)
    x, weight = given[0], linear.weight
    low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
    step = ((high - low) / _ACTIVATION_STEPS).clamp(min=1e-12)
    weight_step = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / WEIGHT_STEPS
    return functional.linear((x / step).round() * step, (weight / weight_step).round() * weight_step, linear.bias)


def _sample(recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first `_SAMPLE_S` seconds of the recordings, without those that are too short for a frame."""
    chosen, num_samples = [], 0
    for samples in recordings:
        if len(samples) >= 3200 and num_samples < _SAMPLE_S * 16_000:
            chosen.append(samples[: round(_SAMPLE_S * 16_000)])
            num_samples += len(chosen[-1])
    if not chosen:
        raise DataError("quantization needs recordings of 0.2 s or more to measure on, but there are none; give other cuts")
    return chosen


def _to_dict(heads: Mapping[str, HeadQuantization], sensitivity: Mapping[str, float]) -> dict[str, Any]:
    return {
        "heads": {
            name: {
                "word_error_rate": [head.before.word_error_rate, head.after.word_error_rate],
                "real_time_factor": [head.before.real_time_factor, head.after.real_time_factor],
                "num_bytes": [head.num_bytes_before, head.num_bytes_after],
                "kept_float": list(head.kept_float),
            }
            for name, head in heads.items()
        },
        "sensitivity": dict(sensitivity),
    }
