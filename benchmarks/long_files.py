"""A long recording by zipasr and by sherpa-onnx, on the same pieces and exported weights: processor time, wall time, texts.

    python benchmarks/long_files.py exp/own/model long.flac --rounds 3 --json benchmarks/results/long_files.json
    python benchmarks/long_files.py small data/prompts/test_cuts.jsonl.gz --minutes 60 --rounds 3

The recording is cut into pieces once, by zipasr's voice activity detection. In each round the systems transcribe them in
turn, each in one thread of this process: zipasr from PyTorch and from exported graphs, with the times of words, as in
`zipasr transcribe`; sherpa-onnx's offline recognizer in batches of each size of `--sherpa-batches`. Reading and voice
activity detection, which `zipasr transcribe` adds, are measured apart.

Instead of a model, `small` and the like stand for random weights, sharpened so that labels vary, with a bias against blank
that gives a label every five frames; their texts say nothing. Cuts instead of a recording are joined to one.
"""

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from long_recording import make_recording
from machine import origin, write
from search import find_penalty, sharpened_model, sound_features
from serving_programs import export

from zipasr import model as presets
from zipasr.audio import SAMPLE_RATE_HZ, read_blocks
from zipasr.evaluate import error_rates, read_cuts
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.vad import SpeechDetector, split_recording

PYTORCH, ONNX = "zipasr PyTorch", "zipasr ONNX"
_SHERPA_METHODS = {"greedy": "greedy_search", "beam": "modified_beam_search"}
_GROUP_S = 600.0
"""Pieces that zipasr transcribes together, as `zipasr transcribe` does."""
_VOCAB_SIZE = 500

System = Callable[[Sequence[np.ndarray]], list[str]]
"""Pieces in, their texts out."""


class Cost(NamedTuple):
    """What it took to transcribe all pieces once."""

    processor_s: float
    wall_s: float


def measured(work: Callable[[], Any]) -> tuple[Any, Cost]:
    """The result of some work and its cost; all threads of this process count."""
    gc.collect()
    processor_s, wall_s = time.process_time(), time.perf_counter()
    result = work()
    return result, Cost(time.process_time() - processor_s, time.perf_counter() - wall_s)


def random_model(preset: str, cuts: Path, folder: Path) -> None:
    """Write a model with random weights, and with the vocabulary of the texts of some cuts."""
    texts = [utterance.text for utterance in read_cuts(cuts) if utterance.text]
    tokenizer = Tokenizer.train(texts, kind="unigram", vocab_size=_VOCAB_SIZE)
    torch.manual_seed(0)
    config = dataclasses.replace(getattr(presets, preset)(), vocab_size=tokenizer.vocab_size)
    model = sharpened_model(config.for_vocabulary(tokenizer))
    assert model.transducer is not None
    with torch.no_grad():
        features = sound_features(1)
        encoded = model.encode(features, torch.tensor([features.shape[1]]))
        model.transducer.joiner.output.bias[model.blank_id] -= find_penalty(model, encoded)[0]
    model.save(folder, tokenizer)


def joined_cuts(cuts: Path, minutes: float, path: Path) -> Path:
    """A recording of so many minutes, made of utterances with pauses between them."""
    make_recording(path, list(read_cuts(cuts)), minutes / 60, seed=0)
    return path


def first_minutes(path: Path, minutes: float) -> Iterator[np.ndarray]:
    """The blocks of the start of a recording."""
    num_left = round(60 * minutes * SAMPLE_RATE_HZ)
    for block in read_blocks(path):
        if not num_left:
            return
        yield block[:num_left]
        num_left -= min(num_left, len(block))


def zipasr_system(recognizer: Recognizer) -> System:
    """Ours: pieces in groups of ten minutes."""

    def transcribe(pieces: Sequence[np.ndarray]) -> list[str]:
        texts: list[str] = []
        group: list[np.ndarray] = []
        for i, samples in enumerate(pieces):
            group.append(samples)
            if sum(map(len, group)) >= _GROUP_S * SAMPLE_RATE_HZ or i == len(pieces) - 1:
                texts += [transcript.text for transcript in recognizer.transcribe_many(group)]
                group = []
        return texts

    return transcribe


def sherpa_system(exported: Path, search: SearchConfig, batch_size: int) -> System:
    """sherpa-onnx's offline recognizer, so many pieces at once."""
    import sherpa_onnx

    files = json.loads((exported / "export.json").read_text())["files"]
    recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
        **{part: str(exported / files[part]) for part in ("encoder", "decoder", "joiner")},
        tokens=str(exported / "tokens.txt"),
        num_threads=1,
        decoding_method=_SHERPA_METHODS[search.method],
        max_active_paths=search.beam,
    )

    def transcribe(pieces: Sequence[np.ndarray]) -> list[str]:
        texts = []
        for start in range(0, len(pieces), batch_size):
            streams = []
            for samples in pieces[start : start + batch_size]:
                streams.append(recognizer.create_stream())
                streams[-1].accept_waveform(SAMPLE_RATE_HZ, samples)
            recognizer.decode_streams(streams)
            texts += [stream.result.text.strip() for stream in streams]
        return texts

    return transcribe


