"""The few figures we draw, each a function from plain numbers to a PNG file."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zipasr.errors import DataError

_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "tab:brown")
_MARKERS = ("o", "s", "^", "D", "v", "P")

_LOSSES = (
    ("pruned", "pruned transducer", "tab:blue"),
    ("simple", "simple transducer", "tab:gray"),
    ("ctc", "CTC", "tab:orange"),
    ("attention", "attention decoder", "tab:green"),
    ("consistency", "consistency of two views", "tab:purple"),
)


def plot_curves(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Draw losses and error rates of a run over its batches.

    Args:
        lines: entries of `metrics.jsonl`: "kind" (train or dev), "batch", and numbers by name; losses in nats per second.
        path: PNG to write.
    Raises:
        DataError: there is nothing to draw, the file cannot be written, or matplotlib is not installed.
    """
    train = [line for line in lines if line["kind"] == "train"]
    dev = [line for line in lines if line["kind"] == "dev"]
    if not train and not dev:
        raise DataError("there must be lines of metrics to draw, but there are none yet; train for some more batches")
    figure = _new_figure(figsize=(9, 7))
    loss_axes, error_axes = figure.subplots(2, 1, sharex=True)
    for name, label, color in _LOSSES:
        _draw(loss_axes, train, name, color=color, label=f"{label}, train", alpha=0.5, linewidth=1)
        _draw(loss_axes, dev, f"{name}_loss", color=color, label=f"{label}, dev (averaged model)", marker="o", markersize=3)
    loss_axes.set_ylabel("loss (nats per second of sound)")
    for color, (name, label) in zip(
        ("tab:blue", "tab:orange"), [("transducer_wer", "transducer"), ("ctc_wer", "CTC")], strict=True
    ):
        _draw(error_axes, dev, name, color=color, label=f"{label}, greedy", marker="o", markersize=3)
    error_axes.set_ylabel("word error rate on dev (%)")
    error_axes.set_xlabel("batches")
    error_axes.set_ylim(bottom=0)
    for axes in (loss_axes, error_axes):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    return _save(figure, path)


def _draw(axes: Any, lines: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    points = [(line["batch"], line[name]) for line in lines if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def plot_costs(models: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str) -> Path:
    """Draw time and peak memory of encoders over the size of their models, a line for each family.

    Args:
        models: "family", "label" (the size within it, "" for none), "params_m" (millions), "time_s" (seconds a batch) and
            "peak_mib" (or None) of each model; in any order.
        path: PNG to write.
        title: says what was measured, and where.
    Raises:
        DataError: there is nothing to draw, the file cannot be written, or matplotlib is not installed.
    """
    if not models:
        raise DataError("there must be models to draw, but none was measured")
    panels = [("time_s", "time of the encoder (s per batch)"), ("peak_mib", "peak memory above the model (MiB)")]
    panels = [(name, label) for name, label in panels if any(model[name] is not None for model in models)]
    figure = _new_figure(figsize=(5.5 * len(panels), 4.8))
    from matplotlib.ticker import LogLocator, NullFormatter

    for axes, (name, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_families(axes, [model for model in models if model[name] is not None], name)
        axes.set_ylabel(label)
        axes.set_xlabel("parameters of the whole model (millions)")
        axes.loglog()  # sizes and costs differ up to 25-fold, and most models are small
        axes.margins(0.08)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(title, fontsize="medium")
    return _save(figure, path)


def _draw_families(axes: Any, models: Sequence[Mapping[str, Any]], name: str) -> None:
    families = sorted({model["family"] for model in models})
    for family, color, marker in zip(families, itertools.cycle(_COLORS), itertools.cycle(_MARKERS), strict=False):
        members = sorted((m for m in models if m["family"] == family), key=lambda model: model["params_m"])
        x, y = [m["params_m"] for m in members], [m[name] for m in members]
        axes.plot(x, y, color=color, marker=marker, markersize=7, label=family)
        for member in members:
            place = (member["params_m"], member[name])
            axes.annotate(member["label"], place, xytext=(6, -11), textcoords="offset points", fontsize="small", color=color)


def _new_figure(figsize: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError('plots need matplotlib, but it is not installed; pip install "zipasr[train]"') from error
    return Figure(figsize=figsize, layout="constrained")


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no format of a picture
        raise DataError(f"the figure cannot be written to {path}: {error}; name a .png in a folder that exists") from error
    return Path(path)
