"""A miniature of the paper's comparison: Zipformer, its ablations and Conformer, on minutes of speech and two CPU cores.

    zipasr prepare prompts --out data/prompts
    python benchmarks/comparison.py --jobs 2 --json benchmarks/results/comparison.json --plot docs/comparison.png

Every system has about the same number of parameters, the same batches in the same order (for a seed), the same number of
steps, heads and losses; what differs is the encoder or the optimizer. The rates of the optimizers were tuned on the dev set
with one seed (`--tune`); the figures are those of the test set, which nothing was chosen by. Runs that are there already are
not repeated. `--systems` compares some of them; docs/paper.md names the commands of its tables.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from machine import origin, write

from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.evaluate import evaluate
from zipasr.evaluate import read_cuts as read_references
from zipasr.model import AsrModel, EncoderConfig
from zipasr.recipes.prompts import conformer as conformer_recipe
from zipasr.recipes.prompts import tiny
from zipasr.recognizer import Recognizer
from zipasr.train.config import AdamConfig, TrainConfig
from zipasr.train.data import read_cuts
from zipasr.train.loop import train
from zipasr.train.metrics import read_metrics
from zipasr.train.validation import validate, validation_batches

NUM_EPOCHS = 5
SCALED_ADAM_LR = 0.045
ADAM_FACTOR = {"zipformer": 1.6, "conformer": 0.4}
TUNED = {
    "zipformer": ("lr", (0.03, 0.045, 0.07)),
    "zipformer, Adam": ("adam.factor", (0.8, 1.6, 3.2, 6.4)),
    "conformer, Adam": ("adam.factor", (0.4, 0.8, 1.6, 3.2)),
}
"""Rates tried for each optimizer, and the field that holds them."""


def base() -> TrainConfig:
    """Zipformer under ScaledAdam, with the budget that all systems share."""
    config = tiny()
    return dataclasses.replace(
        config,
        batch=dataclasses.replace(config.batch, spec_augment=None, spec_augment_from_epoch=0),
        num_epochs=NUM_EPOCHS,
        lr=SCALED_ADAM_LR,
        lr_batches=500.0,
        lr_epochs=2.5,
        average_share=0.15,
        valid_interval=100_000,  # only at the end
        save_interval=250,
        keep_checkpoints=3,
    )


def zipformer(**ablation: Any) -> EncoderConfig:
    """The encoder of `base`, with something left out."""
    encoder = base().model.encoder
    assert isinstance(encoder, ZipformerConfig)
    return dataclasses.replace(encoder, ablation=AblationConfig(**ablation))


def without_downsampling() -> EncoderConfig:
    """One stack at 25 Hz, as in the paper's table 5, with about as many parameters as the base."""
    return dataclasses.replace(
        zipformer(),
        channels=(112,),
        unmasked_channels=(88,),
        num_layers=(6,),
        downsample=(1,),
        feedforward=(192,),
        num_heads=(4,),
        kernel_sizes=(15,),
        conv_embed_rate=4,
    )


ENCODERS: dict[str, EncoderConfig] = {
    "zipformer": zipformer(),
    "zipformer, Adam": zipformer(has_module_norms=True),
    "conformer, Adam": conformer_recipe().model.encoder,
    "no downsampling": without_downsampling(),
    "Conformer-style blocks": zipformer(block="conformer_pair"),
    "no non-linear attention": zipformer(has_nonlin_attention=False),
    "Swish": zipformer(activation="swish"),
}
"""The systems; those without "Adam" in their name are trained by ScaledAdam."""


def config_of(system: str, seed: int, data: str) -> TrainConfig:
    """The run of a system."""
    config = dataclasses.replace(base(), data=data, seed=seed)
    if system.endswith("Adam"):
        adam = AdamConfig(factor=ADAM_FACTOR[system.split(",")[0]], warmup_batches=300.0)
        config = dataclasses.replace(config, adam=adam)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=ENCODERS[system]))


def set_rate(config: TrainConfig, rate: float) -> TrainConfig:
    """The run at another rate."""
    if config.adam is not None:
        return dataclasses.replace(config, adam=dataclasses.replace(config.adam, factor=rate))
    return dataclasses.replace(config, lr=rate)


def rate_of(config: TrainConfig) -> float:
    """The rate of a run, in the unit of its optimizer."""
    return config.lr if config.adam is None else config.adam.factor


def folder_of(out: Path, config: TrainConfig, system: str) -> Path:
    """Where a run goes: system, rate and seed."""
    return out / f"{system.replace(', ', '-').replace(' ', '-').lower()}_{rate_of(config)}_{config.seed}"


