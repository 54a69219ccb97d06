"""The cost of many hypotheses: CPU seconds of the CTC prefix search per second of audio, by beam and margin.

    python benchmarks/wide_beam.py exp/quickstart data/prompts/dev_cuts.jsonl.gz --json benchmarks/results/wide_beam.json

Attention rescoring takes its hypotheses from this search, with the margin of `search.strategy`; without one, wide beams cost
far more. The encoder is not counted.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from machine import origin, write

from zipasr.evaluate import read_cuts
from zipasr.recognizer import Recognizer
from zipasr.search.prefix import CtcPrefixSearch
from zipasr.search.resumable import search_all
from zipasr.search.strategy import RESCORING_MARGIN_NATS

SETTINGS = ((4, math.inf), (100, RESCORING_MARGIN_NATS), (100, 20.0))
"""Beams and margins in nats."""


def measure(model: str, cuts: str, num_utterances: int) -> dict[str, Any]:
    """Real-time factors and mean numbers of hypotheses, on one core."""
    torch.set_num_threads(1)
    engine = Recognizer.load(model, device="cpu").engine
    chosen = [utterance for utterance in read_cuts(Path(cuts)) if utterance.samples is not None][:num_utterances]
    encoded = [engine.encode([engine.fbank(utterance.samples)]) for utterance in chosen]
    audio_s = sum(len(utterance.samples) for utterance in chosen if utterance.samples is not None) / 16_000
    rows = []
    for beam, margin in SETTINGS:
        search = CtcPrefixSearch(engine.scorer, beam=beam, margin_nats=margin)
        started = time.process_time()
        found = [search_all(search, one, None)[0] for one in encoded]
        rows.append(
            {
                "beam": beam,
                "margin_nats": margin if margin < math.inf else None,
                "real_time_factor": round((time.process_time() - started) / audio_s, 4),
                "hypotheses": round(sum(map(len, found)) / len(found), 1),
            }
        )
    return {
        "utterances": len(chosen),
        "audio_s": round(audio_s, 2),
        "vocabulary": engine.tokenizer.vocab_size,
        "searches": rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("cuts")
    parser.add_argument("--num-utterances", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    head = origin()
    figures = measure(args.model, args.cuts, args.num_utterances)
    print(json.dumps(figures, indent=1))
    if args.json:
        write(args.json, head, figures)
