"""What hotwords gain and what they cost, by search and boost.

Run: `python benchmarks/hotwords.py MODEL CUTS [CUTS ...] [--boosts X X ...]`. The hotwords are the words of five letters and
more that greedy search without any missed at least once; gained is how many of their occurrences are recognized. The cost is
the word error rate with names as hotwords that nobody says.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from machine import origin, write

from zipasr.errors import ConfigError
from zipasr.evaluate import ReferenceUtterance, error_rates, read_cuts
from zipasr.recognizer import Recognizer, SearchConfig

ABSENT = (
    "ZIPFORMER",
    "ANNA MARIA",
    "WELLINGTON",
    "BERLIN",
    "QUEENSLAND",
    "PORTOBELLO ROAD",
    "KATHERINE",
    "JONATHAN",
    "ELIZABETH",
    "SAN FRANCISCO",
)
_MIN_LETTERS = 5


def texts_of(recognizer: Recognizer, utterances: Sequence[ReferenceUtterance]) -> list[str]:
    """What is recognized of each."""
    samples = [utterance.samples for utterance in utterances if utterance.samples is not None]
    return [transcript.text for transcript in recognizer.transcribe_many(samples)]


def missed_words(references: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Long words that are in a reference and not in its text, each once."""
    missed = {
        word: None for ref, hyp in zip(references, texts, strict=True) for word in ref.split() if word not in hyp.split()
    }
    return [word for word in missed if len(word) >= _MIN_LETTERS]


def recall(references: Sequence[str], texts: Sequence[str], words: Sequence[str]) -> tuple[int, int]:
    """How many of the occurrences of some words are recognized, and how many there are."""
    hits = total = 0
    for reference, text in zip(references, texts, strict=True):
        said, heard = Counter(reference.split()), Counter(text.split())
        total += sum(said[word] for word in words)
        hits += sum(min(said[word], heard[word]) for word in words)
    return hits, total


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("cuts", nargs="+")
    parser.add_argument("--boosts", nargs="+", type=float, default=[0.5, 1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head, rows = origin(), []
    torch.set_num_threads(1)
    utterances = [utterance for path in args.cuts for utterance in read_cuts(path)]
    references = [utterance.text for utterance in utterances]

    def measure(method: str, boost: float, hotwords: Sequence[str]) -> list[str]:
        search = SearchConfig(method=method, hotword_boost=boost)  # type: ignore[arg-type]
        return texts_of(Recognizer.load(args.model, search=search, hotwords=hotwords), utterances)

    words = missed_words(references, measure("greedy", 1.5, ()))
    print(f"{len(utterances)} utterances, {len(words)} hotwords; word error rates in percent")
    print("| search | boost | recognized | WER | WER with absent names |\n|---|---:|---:|---:|---:|")
    for method in ("greedy", "beam", "ctc_beam"):
        try:
            plain = measure(method, 1.5, ())
        except ConfigError as error:
            print(f"({method}: {error})")
            continue
        hits, total = recall(references, plain, words)
        rate = error_rates(zip(references, plain, strict=True)).words.rate
        rows.append({"search": method, "boost": None, "recognized": hits, "wer": rate, "wer_absent": rate})
        print(f"| {method} | none | {hits} of {total} | {rate:.1f} | {rate:.1f} |", flush=True)
        for boost in args.boosts:
            found, absent = measure(method, boost, words), measure(method, boost, ABSENT)
            hits, _ = recall(references, found, words)
            rates = [error_rates(zip(references, texts, strict=True)).words.rate for texts in (found, absent)]
            rows.append({"search": method, "boost": boost, "recognized": hits, "wer": rates[0], "wer_absent": rates[1]})
            print(f"| {method} | {boost:g} | {hits} | {rates[0]:.1f} | {rates[1]:.1f} |", flush=True)
    if args.json:
        write(args.json, head, {"num_hotwords": len(words), "num_occurrences": total, "rows": rows})


if __name__ == "__main__":
    main()
