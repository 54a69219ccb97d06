"""Where the time of short recordings goes: processor time of each stage from samples to transcripts, in this process.

    python benchmarks/recording_stages.py exp/own/exported data/prompts/test_cuts.jsonl.gz
    python benchmarks/recording_stages.py exp/own/exported data/prompts/test_cuts.jsonl.gz --without-times

Recordings are transcribed in the batches of a server that eight clients ask at once. A stage counts without those inside it.
"""

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import add_line, origin

from zipasr.alignment import word_times
from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.evaluate import read_cuts
from zipasr.features import Fbank
from zipasr.model import AsrModel
from zipasr.onnx_runtime.graph import Graph
from zipasr.recognizer import Recognizer, SearchConfig, batches, transcripts
from zipasr.recognizer.engine import Engine


class Stages:
    """Processor time and calls of functions, without those that they call, if these are observed too."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._inner: list[float] = []

    def observe(self, owner: Any, name: str, label: str | Callable[..., str]) -> None:
        """Observe a function, which it replaces by one that measures; `label` may depend on its arguments."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def measuring(*args: Any, **keywords: Any) -> Any:
            started_s = time.thread_time()
            self._inner.append(0.0)
            try:
                return function(*args, **keywords)
            finally:
                taken_s = time.thread_time() - started_s
                stage = label if isinstance(label, str) else label(*args)
                self.seconds[stage] += taken_s - self._inner.pop()
                self.calls[stage] += 1
                if self._inner:
                    self._inner[-1] += taken_s

        setattr(owner, name, measuring)


def observe_all(stages: Stages) -> None:
    """Observe all stages."""
    stages.observe(Recognizer, "transcribe_many", "the rest")
    stages.observe(Fbank, "__call__", "filterbank")
    stages.observe(Engine, "encode", "padding")
    stages.observe(Graph, "run", lambda graph, *_: f"onnxruntime: {graph.name}")
    stages.observe(AsrModel, "encode", "PyTorch: encoder")
    stages.observe(Engine, "find", "search")
    stages.observe(batches, "to_transcripts", "transcripts")
    stages.observe(transcripts, "align_hypotheses", "alignment")
    stages.observe(word_times, "token_spans", "edges of words")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model or a folder of exported graphs")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--batch", type=int, default=8, help="recordings that are there at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--method", default="greedy", help="the search, see SearchConfig")
    parser.add_argument("--without-times", action="store_true", help="no times of words, as for HTTP's json")
    parser.add_argument("--results", type=Path, help="add a line with the figures to this file")
    args = parser.parse_args()
    head = origin()
    torch.set_num_threads(1)
    recognizer = Recognizer.load(args.model, device="cpu", search=SearchConfig(method=args.method))
    recordings = [utterance.samples for utterance in read_cuts(args.cuts) if utterance.samples is not None]
    options = {"use_true_times": False} if args.without_times else {}

    def one_round() -> float:
        started_s = time.thread_time()
        for start in range(0, len(recordings), args.batch):
            recognizer.transcribe_many(recordings[start : start + args.batch], **options)
        return time.thread_time() - started_s

    one_round()
    totals_ms = [1000 * one_round() / len(recordings) for _ in range(args.rounds)]
    stages = Stages()
    observe_all(stages)
    for _ in range(args.rounds):
        one_round()
    figures = summary(stages, recordings, args.rounds) | {"ms_a_recording": round(statistics.median(totals_ms), 2)}
    print(f"{figures['recordings']} recordings, {figures['mean_s']} s on average: {figures['ms_a_recording']} ms each")
    print("| stage | ms | calls |\n|---|---:|---:|")
    for stage, (milliseconds, calls) in figures["stages"].items():
        print(f"| {stage} | {milliseconds} | {calls} |")
    if args.results:
        add_line(args.results, head | figures)


def summary(stages: Stages, recordings: Sequence[np.ndarray], rounds: int) -> dict[str, Any]:
    """Milliseconds and calls of each stage for a recording, the longest stage first."""
    number = len(recordings) * rounds
    order = sorted(stages.seconds, key=lambda stage: -stages.seconds[stage])
    return {
        "recordings": len(recordings),
        "mean_s": round(sum(map(len, recordings)) / len(recordings) / SAMPLE_RATE_HZ, 2),
        "stages": {
            stage: (round(1000 * stages.seconds[stage] / number, 2), round(stages.calls[stage] / number, 2))
            for stage in order
        },
    }


if __name__ == "__main__":
    main()
