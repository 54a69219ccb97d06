"""What a server on one core takes: live streams at the pace of speech, and recordings a second. `zipasr serve` with PyTorch
and with exported graphs, beside the WebSocket servers of sherpa-onnx on the same exported weights, in one run.

    zipasr prepare prompts --out data/prompts
    python benchmarks/serving_load.py exp/streaming data/prompts/test_cuts.jsonl.gz --offline-model exp/quickstart

All servers are up at once, each with one computing thread and pinned to the same core; one at a time is loaded, in turns, so
that a change of the machine meets all of them. The clients are on the other cores. With `--cores 0,1 --workers 2`, zipasr's
servers compute in two threads, on two cores, which the clients share if there are no others. All search greedily, or all
with a beam of four. With `--rounds 3`, the number of streams is the median of three searches.

Streams. Every client sends prompts joined with pauses of 0.3 to 2 s, a piece of 80 ms at the moment its last sample has been
spoken; clients begin at random moments within a chunk. The latency of a partial result runs from when the piece that
completes a chunk is due to be sent, whether the server lets us send it or not, to when the first message arrives that has a
token of this chunk. Which chunk that is, the token says: both servers give the time of the frame where it was emitted. A
chunk of C frames at 50 Hz can be encoded when the 2 C + 13 features of its window are complete, 137.5 ms after its end;
sherpa-onnx waits for one feature more, which comes with the same piece. Chunks without a token tell nothing and do not
count. A stream whose last result has not come 10 s after its sound is an error. A number of streams is held if 95 % of the
latencies are within the target (default: a chunk) and nothing failed; the largest one is found to 8 %, if time allows.

Recordings. Clients ask for one after the other: over HTTP as FLAC files, over the WebSocket for recordings as samples. The
wheel of sherpa-onnx has no server for HTTP.

"CPU" is the server's share of its core (of several, the sum), "ms/s" the same for each stream and second, "others" what
everybody else took of the cores, stolen time included: if that is not near 0 on cores without clients, the figures say
little. "Late" is how late the clients themselves were with their pieces (99th percentile).
"""

import argparse
import asyncio
import functools
import importlib.metadata
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import origin, write
from serving_clients import (
    PIECE_S,
    Connect,
    Prompt,
    Track,
    ask_all,
    final_text,
    http_connection,
    latencies_s,
    load_streams,
    make_track,
    read_prompts,
    socket_connection,
)
from serving_programs import (
    ONNX,
    PYTORCH,
    SHERPA,
    Program,
    Server,
    export,
    running,
    sherpa_program,
    zipasr_program,
)

from zipasr.errors import ConfigError, ZipasrError
from zipasr.evaluate import error_rates

NUM_TRACKS = 16
"""Different ones; of more clients, several send the same."""
NEAR = 0.9
"""A later round begins with this share of what the round before it found."""
FIRST_STREAMS, MAX_GROWTH, OVERSHOOT, PRECISION = 4, 4.0, 1.3, 0.08
"""Numbers of streams grow beyond where the core would be full if chunks cost the same in larger batches: they cost less."""
NOISY_PERCENT = 10
"""Of the servers' core for others: from here on the figures are not to be trusted."""
FEWEST_TURNS = 2
"""In which the recordings of a server are sent."""
_CHUNK_STEP_MS = 160


