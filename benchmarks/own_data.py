"""What the default commands reach on corpora that nobody tuned for: `prepare`, `train`, `evaluate`, and nothing else.

    python benchmarks/own_data.py CORPORA/barista CORPORA/digits prompts --out exp/own_data
    python benchmarks/own_data.py CORPORA/barista prompts --seeds 42 1 2 --out exp/own_data
    python benchmarks/own_data.py --table --out exp/own_data

A corpus is a folder with `train.jsonl` and `dev.jsonl` (any source of `zipasr prepare` will do), several of them joined by
`+`, or the word `prompts`. Each run is `zipasr train DATA --out RUN`, with `--set seed=N` for seeds other than the recipe's
and `--set data=DATA` for the prompts' own recipe; a finished one is not trained again. Then the searches of the model are
compared on dev, and on test where the source has one. A JSON line for each run goes to `--results`; `--table` prints them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from machine import add_line, origin, read_lines

from zipasr.config import from_json
from zipasr.evaluate import compare_searches, evaluate, read_cuts
from zipasr.prepare import prepare
from zipasr.recognizer import Recognizer
from zipasr.search.comparison import best_search
from zipasr.train.config import TrainConfig
from zipasr.train.metrics import read_metrics

RECIPE_SEED = 42


def prepared(source: str, out: Path) -> Path:
    """The data of a source, prepared once; parts joined by `+` lie in one folder with links to each."""
    name = "+".join(Path(part).name for part in source.split("+"))
    folder = out / "data" / name
    if not (folder / "train_cuts.jsonl.gz").is_file():
        parts = source.split("+")
        prepare(parts[0] if len(parts) == 1 else joined(parts, out / "sources" / name), folder)
    return folder


def joined(parts: Sequence[str], folder: Path) -> Path:
    """A folder of manifests that lists the utterances of several, by absolute paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        rows = []
        for part in map(Path, parts):
            manifest = part / f"{split}.jsonl"
            for line in manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else ():
                row = json.loads(line)
                rows.append(row | {"audio": str((part / row["audio"]).absolute()), "id": f"{part.name}-{row['id']}"})
        if rows:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def train(source: str, data: Path, run: Path, seed: int, budget: str | None) -> list[str]:
    """Run `zipasr train` unless the run is finished; the command."""
    recipe = ["prompts:tiny", "--set", f"data={data}"] if source == "prompts" else [str(data)]
    command = ["zipasr", "train", *recipe, "--out", str(run)]
    command += ["--set", f"seed={seed}"] if seed != RECIPE_SEED else []
    command += ["--budget", budget] if budget is not None else []
    if not (run / "finished").is_file():
        log_file, seconds = run.parent / f"{run.name}.log", run.parent / f"{run.name}.seconds"
        started = time.time() - (float(seconds.read_text()) if seconds.is_file() else 0.0)
        with log_file.open("a") as log:
            subprocess.run([sys.executable, "-m", *command, "--no-progress"], stdout=log, stderr=log, check=True)
        seconds.write_text(f"{time.time() - started:.0f}\n")
        if ": stopped after " in log_file.read_text(encoding="utf-8").splitlines()[-1]:
            raise SystemExit(f"{run}: the training was stopped; run the same command to go on")
        (run / "finished").write_text(seconds.read_text())
    return command


def measure(source: str, data: Path, run: Path, seed: int, command: Sequence[str]) -> dict[str, Any]:
    """Compare the searches of a finished run, and evaluate its default."""
    config = from_json(TrainConfig, json.loads((run / "config.json").read_text()), where="config.json")
    recognizer = Recognizer.load(run)
    train_lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    result: dict[str, Any] = {
        "corpus": data.name,
        "seed": seed,
        "training": " ".join(command).replace(str(run), f"RUN/{run.name}").replace(str(data), f"DATA/{data.name}"),
        "default": str(recognizer.search),
        "epochs": config.num_epochs,
        "batches": train_lines[-1]["step"],
        "tokens": config.tokenizer.kind,
        "lattice": config.model.transducer.lattice if config.model.transducer is not None else None,
        "train_minutes": round(float((run / "finished").read_text()) / 60, 1),
        "threads": torch.get_num_threads(),
    }
    for split in ("dev", "test"):
        cuts = data / f"{split}_cuts.jsonl.gz"
        if not cuts.is_file():
            continue
        report = evaluate(recognizer, read_cuts(cuts))
        compared = compare_searches(recognizer, read_cuts(cuts))
        result[split] = {
            "wer": round(report.wer, 2),
            "cer": round(report.cer, 2),
            "num_words": report.words.num_reference,
            "real_time_factor": round(report.real_time_factor, 4),
            "best": str(best_search(compared).search),
            "best_wer": round(best_search(compared).wer, 2),
            "searches": {str(found.search): round(found.wer, 2) for found in compared},
        }
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of dev error rates, a row for each run."""
    searches = list(dict.fromkeys(name for result in results for name in result["dev"]["searches"]))
    lines = [
        f"| corpus | seed | batches | minutes | default | WER | {' | '.join(searches)} |",
        f"|---|---:|---:|---:|---|---:|{'---:|' * len(searches)}",
    ]
    for result in sorted(results, key=lambda r: (r["corpus"], r["seed"])):
        dev = result["dev"]
        rates = " | ".join(f"{dev['searches'][name]:.1f}" if name in dev["searches"] else "" for name in searches)
        lines.append(
            f"| {result['corpus']} | {result['seed']} | {result['batches']} | {result['train_minutes']:.0f} | "
            f"{result['default']} | {dev['wer']:.1f} | {rates} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="*", help="sources of `zipasr prepare`, parts joined by +, or prompts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[RECIPE_SEED])
    parser.add_argument("--budget", help="given to `zipasr train`")
    parser.add_argument("--out", type=Path, default=Path("exp/own_data"), help="where data and runs go")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/own_data.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print what the results hold")
    args = parser.parse_args()
    for source in () if args.table else args.corpora:
        data = prepared(source, args.out)
        for seed in args.seeds:
            run = args.out / f"{data.name}-{seed}"
            args.out.mkdir(parents=True, exist_ok=True)
            command = train(source, data, run, seed, args.budget)
            found = origin() | measure(source, data, run, seed, command)
            add_line(args.results, found, same=("corpus", "seed"))
            print(json.dumps(found))
    print(table(read_lines(args.results) if args.results.is_file() else []))


if __name__ == "__main__":
    main()
