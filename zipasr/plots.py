"""Figures: training curves, cost of encoders, reliability of confidences; each function maps plain numbers to a PNG."""

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.errors import ConfigError, DataError

_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "tab:brown")
_MARKERS = ("o", "s", "^", "D", "v", "P")

_LOSSES = (
    ("pruned", "pruned transducer", "tab:blue"),
    ("simple", "simple transducer", "tab:gray"),
    ("ctc", "CTC", "tab:orange"),
    ("attention", "attention decoder", "tab:green"),
    ("consistency", "consistency of two views", "tab:purple"),
)


class _Panel(NamedTuple):
    """A small panel of `plot_curves`."""

    title: str
    curves: tuple[tuple[str, str], ...]
    """Name in the log, and label in the legend."""
    is_log: bool = False
    kind: str = "train"
    """Kind of the log lines that are drawn: train or dev."""


_PANELS = (
    _Panel("learning rate", (("lr", "learning rate"),)),
    _Panel("gradient norm", (("grad_norm", "gradient norm"),), is_log=True),
    _Panel("clipping", (("clip_factor", "factor of the last batch"), ("clip_rate", "share of batches"))),
    _Panel("scale of the loss (float16)", (("loss_scale", "scale"),), is_log=True),
    _Panel("speed (× real time)", (("hours_per_hour", "speed"),)),
    _Panel("peak memory (GiB)", (("memory_gib", "memory"),)),
    _Panel("share of labels in bursts, dev", (("burst_share", "all but the first label of each frame"),), kind="dev"),
    _Panel("delay of labels against CTC, dev (s)", (("delay_s", "delay"),), kind="dev"),
    _Panel("deleted words, dev (%)", (("deletions", "deletions"),), kind="dev"),
)
_COLUMNS = 3


