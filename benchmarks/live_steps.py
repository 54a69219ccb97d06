"""What the worker thread of a server spends on live streams, without sockets and clients: processor time a stream and chunk.

    python benchmarks/live_steps.py exported data/prompts/test_cuts.jsonl.gz --against 67eb847 --rounds 3
    python benchmarks/live_steps.py --gathering 4.0 1.9

N streams of speech come in pieces of 80 ms; a piece is one tick late with probability `--late`, so that the streams of a
step change. All versions take turns, each in a process of its own, one thread. "Encoder" is the time of onnxruntime, or of
PyTorch, for the encoder, "ours" is the rest. With `--parts` the rest is divided, which costs a few per cent itself.

`--gathering A B` simulates steps of A + B n milliseconds for n streams at the pace of speech, with chunks of 320 ms, on a
clock of its own: what `--max-wait-ms` saves, and what latency it costs.
"""

import argparse
import asyncio
import functools
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import origin, write

REPOSITORY = Path(__file__).parents[1]
THIS = "this version"
PIECE_SAMPLES = 1280
NUM_WARM_UPS = 8
CHUNK_S = 0.32


class Parts:
    """Processor time of nested functions by part, each without the others inside it."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self._inside_s = [0.0]

    def wrap(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, with its time counted."""

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            self._inside_s.append(0.0)
            started_s = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                spent_s = time.thread_time() - started_s
                self.spent_s[part] += spent_s - self._inside_s.pop()
                self._inside_s[-1] += spent_s

        return timed

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the time of a method or function of an owner."""
        setattr(owner, name, self.wrap(getattr(owner, name), part))


def watched(is_divided: bool) -> Parts:
    """Parts that count the encoder's time, and if wanted those of everything else."""
    from zipasr.encoder.zipformer import Zipformer
    from zipasr.features import FbankStream
    from zipasr.onnx_runtime import graph
    from zipasr.recognizer import Stream
    from zipasr.recognizer.engine import Engine
    from zipasr.search.beam import BeamSearch
    from zipasr.search.greedy import GreedySearch
    from zipasr.serve.live import LiveSession

    parts, run = Parts(), graph.run_session
    encoder, head = parts.wrap(run, "encoder"), parts.wrap(run, "joiner, decoder") if is_divided else run

    def run_session(session: Any, values: Any, options: Any, *, name: str) -> Any:
        return (encoder if name.startswith(("encoder", "model")) else head)(session, values, options, name=name)

    graph.run_session = run_session
    parts.watch(Zipformer, "encode_chunk", "encoder")
    if is_divided:
        for owner, name, part in (
            (FbankStream, "accept", "filterbank"),
            (LiveSession, "take_in", "samples"),
            (Engine, "encode_windows", "windows, states"),
            (GreedySearch, "advance", "search"),
            (BeamSearch, "advance", "search"),
            (Stream, "result", "results"),
            (Stream, "is_endpoint", "results"),
            (LiveSession, "publish_chunk", "publishing"),
        ):
            parts.watch(owner, name, part)
    return parts


def read_speech(cuts: Path) -> np.ndarray:
    """Prompts with pauses of half a second between them, (samples,)."""
    from zipasr.evaluate import read_cuts

    found = [utterance.samples for utterance in itertools.islice(read_cuts(cuts), 40)]
    return np.concatenate([part for samples in found if samples is not None for part in (samples, np.zeros(8000, "f4"))])


async def measure_steps(recognizer: Any, speech: np.ndarray, parts: Parts, num_streams: int, args: Any) -> dict[str, Any]:
    """The row of a number of streams: milliseconds a stream and chunk."""
    from zipasr.serve.live import LiveSessions
    from zipasr.serve.metrics import Metrics

    chooser, sessions = random.Random(num_streams), LiveSessions(recognizer, Metrics(), lambda: None)
    streams = [sessions.open() for _ in range(num_streams)]
    starts, num_waiting = [chooser.randrange(len(speech)) for _ in streams], [0] * num_streams
    total_s, num_before = 0.0, 0
    for tick in range(NUM_WARM_UPS + args.ticks):
        if tick == NUM_WARM_UPS:
            parts.spent_s.clear()
            total_s, num_before = 0.0, sum(stream._num_chunks for stream in streams)
        for n, stream in enumerate(streams):
            num_waiting[n] += 1
            while num_waiting[n] and chooser.random() >= args.late:
                stream.push(np.take(speech, range(starts[n], starts[n] + PIECE_SAMPLES), mode="wrap"))
                starts[n] += PIECE_SAMPLES
                num_waiting[n] -= 1
        started_s = time.thread_time()
        sessions.step()
        total_s += time.thread_time() - started_s
        await asyncio.sleep(0)
    num_chunks = sum(stream._num_chunks for stream in streams) - num_before
    spent_s = parts.spent_s | {"all": total_s, "ours": total_s - parts.spent_s["encoder"]}
    return {"streams": num_streams, **{part: 1000 * spent / num_chunks for part, spent in spent_s.items()}}


