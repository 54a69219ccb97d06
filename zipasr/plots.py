"""The few figures we draw, each a function from plain numbers to a PNG file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zipasr.errors import DataError


def plot_curves(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Draw losses and error rates of a run over its batches.

    Args:
        lines: entries of `metrics.jsonl`: "kind" (train or dev), "batch", and numbers by name; losses in nats per second.
        path: PNG to write.
    Raises:
        DataError: there is nothing to draw, the file cannot be written, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError('plots need matplotlib, but it is not installed; pip install "zipasr[train]"') from error
    train = [line for line in lines if line["kind"] == "train"]
    dev = [line for line in lines if line["kind"] == "dev"]
    if not train and not dev:
        raise DataError("there must be lines of metrics to draw, but there are none yet; train for some more batches")
    figure = Figure(figsize=(9, 7), layout="constrained")
    loss_axes, error_axes = figure.subplots(2, 1, sharex=True)
    names = [("pruned", "pruned transducer"), ("simple", "simple transducer"), ("ctc", "CTC")]
    for color, (name, label) in zip(("tab:blue", "tab:gray", "tab:orange"), names, strict=True):
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
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no format of a picture
        raise DataError(f"the figure cannot be written to {path}: {error}; name a .png in a folder that exists") from error
    return Path(path)


def _draw(axes: Any, lines: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    points = [(line["batch"], line[name]) for line in lines if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
