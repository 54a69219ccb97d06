"""Time of the searches as a share of the encoder's, for `small` with random weights.

Run: `python benchmarks/search.py [--threads N] [--batch N] [--repeats N]`. Random weights say nothing sensible, so the
joiner is sharpened and a blank penalty is found at which greedy search emits one token in five frames, as speech does.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable

import torch

from zipasr.features import Fbank
from zipasr.heads.ctc import CtcConfig
from zipasr.model import AsrConfig, AsrModel, small
from zipasr.nn.encoded import Encoded
from zipasr.search import ctc_greedy_search, greedy_search, modified_beam_search

SECONDS = 30.0
FRAMES_PER_TOKEN = 5.0
_SHARPENING = 20.0


def best_time(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Shortest and median time in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times), sorted(times)[len(times) // 2]


def find_penalty(model: AsrModel, encoded: Encoded) -> tuple[float, float]:
    """Blank penalty with about `FRAMES_PER_TOKEN` frames for a token, and the number that it gives."""
    low, high = -100.0, 100.0
    for _ in range(30):
        middle = (low + high) / 2
        num_tokens = sum(len(h.ids) for h in greedy_search(model, encoded, blank_penalty=middle))
        frames_per_token = int(encoded.lens.sum()) / max(num_tokens, 1)
        low, high = (low, middle) if frames_per_token < FRAMES_PER_TOKEN else (middle, high)
    return middle, frames_per_token


def sharpened_model(config: AsrConfig) -> AsrModel:
    """A model with random weights whose transducer follows the frames, so that labels vary; with a CTC head."""
    model = AsrModel(dataclasses.replace(config, ctc=CtcConfig())).eval()
    assert model.transducer is not None
    with torch.no_grad():
        model.transducer.joiner.output.weight.mul_(_SHARPENING)
        model.transducer.joiner.encoder_proj.weight.mul_(_SHARPENING)
    return model


def sound_features(batch: int) -> torch.Tensor:
    """Features (N, T, F) of noise whose loudness changes ten times a second."""
    loudness = torch.rand(batch, int(SECONDS * 10), 1).repeat(1, 1, 1600).flatten(1)
    return torch.stack([Fbank()(samples) for samples in loudness * torch.randn(loudness.shape)])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = sharpened_model(small())
    with torch.inference_mode():
        features = sound_features(args.batch)
        lens = torch.full((args.batch,), features.shape[1])
        encoded = model.encode(features, lens)
        penalty, frames_per_token = find_penalty(model, encoded)
        fast, median = best_time(lambda: model.encode(features, lens), args.repeats)
        contexts = {
            h.ids[max(i - 2, 0) : i] for h in greedy_search(model, encoded, blank_penalty=penalty) for i in range(len(h.ids))
        }
    print(
        f"{args.batch} x {SECONDS:g} s, {args.threads} threads, {frames_per_token:.1f} frames a token, "
        f"{len(contexts)} label contexts in the greedy result\n"
        f"encoder{fast:22.3f} s (median {median:.3f})"
    )
    searches: list[tuple[str, Callable[[], object]]] = [
        (f"greedy, window {w}", lambda w=w: greedy_search(model, encoded, blank_penalty=penalty, window_frames_25hz=w))
        for w in (1, 2, 4, 8, 16, 32)
    ]
    searches += [
        (f"beam {b}", lambda b=b: modified_beam_search(model, encoded, beam=b, blank_penalty=penalty)) for b in (1, 4, 8)
    ]
    searches.append(("ctc greedy", lambda: ctc_greedy_search(model, encoded)))
    for name, search in searches:
        own, middle = best_time(search, args.repeats)
        print(f"{name:18s}{own:11.3f} s (median {middle:.3f}) {100 * own / fast:6.1f} % of the encoder")


if __name__ == "__main__":
    main()