def run_missing(runs: Sequence[tuple[str, float, int]], args: argparse.Namespace) -> None:
    """Train what is not there yet, `--jobs` at a time, each in a process with one thread."""

    def run(one: tuple[str, float, int]) -> None:
        system, rate, seed = one
        config = set_rate(config_of(system, seed, args.data), rate)
        folder = folder_of(args.out, config, system)
        if (folder / "model").is_dir():
            return
        start = time.monotonic()
        command = [sys.executable, __file__, "--data", args.data, "--out", str(args.out)]
        command += ["--run", system, str(rate), str(seed)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log:
            subprocess.run(command, check=True, env=env, stdout=log, stderr=log)
        print(f"{folder.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, runs))


def measure(system: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Loss and error rates of one run on the test set."""
    config = config_of(system, seed, args.data)
    folder = folder_of(args.out, config, system)
    model, tokenizer = AsrModel.load(folder / "model")
    cuts = read_cuts(Path(args.data) / "test_cuts.jsonl.gz")
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    batches = validation_batches(cuts, tokenizer, config)
    found = validate(model, batches, texts, tokenizer, torch.device("cpu")).metrics
    report = evaluate(Recognizer(model, tokenizer), read_references(Path(args.data) / "test_cuts.jsonl.gz"))
    return {
        "system": system,
        "seed": seed,
        "params": sum(p.numel() for p in model.parameters()),
        "batches": max(line["step"] for line in read_metrics(folder)),
        "pruned_loss": found["pruned_loss"],
        "ctc_loss": found["ctc_loss"],
        "greedy_wer": found["transducer_wer"],
        "wer": report.wer,
    }


def summarise(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: mean, lowest and highest over the seeds."""
    lines = [
        "| system | parameters (M) | pruned loss (nats/s) | CTC loss (nats/s) | WER, beam 4 (%) |",
        "|---|---:|---:|---:|---:|",
    ]
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        cells = []
        for name, digits in (("pruned_loss", 2), ("ctc_loss", 2), ("wer", 1)):
            values = [row[name] for row in own]
            spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
            cells.append(f"{statistics.mean(values):.{digits}f} ({spread})")
        lines.append(f"| {system} | {own[0]['params'] / 1e6:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Every run as a point, the mean of a system as a bar."""
    from matplotlib.figure import Figure

    systems = list(dict.fromkeys(row["system"] for row in rows))[::-1]
    figure = Figure(figsize=(10, 0.42 * len(systems) + 1.6), layout="constrained")
    for axes, (name, label) in zip(
        figure.subplots(1, 2, sharey=True),
        (("pruned_loss", "pruned loss (nats per second)"), ("wer", "WER (%)")),
        strict=True,
    ):
        for place, system in enumerate(systems):
            values = [row[name] for row in rows if row["system"] == system]
            color = "tab:orange" if system.endswith("Adam") else "tab:blue"
            axes.barh(place, statistics.mean(values), color=color, alpha=0.35)
            axes.scatter(values, [place] * len(values), color=color, s=22, zorder=3)
        axes.set_xlabel(f"{label}, test set")
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(range(len(systems)), systems)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(f"{rows[0]['batches']} batches of 12 s, about 1.8 M parameters; {seeds} seeds (points) and their mean")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/prompts")
    parser.add_argument("--out", type=Path, default=Path("exp/comparison"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--systems", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="those to compare")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--tune", action="store_true", help="try the rates of each optimizer with the first seed")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw them here")
    parser.add_argument("--run", nargs=3, metavar=("SYSTEM", "RATE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        torch.set_num_threads(1)
        system, rate, seed = args.run
        config = set_rate(config_of(system, int(seed), args.data), float(rate))
        train(config, folder_of(args.out, config, system), is_quiet=True)
    elif args.tune:
        run_missing([(system, rate, args.seeds[0]) for system, (_, rates) in TUNED.items() for rate in rates], args)
    else:
        pairs = [(system, seed) for seed in args.seeds for system in args.systems]
        run_missing([(system, rate_of(config_of(system, seed, args.data)), seed) for system, seed in pairs], args)
        head = origin()
        rows = [measure(system, seed, args) for system in args.systems for seed in args.seeds]
        print(summarise(rows))
        if args.plot:
            draw(rows, args.plot)
        if args.json:
            write(args.json, head, {"rows": rows})


if __name__ == "__main__":
    main()
