"""Figures. Contract: a PNG from any metrics of a run; without metrics, an error message."""

import math
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from zipasr import plots
from zipasr.errors import DataError
from zipasr.plots import plot_costs, plot_curves, plot_detection, plot_losses

TRAIN = [{"kind": "train", "step": b, "loss": 9.0 / b, "simple": 5.0 / b, "pruned": 3.0 / b, "ctc": 2.0 / b} for b in (1, 2)]
ALL_HEADS = [
    {"kind": "train", "step": 1, "attention": 7.0, "consistency": 1.0},
    {"kind": "dev", "step": 1, "attention_loss": 6.0},
]
DEV = [{"kind": "dev", "step": 2, "pruned_loss": 3.5, "transducer_wer": 40.0, "ctc_wer": 60.0, "wer": 40.0}]


def test_losses_of_every_head_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **style: drawn.append((style["label"], *y)))
    plot_curves(ALL_HEADS, tmp_path / "curves.png")
    assert drawn == [
        ("attention decoder, train", 7.0),
        ("attention decoder, dev (averaged model)", 6.0),
        ("consistency of two views, train", 1.0),
    ]


@pytest.mark.parametrize(
    "lines", [TRAIN + DEV, TRAIN, DEV, [{"kind": "train", "step": 1, "ctc": 1.0}], [{"kind": "dev", "step": 1}]]
)
def test_writes_a_png(tmp_path: Path, lines: list[dict]) -> None:
    path = plot_curves(lines, tmp_path / "curves.png")
    assert path == tmp_path / "curves.png"
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 5000


def test_losses_of_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = {"one": [(1, 4.0), (2, 3.0)], "diverged": [(1, 4.5), (2, math.nan)], "empty": []}
    assert plot_losses(curves, tmp_path / "a.png", label="nats").read_bytes().startswith(b"\x89PNG\r\n")
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **style: drawn.append((style["label"], x, y)))
    plot_losses(curves, tmp_path / "b.png")
    assert drawn == [("one: 3.00 at batch 2", (1, 2), (4.0, 3.0)), ("diverged: 4.50 at batch 1", (1,), (4.5,))]
    for nothing in ({}, {"empty": []}):
        with pytest.raises(DataError, match="there must be losses to draw"):
            plot_losses(nothing, tmp_path / "c.png")


@pytest.mark.parametrize("lines", [[], [{"kind": "other", "step": 1}]])
def test_nothing_to_draw(tmp_path: Path, lines: list[dict]) -> None:
    with pytest.raises(DataError, match="logged metrics to draw"):
        plot_curves(lines, tmp_path / "curves.png")


@pytest.mark.parametrize("name", ["no/such/folder/curves.png", "curves.nonsense"])
def test_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        plot_curves(TRAIN, tmp_path / name)


COSTS = [
    {"family": family, "label": label, "params_m": 10.0 * i, "time_s": 0.1 * i, "peak_mib": 20.0 * i}
    for i, (family, label) in enumerate(
        [("Zipformer", "S"), ("Zipformer", "M"), ("Conformer", "S"), ("Branchformer", "")], 1
    )
]


@pytest.mark.parametrize("models", [COSTS, COSTS[:1], [{**model, "peak_mib": None} for model in COSTS]])
def test_costs_as_png(tmp_path: Path, models: list[dict]) -> None:
    path = plot_costs(models, tmp_path / "costs.png", title="Encoding 1 x 30 s on cpu")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_costs_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="models to draw"):
        plot_costs([], tmp_path / "costs.png", title="")
    with pytest.raises(DataError, match="cannot be written"):
        plot_costs(COSTS, tmp_path / "costs.nonsense", title="")