class StreamSearch:
    """Looks for the most streams that a server holds."""

    def __init__(self, target_ms: float, counts: Sequence[int], max_s: float, first: int = FIRST_STREAMS) -> None:
        """Begin.

        Args:
            target_ms: what 95 % of the latencies must be within.
            counts: the numbers to try; none: those that the search needs.
            max_s: time after which the search tries nothing more.
            first: the number that is tried first.
        """
        self.target_ms, self.counts, self.max_s = target_ms, counts, max_s
        self.held, self.missed, self.spent_s = 0, 0, 0.0
        self._num_tried, self._next = 0, first

    @property
    def is_found(self) -> bool:
        """Whether little enough is between what is held and what is not."""
        return 0 < self.missed <= self.held + max(1, PRECISION * self.held)

    def next_count(self) -> int | None:
        """What to try next; None: it is over."""
        if self.counts:
            return self.counts[self._num_tried] if self._num_tried < len(self.counts) else None
        return None if self.is_found or self.spent_s > self.max_s else self._next

    def learn(self, row: Mapping[str, Any], spent_s: float) -> None:
        """Take in a measurement."""
        count, p95_ms = int(row["streams"]), row["p95_ms"]
        self.spent_s += spent_s
        self._num_tried += 1
        if not row["errors"] and p95_ms is not None and p95_ms <= self.target_ms:
            self.held = max(self.held, count)
        else:
            self.missed = min(self.missed or count, count)
        if self.missed:
            self._next = (self.held + self.missed) // 2
        else:
            full = count / max(0.01, row["cpu_percent"] / 100)
            self._next = max(count + 1, round(min(OVERSHOOT * full, MAX_GROWTH * count)))


