"""Tables of time and memory, by name; tables.py writes them into the pages."""

from collections.abc import Callable

from tabulation import Record, grid, measured, record, records, spread

SERVERS = {
    "zipasr PyTorch": "`zipasr serve exp/streaming`",
    "zipasr ONNX": "`zipasr serve EXPORTED`",
    "sherpa-onnx": "`sherpa-onnx-online-websocket-server` on the same graphs",
}
RECORDING_SERVERS = {
    "zipasr PyTorch, HTTP": "`zipasr serve exp/quickstart`, HTTP",
    "zipasr PyTorch, WebSocket": "the same, WebSocket",
    "zipasr ONNX, HTTP": "`zipasr serve EXPORTED`, HTTP",
    "zipasr ONNX, WebSocket": "the same, WebSocket",
    "sherpa-onnx, WebSocket": "`sherpa-onnx-offline-websocket-server` on the same graphs (it has none for HTTP)",
}
SEARCHES = {
    "greedy": "greedy",
    "greedy, hotwords": "with hotwords",
    "beam 4": "beam 4",
    "beam 4, hotwords": "with hotwords",
    "beam 8": "beam 8",
    "CTC greedy": "CTC greedy",
    "CTC beam 4": "CTC beam 4",
    "CTC beam 4, hotwords": "with hotwords",
    "alignment": "alignment",
}
_MAIN_SEARCHES = ("greedy", "beam 4", "CTC greedy")
_OPERATIONS = 9
_PHASES = ("index", "begin", "resume")


def train_step() -> str:
    """A training step and an encoder pass of the small model."""
    found = record("train_step")
    names = {"step": "training step, 4 x 10 s", "encoder": "encoder, 30 s"}
    rows = [
        (
            names[row["case"]],
            row["threads"],
            f"{spread((row['median_s'], row['min_s'], row['max_s']), 2)} s",
            f"{row['peak_mib']:.0f} MiB",
        )
        for row in found["rows"]
        if row["matmul"] == "fast"
    ]
    return f"{grid(('`small`', 'threads', 'time', 'peak memory'), rows)}\n\n{measured(found)}"


def train_throughput() -> str:
    """A complete training step."""
    row = record("train_throughput")
    header = ("batch", "threads", "step", "x real time", "TFLOP/s")
    times = spread((row["step_s"], row["min_s"], row["max_s"]), 2)
    cells = (row["batch"], row["threads"], f"{times} s", f"{row['hours_per_hour']:.0f}", f"{row['tflops']:.2f}")
    return f"{grid(header, [cells])}\n\n{measured(row)}"


def scaled_adam() -> str:
    """Steps of ScaledAdam and of AdamW, beside both kinds of AdamW."""
    found = record("scaled_adam")
    header = ("optimizer", "ms", "of AdamW foreach", "of AdamW fused", "state (MB)", "more memory in a step (MB)")
    rows = []
    for row in found["rows"]:
        ratios = [
            spread((row[key], row[f"{key}_p10"], row[f"{key}_p90"]), 2) if row[key] != 1 else "1"
            for key in ("to_foreach", "to_fused")
        ]
        memory = [f"{row[key] / 1e6:.0f}" for key in ("state_bytes", "peak_extra_bytes")]
        rows.append((row["optimizer"], f"{row['median_ms']:.0f}", *ratios, *memory))
    return f"{grid(header, rows)}\n\n{measured(found)}"


def transducer_loss() -> str:
    """Forward and backward pass of the transducer losses."""
    found = record("transducer_loss")
    names = {"simple": "simple loss", "pruned": "pruned loss, given the logits", "all": "both, with pruning and joiner"}
    rows = [
        (
            names[row["case"]],
            row["threads"],
            f"{spread((row['median_ms'], row['min_ms'], row['max_ms']), 0)} ms",
            f"{row['peak_mib']:.0f} MiB",
        )
        for row in found["results"]
    ]
    return f"{grid(('loss', 'threads', 'time', 'peak memory'), rows)}\n\n{measured(found)}"


def real_time_factors() -> str:
    """Processor time of the encoders, and of every search in percent of it."""
    found = record("real_time_factor")
    rows = [
        (
            row["model"],
            spread(row["encoder_rtf"], 4),
            *(f"{100 * row['shares'][search][0]:.1f}" for search in SEARCHES),
        )
        for row in found["rows"]
    ]
    return f"{grid(('model', 'encoder', *SEARCHES.values()), rows)}\n\n{measured(found)}"