def test_panels_for_what_the_log_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles, labels = [], []
    set_title, plot = Axes.set_title, Axes.plot
    monkeypatch.setattr(Axes, "set_title", lambda axes, text, **style: titles.append(text) or set_title(axes, text, **style))
    monkeypatch.setattr(Axes, "plot", lambda axes, *xy, **style: labels.append(style["label"]) or plot(axes, *xy, **style))
    train = [{"kind": "train", "step": b, "lr": 0.1, "hours_per_hour": 90.0, "grad_norm": 3.0 * b} for b in (1, 2)]
    train.append({"kind": "train", "step": 3, "grad_norm": float("nan"), "lr": 0.1})
    plot_curves([*train, *DEV], tmp_path / "curves.png")
    assert titles == ["learning rate", "gradient norm", "speed (× real time)"]
    assert labels[1:3] == ["transducer, greedy: least 40.00 % at batch 2", "CTC, greedy: least 60.00 % at batch 2"]
    titles.clear()
    plot_curves([{**line, "memory_gib": 1.5, "clip_factor": 1.0, "clip_rate": 0.0} for line in train], tmp_path / "all.png")
    assert titles[-1] == "peak memory (GiB)" and "clipping" in titles
    titles.clear()
    plot_curves([{"kind": "train", "step": 1, "loss_scale": 0.0, "grad_norm": 0.0, "lr": 0.0}], tmp_path / "zero.png")
    assert len(titles) == 3


def test_emission_on_dev_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure) or path)
    dev = [
        {"kind": "dev", "step": 20, "burst_share": 0.4, "delay_s": -0.2, "deletions": 30.0},
        {"kind": "dev", "step": 10, "burst_share": 0.1, "delay_s": -0.1, "deletions": 12.5},
        {"kind": "dev", "step": 30, "burst_share": None, "delay_s": None, "deletions": 0.0},
    ]
    plot_curves([*dev, {"kind": "train", "step": 5, "deletions": 99.0}], tmp_path / "curves.png")
    plot_curves([{"kind": "dev", "step": 1, "deletions": 0.0}], tmp_path / "none.png")
    panels, lonely = ({axes.get_title(loc="left"): axes for axes in figure.axes[2:]} for figure in figures)
    points = {title: list(zip(*axes.lines[0].get_data(), strict=True)) for title, axes in panels.items()}
    assert points == {
        "share of labels in bursts, dev": [(10, 0.1), (20, 0.4)],
        "delay of labels against CTC, dev (s)": [(10, -0.1), (20, -0.2)],
        "deleted words, dev (%)": [(10, 12.5), (20, 30.0), (30, 0.0)],
    }
    assert panels["share of labels in bursts, dev"].get_ylim() == pytest.approx((0.0, 0.44))
    assert panels["delay of labels against CTC, dev (s)"].get_ylim() == pytest.approx((-0.22, 0.0))
    assert [axes.get_ylim() for axes in lonely.values()] == [(0.0, 1.0)]


def test_resumed_runs_are_drawn_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **style: drawn.append(x))
    plot_curves([{"kind": "train", "step": b, "ctc": 1.0} for b in (3, 1, 2)], tmp_path / "curves.png")
    assert drawn == [(1, 2, 3)]


def test_misses_over_false_alarms_as_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[tuple[float, ...]]] = {}
    step = Axes.step

    def noted(axes: Axes, x: tuple[float, ...], y: tuple[float, ...], **style: object) -> object:
        drawn[str(style["label"])] = [x, y]
        return step(axes, x, y, **style)

    monkeypatch.setattr(Axes, "step", noted)
    curves = {"COMPUTER": [(9.0, 0.0), (1.5, 10.0), (0.0, 60.0)], "SNOWBOY": [(2.0, 5.0), (0.0, 5.0)]}
    path = plot_detection(curves, tmp_path / "det.png", marks={"COMPUTER": (1.5, 10.0)})
    assert path.read_bytes().startswith(b"\x89PNG")
    assert drawn["COMPUTER"] == [(9.0, 1.5, 0.0), (0.0, 10.0, 60.0)] and "SNOWBOY" in drawn
    with pytest.raises(DataError, match="must be keywords to draw"):
        plot_detection({}, tmp_path / "none.png")
