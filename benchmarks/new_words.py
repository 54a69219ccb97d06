"""How well a model learns new words from ten recordings of each, and what it forgets.

    python benchmarks/new_words.py BASE --words STOP LEFT YES --speech SPEECH/commands --old DATA --out exp/new_words \\
        --negatives SPEECH/ljspeech/dev.jsonl --negatives SPEECH/barista/dev.jsonl --json benchmarks/results/new_words.json

BASE is a model that has not heard the words, and DATA the prepared folder of what it was trained on. Of each word, ten
recordings of ten speakers in SPEECH/train.jsonl are what somebody might record; the rest of the file is not used. `zipasr
prepare` and `zipasr train ... --from BASE` run as in docs/commands.md, with all weights and with adapters (LoRA), with
none, half or nine tenths of the audio from DATA. A run in `--out` that is finished is not trained again. Words and false
alarms are counted on SPEECH/dev.jsonl, whose speakers are others, with the words as keywords at their default threshold and
at those with the fewest misses and at most `--max-alarms` an hour of each; negatives are its other words and `--negatives`.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import origin, write
from noisy import utterances_of

from zipasr.evaluate import ReferenceUtterance, evaluate, evaluate_keywords
from zipasr.recognizer import ChunkConfig, Recognizer

RECORDINGS = 10
VARIANTS = {
    "all weights": (False, 0.0),
    "all weights, half old": (False, 0.5),
    "all weights, nine tenths old": (False, 0.9),
    "adapters": (True, 0.0),
    "adapters, half old": (True, 0.5),
    "adapters, nine tenths old": (True, 0.9),
}
"""Whether adapters are trained, and the share of the audio that is old."""


def few(manifest: Path, words: Sequence[str], out: Path) -> Path:
    """A manifest of ten recordings of each word, each by another speaker."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    chosen = []
    for word in words:
        by_speaker = {row["speaker"]: row for row in rows if row["text"] == word}
        chosen += list(by_speaker.values())[:RECORDINGS]
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row | {"audio": str((manifest.parent / row["audio"]).absolute())}) for row in chosen]
    (out / "recordings.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return out / "recordings.jsonl"


def run(*command: str) -> None:
    """Run a command of zipasr."""
    subprocess.run([sys.executable, "-m", "zipasr", *command], check=True)


def train(args: argparse.Namespace, data: Path, name: str, out: Path) -> None:
    """Finetune the base."""
    has_adapters, old_share = VARIANTS[name]
    settings = [f"max_batches={args.batches}", "num_epochs=1000", *args.set]
    if old_share:
        settings.append(f"mix={json.dumps([{'data': str(args.old), 'share': old_share}])}")
    if has_adapters:
        settings += ["finetune.lora={}", "lr=0.0135"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    run("train", str(data), "--from", str(args.base), "--out", str(out), "--no-progress", *flags)


def measure(
    args: argparse.Namespace, model: Path, dev: Sequence[ReferenceUtterance], negatives: Sequence[ReferenceUtterance]
) -> dict[str, Any]:
    """Misses, false alarms, and error rates of a model."""
    recognizer = Recognizer.load(model, chunks=ChunkConfig(chunk_frames_50hz=32, simulate_streaming=True))
    new = [utterance for utterance in dev if utterance.text in args.words]
    old = [utterance for utterance in dev if utterance.text not in args.words]
    report = evaluate_keywords(recognizer.spotter(args.words), [*dev, *negatives], max_alarms_per_h=args.max_alarms)
    hours = sum(len(u.samples) for u in (*old, *negatives) if u.samples is not None) / 16_000 / 3600
    counts = {
        kind: {name: sum(getattr(result, f"num_{name}") for result in results) for name in ("said", "missed", "alarms")}
        for kind, results in (("default", report.results), ("chosen", report.chosen))
    }
    return counts | {
        "negative_h": round(hours, 3),
        "new_wer": round(evaluate(recognizer, new).wer, 2),
        "old_wer": round(evaluate(recognizer, old).wer, 2),
    }


def main() -> None:
    """Finetune, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a causal model that has not heard the words")
    parser.add_argument("--words", nargs="+", required=True)
    parser.add_argument("--speech", type=Path, required=True, help="a folder with train.jsonl and dev.jsonl")
    parser.add_argument("--old", type=Path, required=True, help="the prepared data of the base")
    parser.add_argument("--noise", help="recordings of noise, as a source of zipasr prepare")
    parser.add_argument("--negatives", action="append", default=[], help="more recordings, for false alarms")
    parser.add_argument("--max-alarms", type=float, default=5.0, help="false alarms an hour of each chosen threshold")
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--set", action="append", default=[], help="given to zipasr train")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head = origin()
    data = args.out / "data"
    if args.noise:
        run("prepare", args.noise, "--out", str(data), "--as", "noise")
    recordings = few(args.speech / "train.jsonl", args.words, args.out)
    run("prepare", str(recordings), "--out", str(data), "--set", "test_share=0", "--set", "limits.min_duration_s=0.15")
    dev = utterances_of(str(args.speech / "dev.jsonl"))
    negatives = [utterance for source in args.negatives for utterance in utterances_of(source)]
    rows = [{"model": "before"} | measure(args, args.base, dev, negatives)]
    print(rows[-1], flush=True)
    for name in args.variants:
        out = args.out / name.replace(", ", "_").replace(" ", "_")
        train(args, data, name, out)
        rows.append({"model": name} | measure(args, out, dev, negatives))
        print(rows[-1], flush=True)
    if args.json:
        found = {"words": args.words, "batches": args.batches, "max_alarms_per_h": args.max_alarms, "rows": rows}
        write(args.json, head, found)


if __name__ == "__main__":
    main()
