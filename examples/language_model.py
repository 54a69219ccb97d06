"""Train a small language model of characters with ScaledAdam and Eden, and with AdamW and a cosine; compare the losses.

python examples/language_model.py --out exp/language_model

The text is the reference that Python's own `help()` prints (`pydoc_data.topics`), so nothing is downloaded; every eighth
topic is for evaluation. Both optimizers start from the same weights, see the same batches, and get the same number of
trials: a full run at each of five rates, 0.02 to 0.32 for ScaledAdam and 0.001 to 0.016 for AdamW, each twice the one
before. The best of each is drawn. AdamW has its usual settings for language models: betas 0.9 and 0.95, weight decay 0.1
on matrices, gradients clipped to a norm of 1. ScaledAdam has its usual ones: gradients clipped to twice their median
norm. Both rates rise over the first twentieth of the steps and end at about a tenth: AdamW's by a cosine, Eden's because
`lr_batches` and `lr_epochs` are a tenth of the run. In full it takes about ten minutes of one core, with --quick
seconds.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zipasr.optim import Eden, ScaledAdam
from zipasr.plots import plot_losses

RATES = {"ScaledAdam": (0.02, 0.04, 0.08, 0.16, 0.32), "AdamW": (0.001, 0.002, 0.004, 0.008, 0.016)}
EDEN_SHARE = 0.1  # of the batches and epochs: each factor of Eden ends at 0.32, both at 0.1
WARMUP = 0.05  # share of the steps
CONTEXT, BATCH_SIZE = 128, 8  # characters, rows
CURVE_CHARACTERS = 32 * CONTEXT  # of the evaluation text, for the points of a curve; the end of a run has all of it


class Size(NamedTuple):
    """Width and depth of the model, and length of a run."""

    dim: int
    num_layers: int
    num_steps: int


FULL, QUICK = Size(128, 3, 400), Size(32, 1, 20)


class LanguageModel(nn.Module):
    """A causal Transformer over characters."""

    def __init__(self, vocab_size: int, size: Size) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(vocab_size, size.dim), nn.Embedding(CONTEXT, size.dim)
        layer = nn.TransformerEncoderLayer(
            size.dim,
            nhead=4,
            dim_feedforward=4 * size.dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, size.num_layers, nn.LayerNorm(size.dim), enable_nested_tensor=False)
        self.output = nn.Linear(size.dim, vocab_size)

    def forward(self, ids_NT: Tensor) -> Tensor:
        """Logits (N, T, V) of the character after each character."""
        num_characters = ids_NT.shape[1]
        x_NTD = self.characters(ids_NT) + self.positions.weight[:num_characters]
        mask = nn.Transformer.generate_square_subsequent_mask(num_characters)
        return self.output(self.layers(x_NTD, mask=mask, is_causal=True))


class Corpus(NamedTuple):
    """Ids of the characters of the training and the evaluation text."""

    train: Tensor
    dev: Tensor
    vocab_size: int


def read_corpus() -> Corpus:
    """The topics of Python's help, every eighth of them for evaluation."""
    texts = [topics[name] for name in sorted(topics)]
    ids = {character: i for i, character in enumerate(sorted(set("".join(texts))))}
    parts = ["".join(text for i, text in enumerate(texts) if (i % 8 == 7) == is_dev) for is_dev in (False, True)]
    train, dev = (torch.tensor([ids[character] for character in part]) for part in parts)
    return Corpus(train, dev, len(ids))


def loss_of(model: nn.Module, rows_NT: Tensor) -> Tensor:
    """Mean loss of each character of the rows but the first, in nats."""
    return nn.functional.cross_entropy(model(rows_NT[:, :-1]).flatten(0, 1), rows_NT[:, 1:].flatten())