def compare(systems: Mapping[str, System], pieces: Sequence[np.ndarray], rounds: int) -> dict[str, Any]:
    """Costs and texts of the systems in alternating rounds."""
    costs: dict[str, list[Cost]] = {name: [] for name in systems}
    texts: dict[str, list[str]] = {}
    for transcribe in systems.values():
        transcribe(pieces[:1])  # memory and kernels
    for number in range(rounds):
        names = list(systems) if number % 2 == 0 else list(systems)[::-1]
        for name in names:
            texts[name], cost = measured(lambda name=name: systems[name](pieces))
            costs[name].append(cost)
            print(f"round {number + 1}, {name}: {cost.processor_s:.2f} s of processor time", flush=True)
    first = next(iter(texts.values()))
    return {
        name: {
            "processor_s": [round(cost.processor_s, 3) for cost in costs[name]],
            "wall_s": [round(cost.wall_s, 3) for cost in costs[name]],
            "median_processor_s": round(statistics.median(cost.processor_s for cost in costs[name]), 3),
            "same_texts_percent": round(100 * float(np.mean([a == b for a, b in zip(first, found, strict=True)])), 1),
            "words_unlike_first_percent": round(error_rates(zip(first, found, strict=True)).words.rate, 2),
        }
        for name, found in texts.items()
    }


def prepare(args: argparse.Namespace, folder: Path) -> tuple[Path, Path, Path]:
    """The model, its export and the recording."""
    model, recording = Path(args.model), args.recording
    if not model.exists():
        model = folder / "model"
        random_model(args.model, recording, model)
    if recording.name.endswith((".jsonl", ".jsonl.gz")):
        recording = joined_cuts(recording, args.minutes, folder / "long.flac")
    return model, export(model, folder / "exported"), recording


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        model, exported, recording = prepare(args, Path(name))
        search = SearchConfig(method=args.search)
        blocks = first_minutes(recording, args.minutes)
        pieces, cut = measured(lambda: [piece.samples for piece in split_recording(blocks, detector=SpeechDetector())])
        makers: dict[str, Callable[[], System]] = {
            PYTORCH: lambda: zipasr_system(Recognizer.load(model, device="cpu", search=search)),
            ONNX: lambda: zipasr_system(Recognizer.load(exported, device="cpu", search=search)),
        }
        for size in args.sherpa_batches:
            makers[f"sherpa-onnx, batches of {size}"] = lambda size=size: sherpa_system(exported, search, size)
        systems = {name: make() for name, make in makers.items() if not (name == PYTORCH and args.without_pytorch)}
        rows = compare(systems, pieces, args.rounds)
    best = min(row["median_processor_s"] for name, row in rows.items() if name not in (PYTORCH, ONNX))
    return {
        "pieces": len(pieces),
        "pieces_s": round(sum(map(len, pieces)) / SAMPLE_RATE_HZ, 1),
        "reading_and_vad_processor_s": round(cut.processor_s, 3),
        "systems": rows,
        "zipasr_to_best_sherpa": {name: round(row["median_processor_s"] / best, 3) for name, row in rows.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model with a transducer, or the name of a preset, for random weights")
    parser.add_argument("recording", type=Path, help="a recording, or cuts that are joined to one")
    parser.add_argument("--minutes", type=float, default=60.0, help="from the start of the recording")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--search", choices=list(_SHERPA_METHODS), default="greedy")
    parser.add_argument("--sherpa-batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--without-pytorch", action="store_true", help="only the exported graphs")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    head = origin()
    torch.set_num_threads(1)
    figures = measure(args)
    print(f"{figures['pieces']} pieces, {figures['pieces_s']:g} s; medians of {args.rounds} rounds, one thread")
    print("| system | processor s | to sherpa-onnx | same texts % | other words % |\n|---|---:|---:|---:|---:|")
    for name, row in figures["systems"].items():
        ratio = figures["zipasr_to_best_sherpa"][name]
        texts = f"{row['same_texts_percent']} | {row['words_unlike_first_percent']}"
        print(f"| {name} | {row['median_processor_s']} | {ratio} | {texts} |")
    print(f"Reading and voice activity detection: {figures['reading_and_vad_processor_s']} s")
    if args.json:
        versions = {name: importlib.metadata.version(name) for name in ("onnxruntime", "sherpa-onnx")}
        given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        write(args.json, head | versions, given | figures)


if __name__ == "__main__":
    main()
