"""Real-time factors: processor seconds for a second of audio, by size of model and search, searches as shares of the
encoder's time.

    python benchmarks/real_time_factor.py --repeats 5 --json benchmarks/results/real_time_factor.json

All models and searches take turns, one run each in every round, after a round that does not count: so work of other
programs meets all of them, and the median and the range over the rounds show how much it disturbs. Weights are
random, sharpened as in `benchmarks/search.py` so that a token comes every five frames (0.2 s), as in speech with 500 pieces;
hotwords are 50 phrases of two to six random tokens; `alignment` is the cost of finding true word times.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import origin, write
from search import FRAMES_PER_TOKEN, SECONDS, find_penalty, sharpened_model, sound_features

from zipasr.alignment.ctc import align_batch
from zipasr.device import fast_matmul
from zipasr.model import AsrModel, large, medium, small, tiny
from zipasr.nn.encoded import Encoded
from zipasr.search import ctc_greedy_search, greedy_search, modified_beam_search
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.prior import WeightedPriors

PRESETS = {"tiny": tiny, "small": small, "medium": medium, "large": large}
Search = Callable[[], object]
ENCODER = "encoder"


def searches(model: AsrModel, encoded: Encoded, penalty: float) -> dict[str, Search]:
    """What is measured, by the name in the table."""
    generator = torch.Generator().manual_seed(0)
    phrases = [
        (torch.randint(3, model.config.vocab_size, (length,), generator=generator).tolist(), 1.5)
        for length in torch.randint(2, 7, (50,), generator=generator).tolist()
    ]
    graph = HotwordGraph(phrases)
    prior = WeightedPriors([(graph, 1.0)])
    labels = [hypothesis.ids for hypothesis in greedy_search(model, encoded, blank_penalty=penalty)]
    return {
        "greedy": lambda: greedy_search(model, encoded, blank_penalty=penalty),
        "greedy, hotwords": lambda: greedy_search(model, encoded, blank_penalty=penalty, hotwords=graph),
        "beam 4": lambda: modified_beam_search(model, encoded, beam=4, blank_penalty=penalty),
        "beam 4, hotwords": lambda: modified_beam_search(model, encoded, beam=4, blank_penalty=penalty, prior=prior),
        "beam 8": lambda: modified_beam_search(model, encoded, beam=8, blank_penalty=penalty),
        "CTC greedy": lambda: ctc_greedy_search(model, encoded),
        "CTC beam 4": lambda: ctc_prefix_search(model, encoded, beam=4),
        "CTC beam 4, hotwords": lambda: ctc_prefix_search(model, encoded, beam=4, prior=prior),
        "alignment": lambda: align_batch(model, encoded, labels),
    }


class Case(NamedTuple):
    """A model, and what is timed of it by name: its encoder, and the searches."""

    name: str
    frames_per_token: float
    timed: dict[str, Search]


def make_case(name: str, batch: int) -> Case:
    """A model with random weights, and what to time."""
    torch.manual_seed(0)
    model = sharpened_model(dataclasses.replace(PRESETS[name](), ctc=None))
    features = sound_features(batch)
    lens = torch.full((batch,), features.shape[1])
    encoded = model.encode(features, lens)
    penalty, frames_per_token = find_penalty(model, encoded)
    return Case(name, frames_per_token, {ENCODER: lambda: model.encode(features, lens), **searches(model, encoded, penalty)})


def time_rounds(cases: Sequence[Case], repeats: int) -> dict[tuple[str, str], list[float]]:
    """Processor seconds by model and what is timed, one for each round; in a round, everything runs once in turn."""
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(repeats + 1):
        for case in cases:
            for what, function in case.timed.items():
                started = time.process_time()
                function()
                if number > 0:  # the first round compiles and allocates
                    times.setdefault((case.name, what), []).append(time.process_time() - started)
    return times


def row_of(case: Case, times: dict[tuple[str, str], list[float]], batch: int) -> dict[str, Any]:
    """Real-time factor of the encoder, and each search as a share of its time: median, smallest and largest."""
    factors = [seconds / (batch * SECONDS) for seconds in times[case.name, ENCODER]]
    shares = {}
    for what in case.timed:
        if what != ENCODER:
            both = zip(times[case.name, what], times[case.name, ENCODER], strict=True)
            shares[what] = spread([search / encoder for search, encoder in both], 4)
    return {
        "model": case.name,
        "encoder_rtf": spread(factors, 5),
        "frames_per_token": round(case.frames_per_token, 2),
        "shares": shares,
    }


def spread(values: Sequence[float], digits: int) -> list[float]:
    """Median, smallest and largest."""
    return [round(value, digits) for value in (statistics.median(values), min(values), max(values))]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    head = origin()
    torch.set_num_threads(args.threads)
    with torch.inference_mode(), fast_matmul(torch.device("cpu")):
        cases = [make_case(name, args.batch) for name in args.models]
        times = time_rounds(cases, args.repeats)
    rows = [row_of(case, times, args.batch) for case in cases]
    print(
        f"{args.batch} x {SECONDS:g} s, {args.threads} threads, a token in {FRAMES_PER_TOKEN:g} frames; processor "
        "seconds of the encoder per second of audio, then searches in percent of its time; medians"
    )
    names = list(rows[0]["shares"])
    print("| model | encoder | " + " | ".join(names) + " |\n|---|" + "---:|" * (len(names) + 1))
    for row in rows:
        shares = " | ".join(f"{100 * row['shares'][name][0]:.1f}" for name in names)
        print(f"| {row['model']} | {row['encoder_rtf'][0]:.4f} | {shares} |")
    if args.json:
        write(args.json, head, {"threads": args.threads, "batch": args.batch, "seconds": SECONDS, "rows": rows})


if __name__ == "__main__":
    main()
