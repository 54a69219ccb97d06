"""Real-time factors: seconds of computing for a second of sound, by size of model and search, searches as shares of the
encoder's time.

Run: `python benchmarks/real_time_factor.py [--models small medium] [--threads N] [--batch N] [--repeats N] [--json FILE]`.
Weights are random, sharpened as in `benchmarks/search.py` so that a token comes every five frames (0.2 s), as in speech with
500 pieces; hotwords are 50 phrases of two to six random tokens; times are those of finding true word times.
"""

import argparse
import dataclasses
import json
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from search import FRAMES_PER_TOKEN, SECONDS, best_time, find_penalty, sharpened_model, sound_features

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


def measure(name: str, batch: int, repeats: int) -> dict[str, object]:
    """The row of one model: its encoder's real-time factor, and each search's share of that."""
    torch.manual_seed(0)
    preset = PRESETS[name]()
    model = sharpened_model(dataclasses.replace(preset, ctc=None))
    features = sound_features(batch)
    lens = torch.full((batch,), features.shape[1])
    with fast_matmul(torch.device("cpu")):
        encoded = model.encode(features, lens)
        penalty, frames_per_token = find_penalty(model, encoded)
        encoder_s, _ = best_time(lambda: model.encode(features, lens), repeats)
        shares = {}
        for search_name, search in searches(model, encoded, penalty).items():
            search_s, _ = best_time(search, repeats)
            shares[search_name] = round(search_s / encoder_s, 4)
    return {
        "model": name,
        "encoder_rtf": round(encoder_s / (batch * SECONDS), 5),
        "frames_per_token": round(frames_per_token, 2),
        "shares": shares,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        rows = [measure(name, args.batch, args.repeats) for name in args.models]
    print(
        f"{args.batch} x {SECONDS:g} s, {args.threads} threads, a token in {FRAMES_PER_TOKEN:g} frames; real-time factor of "
        "the encoder, then searches in percent of its time"
    )
    names = list(rows[0]["shares"])  # type: ignore[call-overload]
    print("| model | encoder | " + " | ".join(names) + " |\n|---|" + "---:|" * (len(names) + 1))
    for row in rows:
        shares = " | ".join(f"{100 * row['shares'][name]:.1f}" for name in names)  # type: ignore[index]
        print(f"| {row['model']} | {row['encoder_rtf']:.4f} | {shares} |")
    if args.json:
        machine = {"date": date.today().isoformat(), "processor": platform.machine(), "torch": torch.__version__}
        Path(args.json).write_text(json.dumps({**machine, **vars(args), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