@torch.no_grad()
def bits_per_character(model: nn.Module, text: Tensor) -> float:
    """Mean loss on a text, in windows of the context."""
    rows = text[: (len(text) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)
    total = sum(loss_of(model, part).item() * len(part) for part in rows.split(32))
    return total / len(rows) / math.log(2)


def batches(corpus: Corpus, num_steps: int) -> Iterator[Tensor]:
    """Rows (N, T + 1) at random places of the text, the same for every run."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        starts = torch.randint(len(corpus.train) - CONTEXT, (BATCH_SIZE,), generator=generator)
        yield torch.stack([corpus.train[start : start + CONTEXT + 1] for start in starts.tolist()])


def scaled_adam(model: nn.Module, lr: float, num_steps: int, num_epochs: float) -> Callable[[int], None]:
    """A function that takes step `b`, from 1, with ScaledAdam and Eden."""
    optimizer = ScaledAdam(model.named_parameters(), lr=lr, clipping_scale=2.0)
    scheduler = Eden(optimizer, EDEN_SHARE * num_steps, EDEN_SHARE * num_epochs, warmup_batches=WARMUP * num_steps)

    def step(b: int) -> None:
        scheduler.step_epoch((b - 1) / num_steps * num_epochs)
        scheduler.step_batch(b)
        optimizer.step()
        optimizer.zero_grad()

    return step


def adamw(model: nn.Module, lr: float, num_steps: int, num_epochs: float) -> Callable[[int], None]:
    """A function that takes step `b`, from 1, with AdamW and a cosine."""
    matrices, others = ([p for p in model.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), weight_decay=0.1)

    def step(b: int) -> None:
        done = max(0.0, (b / num_steps - WARMUP) / (1.0 - WARMUP))
        factor = 0.1 + 0.45 * (1.0 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, b / (WARMUP * num_steps)) * factor
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class Run(NamedTuple):
    """Result of one run."""

    dev: float
    """Bits per character on the whole evaluation text, at the end."""
    step_s: float
    """Median processor time of a step, evaluations excluded."""
    curve: list[tuple[int, float]]
    """Step, and bits per character on the first part of the evaluation text."""


def train(name: str, lr: float, corpus: Corpus, size: Size) -> Run:
    """Train a model with an optimizer at a rate."""
    torch.manual_seed(0)
    model = LanguageModel(corpus.vocab_size, size)
    num_epochs = size.num_steps * BATCH_SIZE * CONTEXT / len(corpus.train)
    step = {"ScaledAdam": scaled_adam, "AdamW": adamw}[name](model, lr, size.num_steps, num_epochs)
    times_s, curve = [], []
    for b, rows in enumerate(batches(corpus, size.num_steps), start=1):
        clock = time.process_time()
        loss_of(model, rows).backward()
        step(b)
        times_s.append(time.process_time() - clock)
        if b % max(10, size.num_steps // 10) == 0:
            curve.append((b, bits_per_character(model, corpus.dev[: CURVE_CHARACTERS + 1])))
    return Run(bits_per_character(model, corpus.dev), statistics.median(times_s), curve)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ScaledAdam + Eden with AdamW + cosine on a language model.")
    parser.add_argument("--out", type=Path, default=Path("exp/language_model"), help="folder of the figure and the numbers")
    parser.add_argument("--quick", action="store_true", help="a smaller model for a few steps, to see that it works")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    corpus, size = read_corpus(), QUICK if args.quick else FULL
    num_parameters = sum(p.numel() for p in LanguageModel(corpus.vocab_size, size).parameters())
    print(f"{len(corpus.train):,} characters to learn from, {len(corpus.dev):,} to evaluate, {num_parameters:,} parameters")
    runs = dict[str, dict[float, Run]]({name: {} for name in RATES})
    for trial in zip(*RATES.values(), strict=True):  # by turns, so that other work on the machine slows both alike
        for name, lr in zip(RATES, trial, strict=True):
            runs[name][lr] = train(name, lr, corpus, size)
    chosen = {name: min(rates, key=lambda lr: rates[lr].dev) for name, rates in runs.items()}
    for name, rates in runs.items():
        for lr, run in rates.items():
            mark = " (best)" if lr == chosen[name] else ""
            print(f"{name}, lr {lr:g}: {run.dev:.3f} bits per character, {run.step_s:.3f} s per step{mark}")
    curves = {f"{name}, lr {lr:g}": runs[name][lr].curve for name, lr in chosen.items()}
    figure = plot_losses(
        curves, args.out / "language_model.png", label=f"bits per character (first {CURVE_CHARACTERS:,} of dev)"
    )
    found = {name: [{"lr": lr, **run._asdict()} for lr, run in rates.items()] for name, rates in runs.items()}
    facts = {"num_parameters": num_parameters, "num_steps": size.num_steps, "train_characters": len(corpus.train)}
    numbers = args.out / "language_model.json"
    numbers.write_text(json.dumps({**facts, "dev_characters": len(corpus.dev), "runs": found}, indent=1), encoding="utf-8")
    print(f"{figure}, {numbers}")


if __name__ == "__main__":
    main()