def measure_streams(server: Server, tracks: Sequence[Track], num_streams: int, chunk_ms: int) -> dict[str, Any]:
    """The row of a server and a number of streams."""
    server.settle()
    offsets_s = np.random.default_rng(num_streams).uniform(0, chunk_ms / 1000, num_streams).tolist()
    spoken = [tracks[i % len(tracks)] for i in range(num_streams)]
    load = asyncio.run(load_streams(server, spoken, offsets_s, PIECE_S))
    found: list[float] = []
    for heard, track in zip(load.heard, spoken, strict=True):
        found += latencies_s(heard, len(track.pieces), chunk_ms)
    problems = [heard.problem for heard in load.heard if heard.problem]
    late_s = [late_s for heard in load.heard for late_s in heard.late_s]
    row = {
        "server": server.name,
        "streams": num_streams,
        "p50_ms": percentile_ms(found, 50),
        "p95_ms": percentile_ms(found, 95),
        "max_ms": percentile_ms(found, 100),
        "num_results": len(found),
        "cpu_percent": round(100 * load.server_share),
        "cpu_ms_per_stream_s": round(1000 * load.server_share / num_streams, 2),
        "others_percent": round(100 * load.others_share),
        "late_ms": percentile_ms(late_s, 99),
        "errors": len(problems),
        "first_error": problems[0] if problems else "",
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def percentile_ms(values_s: Sequence[float], percent: float) -> float | None:
    """A percentile; None of nothing."""
    return round(1000 * float(np.percentile(values_s, percent)), 1) if values_s else None


def check_streams(servers: Sequence[Server], tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Send all tracks to each server as fast as it goes, which warms it up, and compare what they say.

    Raises:
        ZipasrError: one fails, or says nothing.
    """
    texts = {}
    for server in servers:
        load = asyncio.run(load_streams(server, tracks, [0.0] * len(tracks), 0.0))
        problems = [heard.problem for heard in load.heard if heard.problem]
        texts[server.name] = [final_text(heard) for heard in load.heard]
        if problems:
            raise ZipasrError(f"{server.name} must take {len(tracks)} streams sent at once, but failed: {problems[0]}")
        if not any(texts[server.name]):
            raise ZipasrError(f"{server.name} must recognize something in this audio, but did not; give a trained model")
    return compare_texts(texts, [track.text for track in tracks])


def compare_texts(texts: Mapping[str, Sequence[str]], references: Sequence[str | None]) -> list[dict[str, Any]]:
    """Words of each server that are not those of the first, and that are not those that were said, in percent."""
    first = next(iter(texts.values()))
    rows = []
    for name, found in texts.items():
        known = [(said, text) for said, text in zip(references, found, strict=True) if said is not None]
        rows.append(
            {
                "server": name,
                "same_texts_percent": round(100 * float(np.mean([a == b for a, b in zip(first, found, strict=True)])), 1),
                "words_unlike_first_percent": round(error_rates(zip(first, found, strict=True)).words.rate, 2),
                "wer": round(error_rates(known).words.rate, 2) if known else None,
            }
        )
    return rows


def run_streams(servers: Sequence[Server], tracks: Sequence[Track], args: argparse.Namespace) -> dict[str, Any]:
    """Rows of all servers, measured in turns, and the most streams that each holds: the median of several rounds."""
    rows: list[dict[str, Any]] = []
    rounds: dict[str, list[StreamSearch]] = {server.name: [] for server in servers}
    for number in range(args.rounds):
        for server in servers:
            before = rounds[server.name]
            first = round(NEAR * before[-1].held) if before and before[-1].held else FIRST_STREAMS
            before.append(StreamSearch(args.target_latency_ms, args.streams, 60 * args.max_minutes, first))
        searches = {server: rounds[server.name][-1] for server in servers}
        while any(search.next_count() is not None for search in searches.values()):
            for server, search in searches.items():
                if (count := search.next_count()) is not None:
                    started_s = time.monotonic()
                    rows.append({**measure_streams(server, tracks, count, args.chunk_ms), "round": number})
                    search.learn(rows[-1], time.monotonic() - started_s)
    return {"rows": rows, "most": [_most(name, searches) for name, searches in rounds.items()]}


def _most(name: str, rounds: Sequence[StreamSearch]) -> dict[str, Any]:
    """The most streams that a server holds."""
    middle = sorted(rounds, key=lambda search: search.held)[len(rounds) // 2]
    return {
        "server": name,
        "streams": middle.held,
        "next_that_was_not_held": middle.missed or None,
        "streams_by_round": [search.held for search in rounds],
    }


def run_recordings(servers: Sequence[Server], prompts: Sequence[Prompt], args: argparse.Namespace) -> dict[str, Any]:
    """Rows of all servers and ways to ask, measured in turns, and how what they say differs.

    Raises:
        ZipasrError: one fails at once.
    """
    ways: list[tuple[str, Server, Connect]] = []
    for server in servers:
        if server.name == SHERPA:
            ways.append((f"{server.name}, WebSocket", server, socket_connection))
        else:
            ways.append((f"{server.name}, HTTP", server, http_connection))
            ways.append((f"{server.name}, WebSocket", server, functools.partial(socket_connection, path="/offline")))
    texts = {}
    for name, server, connect in ways:
        answers = ask_all(connect, server.port, prompts, len(prompts), args.clients)  # every prompt once; it warms up
        if answers.problems:
            raise ZipasrError(f"{name} must answer, but failed: {answers.problems[0]}")
        texts[name] = [answers.texts[i] for i in range(len(prompts))]
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in ways}
    for _ in range(max(args.rounds, FEWEST_TURNS)):
        for name, server, connect in ways:
            turns[name].append(_measure_recordings(server, connect, prompts, args))
    return {
        "rows": [_merged(name, measured) for name, measured in turns.items()],
        "texts": compare_texts(texts, _said(prompts)),
    }


def _said(prompts: Sequence[Prompt]) -> list[str | None]:
    return [prompt.text for prompt in prompts]


def _measure_recordings(
    server: Server, connect: Connect, prompts: Sequence[Prompt], args: argparse.Namespace
) -> dict[str, Any]:
    before, started_s = server.usage(), time.monotonic()
    answers = ask_all(connect, server.port, prompts, args.requests // max(args.rounds, FEWEST_TURNS), args.clients)
    wall_s = time.monotonic() - started_s
    return {"answers": answers, "wall_s": wall_s, "shares": server.shares_since(before)}


def _merged(name: str, turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row of a server's turns."""
    wall_s = sum(turn["wall_s"] for turn in turns)
    found = [latency_s for turn in turns for latency_s in turn["answers"].latencies_s]
    problems = [problem for turn in turns for problem in turn["answers"].problems]
    server_share, others_share = np.mean([turn["shares"] for turn in turns], axis=0)
    row = {
        "server": name,
        "files_per_s": round(len(found) / wall_s, 1),
        "files_per_s_by_turn": [round(len(turn["answers"].latencies_s) / turn["wall_s"], 1) for turn in turns],
        "sound_per_s": round(sum(sum(turn["answers"].sound_s) for turn in turns) / wall_s, 1),
        "p50_ms": percentile_ms(found, 50),
        "p95_ms": percentile_ms(found, 95),
        "cpu_percent": round(100 * server_share),
        "others_percent": round(100 * others_share),
        "errors": len(problems),
        "first_error": problems[0] if problems else "",
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def live_programs(folder: Path, args: argparse.Namespace) -> list[Program]:
    """Those that hear live sound."""
    lengths = ["--chunk-ms", str(args.chunk_ms), "--left-context-ms", str(args.left_context_ms)]
    exported = export(args.model, folder / "streaming_exported", *lengths)
    workers = ("--workers", str(args.workers), "--threads", str(args.workers))
    return [
        zipasr_program(PYTORCH, args.model, args.search, *lengths, *workers),
        zipasr_program(ONNX, exported, args.search, *workers),
        sherpa_program("online", exported, args.search),
    ]


def recording_programs(folder: Path, args: argparse.Namespace) -> list[Program]:
    """Those that take recordings."""
    exported = export(args.offline_model, folder / "offline_exported")
    workers = ("--workers", str(args.workers), "--threads", str(args.workers))
    return [
        zipasr_program(PYTORCH, args.offline_model, args.search, *workers),
        zipasr_program(ONNX, exported, args.search, *workers),
        sherpa_program("offline", exported, args.search),
    ]


def measure(prompts: Sequence[Prompt], args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {}

    def started(stack: ExitStack, programs: Sequence[Program]) -> list[Server]:
        wanted = [program for program in programs if program.name in args.servers]
        return [stack.enter_context(running(program, args.cores, folder)) for program in wanted]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ExitStack() as stack:
            servers = started(stack, live_programs(folder, args))
            tracks = [make_track(prompts, args.duration_s, seed) for seed in range(NUM_TRACKS)]
            texts = check_streams(servers, tracks)
            figures["streams"] = {**run_streams(servers, tracks, args), "texts": texts}
        if args.offline_model is not None:
            with ExitStack() as stack:
                servers = started(stack, recording_programs(folder, args))
                figures["recordings"] = run_recordings(servers, prompts, args)
    return figures


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Rows as a table; columns: titles of the keys that are shown."""
    print("| " + " | ".join(columns.values()) + " |\n|---|" + "---:|" * (len(columns) - 1))
    for row in rows:
        print("| " + " | ".join("—" if row[key] is None else str(row[key]) for key in columns) + " |")


def print_figures(figures: Mapping[str, Any], args: argparse.Namespace) -> None:
    """All tables."""
    times = {"p50_ms": "p50 ms", "p95_ms": "p95 ms"}
    costs = {"cpu_percent": "CPU %", "others_percent": "others %", "errors": "errors"}
    of_streams = {**times, "max_ms": "max ms", **costs, "cpu_ms_per_stream_s": "ms/s", "late_ms": "late ms"}
    agreement = {"same_texts_percent": "same texts %", "words_unlike_first_percent": "other words %", "wer": "WER %"}
    streams = figures["streams"]
    print(f"Streams of {args.duration_s:g} s, chunks of {args.chunk_ms} ms, {args.search} search, servers on {args.cores}")
    rows = sorted(streams["rows"], key=lambda row: (args.servers.index(row["server"]), row["streams"]))
    print_table(rows, {"server": "server", "streams": "streams", **of_streams})
    print(f"\nMost streams with 95 % of the latencies within {args.target_latency_ms:g} ms")
    held = {"server": "server", "streams": "held", "next_that_was_not_held": "not held", "streams_by_round": "by round"}
    print_table(streams["most"], held)
    print(f"\nWhat they say of {NUM_TRACKS} streams, beside the first")
    print_table(streams["texts"], {"server": "server", **agreement})
    others = max(row["others_percent"] for row in streams["rows"])
    print(
        f"\nOthers took up to {others} % of the servers' cores" + (": not a quiet machine" if others > NOISY_PERCENT else "")
    )
    if "recordings" in figures:
        recordings = figures["recordings"]
        print(f"\nRecordings, {args.requests} requests of {args.clients} clients, servers on {args.cores}")
        rates = {"files_per_s": "files/s", "sound_per_s": "s of sound per s"}
        print_table(recordings["rows"], {"server": "server", **rates, **times, **costs})
        print("\nWhat they say of each recording, beside the first")
        print_table(recordings["texts"], {"server": "server", **agreement})


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a causal model with a transducer")
    parser.add_argument("sound", type=Path, help="Lhotse cuts, or a folder of recordings")
    parser.add_argument("--offline-model", type=Path, help="for recordings (default: they are left out)")
    parser.add_argument("--chunk-ms", type=int, default=320)
    parser.add_argument("--left-context-ms", type=int, default=2560)
    parser.add_argument("--search", choices=["greedy", "beam"], default="greedy")
    parser.add_argument("--streams", type=_counts, default=(), help="numbers of them, as 4,8,16 (default: a search)")
    parser.add_argument("--duration-s", type=float, default=15.0, help="of each stream")
    parser.add_argument("--target-latency-ms", type=float, help="what 95 %% must be within (default: a chunk)")
    parser.add_argument("--max-minutes", type=float, default=3.0, help="of the search of each server")
    parser.add_argument("--clients", type=int, default=8, help="that ask for recordings at once")
    parser.add_argument("--requests", type=int, default=400, help="for recordings")
    parser.add_argument("--rounds", type=int, default=1, help="searches for the most streams, of which the median counts")
    parser.add_argument("--cores", type=_counts, help="of the servers, as 0,1 (default: the last); clients have the others")
    parser.add_argument("--workers", type=int, default=1, help="of zipasr's servers")
    parser.add_argument("--servers", nargs="+", choices=[PYTORCH, ONNX, SHERPA], default=[PYTORCH, ONNX, SHERPA])
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    if args.chunk_ms < _CHUNK_STEP_MS or args.chunk_ms % _CHUNK_STEP_MS:
        parser.error(f"--chunk-ms must be a multiple of {_CHUNK_STEP_MS}, but is {args.chunk_ms}")
    if args.target_latency_ms is None:
        args.target_latency_ms = float(args.chunk_ms)
    return args


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def settle_cores(args: argparse.Namespace) -> None:
    """Choose the cores of the servers, and leave them to them, unless that leaves none for the clients.

    Raises:
        ConfigError: there are not these cores, or only one.
    """
    cores = sorted(os.sched_getaffinity(0))
    args.cores = (cores[-1],) if args.cores is None else args.cores
    if not set(args.cores) <= set(cores) or len(cores) < 2:
        raise ConfigError(f"there must be cores {args.cores} for the servers, and two at least, but there are {cores}")
    os.sched_setaffinity(0, set(cores) - set(args.cores) or cores)
    torch.set_num_threads(1)


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that the servers are ended, too
    head = origin()
    try:
        settle_cores(args)
        figures = measure(read_prompts(args.sound), args)
    except ZipasrError as error:
        raise SystemExit(f"serving_load: error: {error}") from error
    print_figures(figures, args)
    if args.json:
        versions = {
            name: importlib.metadata.version(name) for name in ("torch", "onnxruntime", "sherpa-onnx-bin", "uvicorn")
        }
        given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        write(args.json, head | versions, given | figures)


if __name__ == "__main__":
    main()
