"""What language models gain: perplexity and error rates, each trained on nothing but the texts of the recognizer's own data.

    python benchmarks/language_models.py exp/quickstart data/prompts --out exp/lm

An LSTM of tokens and n-grams of tokens and words are trained on the training texts, with the perplexity on dev; an LSTM
that exists is used as it is. For each, and for beam and CTC beam search, the scale with the lowest error rate on dev is
chosen, and the error rate with it measured on test.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, origin, write

from zipasr.checkpoint import CheckpointFolder
from zipasr.evaluate import evaluate, read_cuts, tune
from zipasr.lm.training import default_config, train_language_model, train_ngram
from zipasr.model import resolve_model_folder
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.tokenizer import MODEL_FILE, Tokenizer

SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
LODR_SCALES = (0.0, -0.1, -0.2, -0.3)
NGRAMS = {"n-gram of words, order 3": (3, "word"), "n-gram of tokens, order 6": (6, "token"), "bigram": (2, "token")}
BIGRAM, LSTM, LODR = "bigram", "LSTM of tokens", "LSTM of tokens and LODR"
Grid = Mapping[str, Sequence[float]]


def train_models(model: Path, data: Path, out: Path) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """The language models by name, and what their training reports."""
    tokenizer = Tokenizer.from_bytes(CheckpointFolder(resolve_model_folder(str(model))).blob(MODEL_FILE))
    texts, dev = [str(data / "train_cuts.jsonl.gz")], [str(data / "dev_cuts.jsonl.gz")]
    out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / f"{unit}{order}.arpa" for name, (order, unit) in NGRAMS.items()} | {LSTM: out / "lstm"}
    reports = {}
    for name, path in paths.items():
        started = time.process_time()
        if name == LSTM:
            report = train_language_model(texts, tokenizer, str(path), default_config("lstm"), dev=dev, is_quiet=True)
        else:
            order, unit = NGRAMS[name]
            report = train_ngram(texts, tokenizer, str(path), order=order, unit=unit, dev=dev)
        seconds = round(time.process_time() - started, 1)
        reports[name] = {"perplexity": round(report.perplexity, 2), "unit": report.unit, "processor_s": seconds}
    return paths, reports


def measure(load: Callable[[SearchConfig], Recognizer], data: Path, method: str, grid: Grid) -> dict[str, Any]:
    """The best setting of a grid on dev, and the error rates with it on dev and test."""
    search, chosen = SearchConfig(method=method), {}  # type: ignore[arg-type]
    if grid:
        best = tune(load(search), read_cuts(data / "dev_cuts.jsonl.gz"), grid)[0]
        search, chosen = best.search, best.values
    recognizer = load(search)
    rates = {part: evaluate(recognizer, read_cuts(data / f"{part}_cuts.jsonl.gz")).wer for part in ("dev", "test")}
    return {"scales": chosen, **{f"{part}_wer": round(rate, 2) for part, rate in rates.items()}}


def main() -> None:
    """Train, tune, measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("exp/lm"), help="where the language models go")
    parser.add_argument("--json", type=Path, default=RESULTS / "language_models.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = origin()
    paths, reports = train_models(args.model, args.data, args.out)
    settings: dict[str, tuple[dict[str, Path], Grid]] = {"none": ({}, {})}
    settings |= {name: ({"lm": path}, {"lm_scale": SCALES}) for name, path in paths.items() if name != BIGRAM}
    settings[LODR] = ({"lm": paths[LSTM], "lodr": paths[BIGRAM]}, {"lm_scale": SCALES[3:6], "lodr_scale": LODR_SCALES})
    rows = []
    for name, (models, grid) in settings.items():
        row: dict[str, Any] = {"name": name, **reports.get(name, {})}
        for method in ("beam", "ctc_beam") if name != LODR else ("beam",):
            row[method] = measure(
                lambda search, models=models: Recognizer.load(args.model, search=search, **models), args.data, method, grid
            )
        rows.append(row)
        print(row, flush=True)
    write(args.json, head, {"rows": rows})


if __name__ == "__main__":
    main()