def plot_curves(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Draw the log of a run over its batches: losses and error rates, then learning rate, gradients, speed, memory, and the
    emission of labels on dev.

    Panels without data are omitted. Values that are not finite are skipped.

    Args:
        lines: entries of `metrics.jsonl`: "kind" (train or dev), "step", and numbers by name; losses in nats per second.
        path: PNG to write.
    Raises:
        DataError: there is nothing to draw, the file cannot be written, or matplotlib is not installed.
    """
    train = sorted((line for line in lines if line["kind"] == "train"), key=lambda line: line["step"])
    dev = sorted((line for line in lines if line["kind"] == "dev"), key=lambda line: line["step"])
    if not train and not dev:
        raise DataError("there must be logged metrics to draw, but there are none yet; train for some more batches")
    lines_of = {"train": train, "dev": dev}
    panels = [panel for panel in _PANELS if any(_points(lines_of[panel.kind], name) for name, _ in panel.curves)]
    num_rows = -(-len(panels) // _COLUMNS)
    figure = _new_figure(figsize=(11, 7.0 + 1.9 * num_rows))
    grid = figure.add_gridspec(2 + num_rows, _COLUMNS, height_ratios=[2.2, 1.6, *[1.0] * num_rows])
    loss_axes = figure.add_subplot(grid[0, :])
    error_axes = figure.add_subplot(grid[1, :], sharex=loss_axes)
    _draw_losses(loss_axes, train, dev)
    _draw_errors(error_axes, dev)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(grid[2 + i // _COLUMNS, i % _COLUMNS], sharex=loss_axes)
        _draw_panel(axes, panel, lines_of[panel.kind])
    for axes in figure.axes[-_COLUMNS:] if panels else [error_axes]:
        axes.set_xlabel("batches")
    return _save(figure, path)


def _draw_panel(axes: Any, panel: _Panel, lines: Sequence[Mapping[str, Any]]) -> None:
    """Lines for training, points for dev; the axis starts at zero, or below if values are negative."""
    marker = "o" if panel.kind == "dev" else None
    for color, (name, label) in zip(_COLORS, panel.curves, strict=False):
        _draw(axes, lines, name, color=color, label=label, linewidth=1, marker=marker, markersize=3)
    axes.set_title(panel.title, fontsize="medium", loc="left")
    if panel.is_log:
        _set_log(axes)
    else:
        values = [value for line in axes.lines for value in line.get_ydata()]
        least, most = min(0.0, *values), max(0.0, *values)
        axes.set_ylim(1.1 * least, 1.1 * most if most > 0.0 or least < 0.0 else 1.0)
    if len(axes.lines) > 1:
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    axes.locator_params(axis="x", nbins=5)


def _draw_losses(axes: Any, train: Sequence[Mapping[str, Any]], dev: Sequence[Mapping[str, Any]]) -> None:
    """Thin lines for training, points for dev; a logarithmic axis, since losses fall a hundredfold."""
    for name, label, color in _LOSSES:
        _draw(axes, train, name, color=color, label=f"{label}, train", alpha=0.5, linewidth=1)
        _draw(axes, dev, f"{name}_loss", color=color, label=f"{label}, dev (averaged model)", marker="o", markersize=3)
    axes.set_ylabel("loss (nats per second of audio)")
    _set_log(axes)
    _finish(axes)


def _draw_errors(axes: Any, dev: Sequence[Mapping[str, Any]]) -> None:
    """Error rates of each search, with the lowest one marked."""
    for color, (name, label) in zip(_COLORS, [("transducer_wer", "transducer"), ("ctc_wer", "CTC")], strict=False):
        points = _points(dev, name)
        if points:
            batch, least = min(points, key=lambda point: point[1])
            label = f"{label}, greedy: least {least:.2f} % at batch {batch}"
            _draw(axes, dev, name, color=color, label=label, marker="o", markersize=3)
    axes.set_ylabel("word error rate on dev (%)")
    axes.set_ylim(bottom=0)
    _finish(axes)


def _set_log(axes: Any) -> None:
    """Make the vertical axis logarithmic if all values are positive."""
    drawn = [line.get_ydata() for line in axes.lines]
    if drawn and min(min(values) for values in drawn) > 0.0:
        axes.set_yscale("log")
        _set_ticks(axes.yaxis)


def _set_ticks(axis: Any) -> None:
    """Label a logarithmic axis at 1, 2, 5, 10, ... in plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", ncols=2)


def _draw(axes: Any, lines: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    points = _points(lines, name)
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None and math.isfinite(line[name])]


def plot_costs(models: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str) -> Path:
    """Draw time and peak memory of encoders over model size, one line per family.

    Args:
        models: "family", "label" (the size within it, "" for none), "params_m" (millions), "time_s" (seconds a batch) and
            "peak_mib" (or None) of each model; in any order.
        path: PNG to write.
        title: title of the figure: what was measured, and where.
    Raises:
        DataError: there is nothing to draw, the file cannot be written, or matplotlib is not installed.
    """
    if not models:
        raise DataError("there must be models to draw, but none was measured")
    panels = [("time_s", "time of the encoder (s per batch)"), ("peak_mib", "peak memory above the model (MiB)")]
    panels = [(name, label) for name, label in panels if any(model[name] is not None for model in models)]
    figure = _new_figure(figsize=(5.5 * len(panels), 4.8))
    for axes, (name, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_families(axes, [model for model in models if model[name] is not None], name)
        axes.set_ylabel(label)
        axes.set_xlabel("parameters of the whole model (millions)")
        axes.loglog()  # sizes and costs differ up to 25-fold, and most models are small
        axes.margins(0.08)
        _set_ticks(axes.xaxis)
        _set_ticks(axes.yaxis)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(title, fontsize="medium")
    return _save(figure, path)


def _draw_families(axes: Any, models: Sequence[Mapping[str, Any]], name: str) -> None:
    families = sorted({model["family"] for model in models})
    for family, (color, marker) in zip(families, _styles(), strict=False):
        members = sorted((m for m in models if m["family"] == family), key=lambda model: model["params_m"])
        x, y = [m["params_m"] for m in members], [m[name] for m in members]
        axes.plot(x, y, color=color, marker=marker, markersize=7, label=family)
        for member in members:
            place = (member["params_m"], member[name])
            axes.annotate(member["label"], place, xytext=(6, -11), textcoords="offset points", fontsize="small", color=color)


def plot_losses(
    curves: Mapping[str, Sequence[tuple[int, float]]], path: str | os.PathLike[str], *, label: str = "loss"
) -> Path:
    """Draw losses of several runs over their batches, with the last value of each in the legend.

    Args:
        curves: name in the legend -> (batch, loss) of each point.
        path: PNG to write.
        label: title of the vertical axis: which loss, on what, in which unit.
    Raises:
        DataError: there is nothing to draw, the file cannot be written, or matplotlib is not installed.
    """
    if not any(curves.values()):
        raise DataError("there must be losses to draw, but there are none")
    figure = _new_figure(figsize=(6.5, 4.5))
    axes = figure.add_subplot()
    for (name, points), (color, marker) in zip(curves.items(), _styles(), strict=False):
        finite = [point for point in points if math.isfinite(point[1])]
        if finite:
            batch, loss = finite[-1]
            axes.plot(*zip(*finite, strict=True), color=color, marker=marker, label=f"{name}: {loss:.2f} at batch {batch}")
    axes.set(xlabel="batches", ylabel=label)
    _finish(axes)
    return _save(figure, path)


def plot_reliability(curves: Mapping[str, Sequence[tuple[float, float, int]]], path: str | os.PathLike[str]) -> Path:
    """Draw a reliability diagram: the share of correct words over their confidence, with the diagonal for reference.

    Args:
        curves: label in the legend -> (mean confidence, share of correct words, number of words) of each bin.
        path: PNG to write.
    Raises:
        DataError: the file cannot be written, or matplotlib is not installed.
    """
    figure = _new_figure(figsize=(5.5, 5.5))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="tab:gray", linewidth=1, linestyle="--", label="perfectly calibrated")
    for (name, bins), (color, marker) in zip(curves.items(), _styles(), strict=False):
        axes.plot([b[0] for b in bins], [b[1] for b in bins], color=color, marker=marker, linewidth=1.5, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="share of correct words")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return _save(figure, path)


def plot_detection(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Path:
    """Draw the detection error tradeoff of keywords: missed over false alarms, one curve for each.

    Args:
        curves: label in the legend -> (false alarms an hour, percent missed) at each threshold.
        path: PNG to write.
        marks: the point of each curve at the threshold in use.
    Raises:
        DataError: there is no curve, the file cannot be written, or matplotlib is not installed.
    """
    if not curves:
        raise DataError("there must be keywords to draw, but there are none")
    figure = _new_figure(figsize=(7.0, 5.0))
    axes = figure.add_subplot()
    for (name, points), (color, marker) in zip(curves.items(), _styles(), strict=False):
        axes.step(*zip(*points, strict=True), where="post", color=color, linewidth=1.5, label=name)
        if marks and name in marks:
            axes.plot(*marks[name], color=color, marker=marker)
    axes.set(xlabel="false alarms per hour", ylabel="missed (%)")
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, path)


def check_figure(path: str | os.PathLike[str]) -> None:
    """Check that a figure can be drawn to a file, before the work whose result it shows.

    Raises:
        ConfigError: the file is in no folder that exists, or of a format that cannot be written.
        DataError: matplotlib is not installed.
    """
    formats = _new_figure(figsize=(1.0, 1.0)).canvas.get_supported_filetypes()
    path = Path(path)
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"--plot must be a file in an existing folder, but is {path}")
    if path.suffix and path.suffix[1:].lower() not in formats:
        raise ConfigError(f"--plot must be a file of one of the formats {', '.join(sorted(formats))}, but is {path}")


def _new_figure(figsize: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError('plots need matplotlib, but it is not installed; pip install "zipasr[train]"') from error
    return Figure(figsize=figsize, layout="constrained")


def _styles() -> Iterator[tuple[str, str]]:
    """Color and marker of each curve; they repeat."""
    return zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS), strict=False)


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: the file extension is not an image format
        raise DataError(f"the figure cannot be written to {path}: {error}; name a .png in a folder that exists") from error
    return Path(path)