def measure(args: argparse.Namespace) -> None:
    """Print the rows of this process."""
    import torch

    import zipasr
    from zipasr.recognizer import ChunkConfig, SearchConfig

    torch.set_num_threads(1)
    parts, chunks = watched(args.parts), ChunkConfig(chunk_frames_50hz=16, left_context_frames_50hz=128)
    recognizer = zipasr.load(args.model, search=SearchConfig(method=args.search), chunks=chunks)
    speech = read_speech(args.cuts)
    for num_streams in args.streams:
        print(json.dumps(asyncio.run(measure_steps(recognizer, speech, parts, num_streams, args))), flush=True)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of all versions, medians over the rounds; prints them."""
    found: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        trees = {revision: Path(folder) / str(n) for n, revision in enumerate(args.against)} | {THIS: REPOSITORY}
        for revision in args.against:
            git = ["git", "-C", str(REPOSITORY), "archive", revision, "zipasr"]
            trees[revision].mkdir()
            archive = subprocess.run(git, check=True, stdout=subprocess.PIPE).stdout
            subprocess.run(["tar", "-x", "-C", str(trees[revision])], input=archive, check=True)
        for _, (name, tree) in itertools.product(range(args.rounds), trees.items()):
            env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, *sys.argv, "--measure"]
            lines = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            for row in map(json.loads, lines):
                found[row.pop("streams"), name].append(row)
    rows = []
    for (num_streams, name), rounds in sorted(found.items()):
        medians = {part: round(statistics.median(row[part] for row in rounds), 3) for part in sorted(rounds[0])}
        rows.append({"streams": num_streams, "version": name, **medians})
        print(rows[-1], flush=True)
    return rows


def simulate(num_streams: int, max_wait_ms: float, step_ms: float, stream_ms: float) -> dict[str, Any]:
    """What steps of so many streams take and how late their results are, for a minute."""
    from zipasr.serve.gathering import Gathering

    chooser, gathering = random.Random(num_streams), Gathering(max_wait_ms / 1000, 0.0)
    phases = [chooser.uniform(0.0, CHUNK_S) for _ in range(num_streams)]
    due = [phase + CHUNK_S * k for phase in phases for k in range(round(60 / CHUNK_S))]
    coming = sorted((time_s + chooser.uniform(0.0, 0.002), time_s) for time_s in due)
    now_s, busy_s, place = 0.0, 0.0, 0
    ready: list[float] = []
    late_s: list[float] = []
    sizes: list[int] = []
    while place < len(coming) or ready:
        while place < len(coming) and coming[place][0] <= now_s:
            ready.append(coming[place][0])
            place += 1
        next_s = coming[place][0] if place < len(coming) else math.inf
        expected_s = [time_s for _, time_s in coming[place : place + num_streams]]
        wait_s = gathering.wait_s(now_s, ready, expected_s, CHUNK_S) if ready else math.inf
        if wait_s:
            now_s = min(now_s + wait_s, next_s)
            continue
        chosen, ready = ready[:64], ready[64:]
        started_s, now_s = now_s, now_s + (step_ms + stream_ms * len(chosen)) / 1000
        gathering.record(started_s, now_s)
        busy_s += now_s - started_s
        sizes.append(len(chosen))
        late_s += [now_s - time_s for time_s in chosen]
    return {
        "streams": num_streams,
        "max_wait_ms": max_wait_ms,
        "busy_percent": round(100 * busy_s / now_s),
        "ms_a_stream_and_chunk": round(1000 * busy_s / len(late_s), 2),
        "streams_a_step": round(statistics.mean(sizes), 1),
        "p50_ms": round(1000 * float(np.percentile(late_s, 50))),
        "p95_ms": round(1000 * float(np.percentile(late_s, 95))),
    }


def main() -> None:
    """Measure or simulate, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder or an exported folder")
    parser.add_argument("cuts", nargs="?", type=Path, help="Lhotse cuts with speech")
    parser.add_argument("--against", nargs="*", default=[], metavar="REVISION", help="earlier versions")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--search", default="greedy")
    parser.add_argument("--late", type=float, default=0.1, metavar="P")
    parser.add_argument("--ticks", type=int, default=32, help="pieces of each stream that are measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", action="store_true", help="divide our own time")
    parser.add_argument("--gathering", type=float, nargs=2, metavar=("A", "B"), help="simulate steps of A + B n ms instead")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args)
        return
    head = origin()
    if args.gathering:
        waits = itertools.product((16, 32, 64, 96, 128, 150, 160), (0, 10, 20, 40, 80))
        rows = [simulate(num_streams, max_wait_ms, *args.gathering) for num_streams, max_wait_ms in waits]
        for row in rows:
            print(row)
    else:
        rows = compare(args)
    if args.json:
        write(args.json, head, {"rows": rows})


if __name__ == "__main__":
    main()