def export_speed() -> str:
    """The plain and the simplified graph."""
    found = record("export_speed")
    rows = [
        (
            f"{row['seconds']:g} s",
            found["threads"],
            *(f"{row['times_ms'][name]:.0f} ms" for name in ("plain", "simplified")),
            f"{row['gain']:.2f}",
        )
        for row in found["rows"]
    ]
    return f"{grid(('audio', 'threads', 'plain', 'simplified', 'speedup'), rows)}\n\n{measured(found)}"


def export_operations() -> str:
    """What takes the time of both graphs."""
    found = record("export_speed")
    times = found["rows"][0]["by_operation_ms"]
    largest = sorted(times["plain"], key=lambda name: -times["plain"][name])[:_OPERATIONS]
    more = [name for name in list(times["simplified"])[:_OPERATIONS] if name not in largest]
    rows = [
        (name, *(f"{times[graph].get(name, 0):.0f} ms" for graph in ("plain", "simplified"))) for name in [*largest, *more]
    ]
    return f"{grid(('operation', 'plain', 'simplified'), rows)}\n\n{measured(found)}"


def long_recordings() -> str:
    """Three hours with a detector and in windows."""
    found = {line["windows"]: line for line in records("long_recording") if line["set"] == "test"}
    lines = [found[False], found[True]]

    def words(key: str, place: int) -> list[str]:
        counts = [line["against_one_by_one [near seams, elsewhere]"] for line in lines]
        return [f"{c[key][place]} of {c['words'][place]} ({100 * c[key][place] / c['words'][place]:.1f} %)" for c in counts]

    def hours(key: str) -> list[str]:
        return [", ".join(f"{value:.4f}" for value in line[key]) for line in lines]

    one_by_one = lines[0]["wer_one_by_one"]
    rows = [
        ("processor seconds per second of audio, first, second, third hour", *hours("cpu_by_third")),
        ("real-time factor, the same hours", *hours("real_time_factor_by_third")),
        ("peak memory", *(f"{line['peak_mib']} MiB" for line in lines)),
        ("pieces (with overlap)", *(f"{line['num_pieces']} ({line['num_overlaps']})" for line in lines)),
        ("fraction of the recording that is transcribed", *(f"{line['transcribed_share']:.2f}" for line in lines)),
        (
            f"word error rate; with the prompts cut out at their true ends and transcribed one by one: {one_by_one:.2f} %",
            *(f"{line['wer']:.2f} %" for line in lines),
        ),
        ("lost near a cut, of the words found one by one", *words("lost", 0)),
        ("lost elsewhere", *words("lost", 1)),
        ("added near a cut", *words("added", 0)),
        ("added elsewhere", *words("added", 1)),
    ]
    return f"{grid(('', 'detector', 'windows'), rows)}\n\n{measured(*lines)}"


def serving_streams() -> str:
    """Live streams that each server sustains."""
    found = record("serving_load")
    header = ("server", "streams per core", "in each round", "95th percentile", "processor time a stream and second")
    measurements = {(row["server"], row["streams"]): row for row in found["streams"]["rows"]}
    rows = []
    for most in found["streams"]["most"]:
        row = measurements[most["server"], most["streams"]]
        by_round = ", ".join(map(str, most["streams_by_round"]))
        rows.append((SERVERS[most["server"]], most["streams"], by_round, *_latency_and_cost(row)))
    return f"{grid(header, rows)}\n\n{measured(found)}"


def serving_few_streams() -> str:
    """Latency of servers with few live streams."""
    found = records("serving_workers")[0]
    header = ("server", "streams", "95th percentile", "processor time a stream and second")
    rows = [(SERVERS[row["server"]], row["streams"], *_latency_and_cost(row)) for row in found["streams"]["rows"]]
    return f"{grid(header, rows)}\n\n{measured(found)}"


def serving_workers() -> str:
    """Live streams of a server with one and two workers."""
    found = records("serving_workers")[1:]
    header = ("workers", "streams", "95th percentile", "processor time a stream and second")
    rows = [(line["workers"], row["streams"], *_latency_and_cost(row)) for line in found for row in line["streams"]["rows"]]
    return f"{grid(header, rows)}\n\n{measured(*found)}"


