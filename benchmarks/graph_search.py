"""What searches through a graph cost beside free ones, and what their limits cost in accuracy.

    python benchmarks/graph_search.py exp/own_data/barista-42/model CORPORA --json benchmarks/results/graph_search.json

The orders of barista's dev set, clean and with noise at 0 dB, under `examples/barista.jsgf`, by both heads, and free
searches beside them. Encoder frames are computed once; the searches take turns, several rounds on one thread, and of each
the round with the least processor time counts. CORPORA as for grammar.py.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from grammar import GRAMMAR, Spoken, encoded_batches, rows_of, share, sounding, with_noise
from machine import origin, write

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.grammar import read_grammar, slots_of
from zipasr.recognizer import Recognizer
from zipasr.search.finding import find_hypotheses
from zipasr.search.graph import compile_words
from zipasr.search.strategy import GRAPH_METHODS, SearchConfig

ROUNDS = 3
LIMITS: dict[str, dict[str, Any]] = {
    "default": {},
    "graph_beam_nats 10": {"graph_beam_nats": 10.0},
    "graph_beam_nats 40": {"graph_beam_nats": 40.0},
    "max_states 64": {"max_states": 64},
    "num_best 4": {"num_best": 4},
}
"""Settings of searches through the graph."""
OF_TRANSDUCER: dict[str, dict[str, Any]] = {
    "max_contexts 4": {"max_contexts": 4},
    "max_contexts 32": {"max_contexts": 32},
    "graph_beam_nats 40, max_contexts 32": {"graph_beam_nats": 40.0, "max_contexts": 32},
}
"""The same for the transducer."""


def searches() -> dict[str, SearchConfig]:
    """All searches, by what they are called."""
    found = {method: SearchConfig(method=method) for method in ("ctc_greedy", "ctc_beam", "greedy", "beam")}
    for method in GRAPH_METHODS:
        settings = LIMITS if method == "ctc_graph" else LIMITS | OF_TRANSDUCER
        found |= {f"{method}, {name}": SearchConfig(method=method, **given) for name, given in settings.items()}
    return found


def measure_all(model: str, corpora: Path) -> dict[str, Any]:
    """All figures: processor time of each search per second of audio, relative to the encoder's, and orders right."""
    torch.set_num_threads(1)
    engine = Recognizer.load(model, device="cpu").engine
    graph = compile_words(read_grammar(GRAMMAR).graph, engine.tokenizer)
    rows = rows_of(corpora / "barista" / "dev.jsonl")
    spoken = [Spoken(load_audio(corpora / "barista" / row["audio"]), row["slots"], "barista") for row in rows]
    noises = [sounding(load_audio(corpora / "noise" / row["audio"])) for row in rows_of(corpora / "noise" / "train.jsonl")]
    audio_s = sum(len(one.samples) for one in spoken) / SAMPLE_RATE_HZ
    started = time.process_time()
    batches = {"clean": list(encoded_batches(engine, spoken))}
    encoder_s = time.process_time() - started
    batches["0 dB"] = list(encoded_batches(engine, with_noise(spoken, noises, 0.0)))
    times: dict[str, list[float]] = {name: [] for name in searches()}
    right: dict[str, dict[str, float]] = {name: {} for name in searches()}
    for number in range(ROUNDS):
        for name, config in searches().items():
            for condition in ("clean", "0 dB") if number == 0 else ("clean",):
                started = time.process_time()
                found = [
                    best
                    for encoded in batches[condition]
                    for best, *_ in find_hypotheses(
                        engine.scorer,
                        encoded,
                        config,
                        unk_id=engine.tokenizer.unk_id,
                        graphs=[graph] * len(encoded.lens) if config.method in GRAPH_METHODS else (),
                    )
                ]
                if condition == "clean":
                    times[name].append(time.process_time() - started)
                slots = [slots_of(output.symbol for output in best.outputs) for best in found]
                right[name][condition] = share([one.slots == got for one, got in zip(spoken, slots, strict=True)])
    return {
        "utterances": len(spoken),
        "audio_s": round(audio_s, 1),
        "encoder_ms_per_s": round(1000 * encoder_s / audio_s, 2),
        "searches": [
            {
                "search": name,
                "ms_per_s": round(1000 * min(times[name]) / audio_s, 3),
                "share_of_encoder": round(min(times[name]) / encoder_s, 3),
                **(right[name] if "graph" in name else {}),
            }
            for name in times
        ],
    }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head, figures = origin(), measure_all(args.model, args.corpora)
    for row in figures["searches"]:
        print(row)
    if args.json:
        write(args.json, head, figures)


if __name__ == "__main__":
    main()
