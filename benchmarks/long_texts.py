"""Does the confidence of a piece say whether its text is what is said? For `zipasr prepare --align-with`.

    python benchmarks/long_texts.py exp/quickstart data/prompts/test_cuts.jsonl.gz

Utterances are joined into one recording, and the texts of some are exchanged, left out, or followed by another. The
recording is cut by its text. What is said in a piece is known from aligning each utterance with its own text. A JSON line
goes to `--results`: for ranges of confidence, the number of pieces and the word error rate of their texts.
"""

import argparse
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from kaldialign import edit_distance
from machine import add_line, origin

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.evaluate import ReferenceUtterance, read_cuts
from zipasr.prepare.long_texts import cut_by_alignment
from zipasr.prepare.timed_texts import MAX_JOINED_S
from zipasr.recognizer import Recognizer, align_text

EXCHANGED, LEFT_OUT, DOUBLED = 0.12, 0.08, 0.08
"""Shares of the utterances with a wrong text."""
RANGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
"""Bounds of the ranges of confidence."""


def joined(
    recognizer: Recognizer, utterances: list[ReferenceUtterance], seed: int
) -> tuple[np.ndarray, str, list[tuple[float, str]]]:
    """Samples of the utterances with gaps of 0.2 to 0.8 s, a text that is partly wrong, and the middle of each word said."""
    generator, noise = random.Random(seed), np.random.default_rng(seed)
    samples: list[np.ndarray] = []
    texts: list[str] = []
    said: list[tuple[float, str]] = []
    start_s = 0.0
    for utterance in utterances:
        assert utterance.samples is not None
        words = align_text(recognizer, utterance.samples, utterance.text).words
        said += [(start_s + (word.start_s + word.end_s) / 2, word.text) for word in words]
        gap = noise.normal(0, 1e-4, round(SAMPLE_RATE_HZ * generator.uniform(0.2, 0.8))).astype(np.float32)
        samples += [utterance.samples, gap]
        start_s += (len(utterance.samples) + len(gap)) / SAMPLE_RATE_HZ
        choice, other = generator.random(), generator.choice(utterances).text
        if choice < EXCHANGED:
            texts.append(other)
        elif choice >= EXCHANGED + LEFT_OUT:
            texts.append(utterance.text)
            texts += [other] if choice < EXCHANGED + LEFT_OUT + DOUBLED else []
    return np.concatenate(samples), " ".join(texts), said


def main() -> None:
    """Cut, compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/long_texts.jsonl"))
    args = parser.parse_args()
    head = origin()
    recognizer, utterances = Recognizer.load(args.model), list(read_cuts(args.cuts))
    pieces: list[tuple[float, int, int]] = []
    for seed in args.seeds:
        shuffled = random.Random(seed).sample(utterances, len(utterances))
        samples, text, said = joined(recognizer, shuffled, seed)
        for piece in cut_by_alignment(recognizer, samples, text, lang="en", max_duration_s=MAX_JOINED_S):
            words = [word for time_s, word in said if piece.start_s <= time_s < piece.end_s]
            errors = edit_distance(words, piece.text.split())["total"]
            pieces.append((piece.confidence, errors, len(words)))
    rows: list[dict[str, Any]] = []
    for low, high in pairwise(RANGES):
        found = [piece for piece in pieces if low <= piece[0] < high or piece[0] == high == 1.0]
        errors, num_words = sum(piece[1] for piece in found), sum(piece[2] for piece in found)
        rate = round(100 * errors / num_words, 1) if num_words else None
        rows.append({"from": low, "to": high, "pieces": len(found), "text_wer": rate})
    result = {
        "model": Path(args.model).name,
        "cuts": f"{args.cuts.parent.name}/{args.cuts.name}",
        "seeds": args.seeds,
        "minutes": round(sum(len(u.samples) for u in utterances if u.samples is not None) / SAMPLE_RATE_HZ / 60, 1),
        "ranges": rows,
    }
    add_line(args.results, head | result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
