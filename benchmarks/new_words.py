"""How well a model learns new words from ten recordings of each, and what it forgets.

    python benchmarks/new_words.py BASE --words STOP LEFT YES --speech SPEECH/commands --old DATA --out exp/new_words \\
        --negatives SPEECH/ljspeech/dev.jsonl --json benchmarks/results/new_words.json

BASE is a model that has not heard the words, and DATA the prepared folder of what it was trained on. Of each word, ten
recordings of ten speakers in SPEECH/train.jsonl are what somebody might record; the rest of the file is not used. `zipasr
prepare` and `zipasr train ... --from BASE` run as in docs/commands.md, with all weights and with adapters (LoRA), with half
of the audio from DATA and without. Words and false alarms are counted on SPEECH/dev.jsonl, whose speakers are others, with
the words as keywords at their default threshold; negatives are its other words and `--negatives`.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import origin, write
from noisy import utterances_of

from zipasr.evaluate import ReferenceUtterance, evaluate, evaluate_keywords
from zipasr.recognizer import ChunkConfig, Recognizer

RECORDINGS = 10
VARIANTS = {
    "all weights": (),
    "all weights, half old": ("mix",),
    "adapters": ("lora",),
    "adapters, half old": ("lora", "mix"),
}


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


def run(*command: str) -> float:
    """Run a command of zipasr; minutes that it took."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "zipasr", *command], check=True)
    return (time.monotonic() - started) / 60


def train(args: argparse.Namespace, data: Path, kinds: Sequence[str], out: Path) -> float:
    """Finetune the base; minutes that it took."""
    settings = [f"max_batches={args.batches}", "num_epochs=1000", *args.set]
    if "mix" in kinds:
        settings.append(f"mix={json.dumps([{'data': str(args.old), 'share': 0.5}])}")
    if "lora" in kinds:
        settings += ["finetune.lora={}", "lr=0.0135"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    return run("train", str(data), "--from", str(args.base), "--out", str(out), "--no-progress", *flags)


def measure(
    args: argparse.Namespace, model: Path, dev: Sequence[ReferenceUtterance], negatives: Sequence[ReferenceUtterance]
) -> dict[str, Any]:
    """Misses, false alarms, and error rates of a model."""
    recognizer = Recognizer.load(model, chunks=ChunkConfig(chunk_frames_50hz=32, simulate_streaming=True))
    new = [utterance for utterance in dev if utterance.text in args.words]
    old = [utterance for utterance in dev if utterance.text not in args.words]
    report = evaluate_keywords(recognizer.spotter(args.words), [*dev, *negatives])
    alarms = sum(result.num_alarms for result in report.results)
    hours = sum(len(u.samples) for u in (*old, *negatives) if u.samples is not None) / 16_000 / 3600
    return {
        "said": sum(result.num_said for result in report.results),
        "missed": sum(result.num_missed for result in report.results),
        "alarms": alarms,
        "negative_h": round(hours, 3),
        "alarms_per_h": round(alarms / hours, 2),
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
    rows = [{"model": "before", "minutes": None} | measure(args, args.base, dev, negatives)]
    print(rows[-1], flush=True)
    for name in args.variants:
        out = args.out / name.replace(", ", "_").replace(" ", "_")
        minutes = train(args, data, VARIANTS[name], out)
        rows.append({"model": name, "minutes": round(minutes, 1)} | measure(args, out, dev, negatives))
        print(rows[-1], flush=True)
    if args.json:
        write(args.json, head, {"words": args.words, "batches": args.batches, "rows": rows})


if __name__ == "__main__":
    main()