def _latency_and_cost(row: Record) -> tuple[str, str]:
    return f"{row['p95_ms']:.0f} ms", f"{row['cpu_ms_per_stream_s']:.1f} ms"


def serving_recordings() -> str:
    """Recordings that each server takes."""
    found = record("serving_load")
    rows = [
        (
            RECORDING_SERVERS[row["server"]],
            f"{row['files_per_s']:.0f}",
            f"{row['sound_per_s']:.0f}",
            f"{row['p95_ms']:.0f} ms",
        )
        for row in found["recordings"]["rows"]
    ]
    return f"{grid(('server', 'files per second', 'x real time', '95th percentile'), rows)}\n\n{measured(found)}"


def data_scale() -> str:
    """Start of a run on large data."""
    found = record("data_scale")
    header = ("cuts", "index and vocabulary, once", "start to first batch", "resume", "memory", "while it plans")
    rows = []
    for size in dict.fromkeys(row["cuts"] for row in found["rows"]):
        index, begin, resume = ({row["phase"]: row for row in found["rows"] if row["cuts"] == size}[p] for p in _PHASES)
        memory = [f"{begin[key] / 1024:.2f} GiB" for key in ("main_anonymous_mib", "main_peak_mib")]
        times = [sum(index["seconds"].values()), begin["total_s"], resume["total_s"]]
        rows.append((f"{size:,}", *(f"{seconds:.1f} s" for seconds in times), *memory))
    return f"{grid(header, rows)}\n\n{measured(found)}"


def busy_machine() -> str:
    """Training steps beside other programs."""
    found = record("busy_machine")
    policies = [(1, "default"), (2, "default"), (2, "passive"), (2, "spin=10000")]
    names = ("one thread", "two that spin", "two that sleep (zipasr's choice)", "two, spin limited")
    rates = {(r["preset"], r["loops"], r["threads"], r["policy"]): r["steps_per_s"] for r in found["rows"]}
    rows = []
    for preset in ("tiny", "small"):
        for loops in (0, 2):
            what = f"`{preset}`, {'idle machine' if loops == 0 else 'beside two busy loops'}"
            rows.append((what, *(f"{rates[preset, loops, *policy]:.2f}" for policy in policies)))
    return f"{grid(('training steps per second', *names), rows)}\n\n{measured(found)}"


def encoders() -> str:
    """The paper's table 2 beside ours."""
    found = records("profile")[0]
    header = (
        "model",
        "type",
        "parameters (M): paper",
        "ours",
        "GFLOPs: paper",
        "ours",
        "difference",
        "time (s)",
        "memory (MiB)",
    )
    rows = [
        (
            row["published"]["title"],
            row["published"]["type"],
            row["published"]["params_m"],
            f"{row['published_like_params'] / 1e6:.2f}",
            row["published"]["gflops"],
            f"{row['gflops']:.2f}",
            f"{row['gflops_difference']:+.1f} %",
            f"{row['measured']['time_s']:.3f}",
            f"{row['measured']['peak_mib']:.0f}",
        )
        for row in found["output"]
    ]
    return f"{grid(header, rows, 2)}\n\n{measured(found)}"


def encoder_speed() -> str:
    """The three published sizes and the quick start's: encoder and main searches."""
    found = record("real_time_factor")
    rows = [
        (row["model"], spread(row["encoder_rtf"], 4), *(f"{100 * row['shares'][name][0]:.1f} %" for name in _MAIN_SEARCHES))
        for row in found["rows"]
    ]
    return f"{grid(('model', 'encoder', *_MAIN_SEARCHES), rows)}\n\n{measured(found)}"


TABLES: dict[str, Callable[[], str]] = {
    "busy-machine": busy_machine,
    "data-scale": data_scale,
    "encoder-speed": encoder_speed,
    "encoders": encoders,
    "export-operations": export_operations,
    "export-speed": export_speed,
    "long-recordings": long_recordings,
    "real-time-factors": real_time_factors,
    "scaled-adam": scaled_adam,
    "serving-recordings": serving_recordings,
    "serving-few-streams": serving_few_streams,
    "serving-streams": serving_streams,
    "serving-workers": serving_workers,
    "train-step": train_step,
    "train-throughput": train_throughput,
    "transducer-loss": transducer_loss,
}
