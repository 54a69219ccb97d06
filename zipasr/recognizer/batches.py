"""Short recordings (samples,) at 16 kHz -> transcripts: those of similar length are encoded in one batch, and the frames of
several batches are searched and aligned together."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.nn.encoded import join_batches
from zipasr.recognizer.engine import Engine
from zipasr.recognizer.transcripts import to_transcripts
from zipasr.search.graph import LoadedGraph
from zipasr.search.graph.rejection import judged
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.strategy import SearchConfig
from zipasr.transcript import Transcript

_CPU_BATCH_S, _EXPORTED_BATCH_S, _ACCELERATOR_BATCH_S = 60.0, 30.0, 600.0
# On two CPU cores the encoder's time per second of audio is flat from 8 to 60 s in a batch and a third higher at 240 s,
# which no longer fits the caches (`small`, sentences of 4 s and of 30 s). Exported `small` takes 16 ms per second at 15 s in
# a batch, 17 at 30 s and 19 at 60 s (sentences of 7.5 s, one core). An accelerator needs many at once.
_SEARCH_S = 120.0
"""Audio that is searched at once, padding included. A search takes as many calls for many utterances as for the longest of
them; scores of 5,000 labels take 60 MB."""
_CHUNKED_BATCH_S, _CHUNKED_RUN_UTTERANCES = 240.0, 2.5
"""The same for graphs of chunks, which run for every chunk of the longest: a run of 1, 4 and 16 streams takes 4.9, 8.7 and
26 ms (`prompts:streaming`), and 14, 26 and 67 ms (`small`)."""
_RUN_FRAMES, _EXPORTED_RUN_FRAMES = 300, 120
"""What a run of the encoder on a CPU costs beside its frames, in frames at 100 Hz: 410 for `tiny` and 270 for `small`, for
exported `tiny` 100 to 140 (one thread, batches of 1 to 8 utterances of 1 to 8 s)."""


def transcribe_batches(
    engine: Engine,
    recordings: Sequence[np.ndarray],
    search: SearchConfig,
    *,
    hotwords: HotwordGraph | None = None,
    graphs: Sequence[LoadedGraph] = (),
    max_batch_s: float | None = None,
    use_true_times: bool = True,
) -> list[Transcript]:
    """A transcript of each recording; see `Recognizer.transcribe_many`. `resolve_search` must have checked the search.

    `graphs` has one for each recording, or none at all.
    """
    durations_s = [len(samples) / SAMPLE_RATE_HZ for samples in recordings]
    lens = [engine.fbank.num_frames(len(samples)) for samples in recordings]
    slots: dict[str, object] | None = {} if graphs else None
    transcripts = [Transcript("", duration_s=duration_s, slots=slots) for duration_s in durations_s]
    calibration = engine.calibrations.get(search.method)
    for batches in _searched_together(plan_batches(engine, lens, max_batch_s=max_batch_s), lens):
        group = [i for batch in batches for i in batch]
        features = {i: engine.fbank(recordings[i]) for i in group}
        encoded = join_batches([engine.encode([features[i] for i in batch]) for batch in batches])
        chosen = [graphs[i] for i in group] if graphs else []
        ranked = engine.find(encoded, search, hotwords=hotwords, graphs=[graph.graph for graph in chosen])
        if chosen:
            ranked = [judged(hypotheses, graph) for hypotheses, graph in zip(ranked, chosen, strict=True)]
        made = to_transcripts(
            engine,
            encoded,
            [features[i] for i in group],
            ranked,
            [durations_s[i] for i in group],
            calibration,
            use_true_times=use_true_times,
        )
        for i, transcript in zip(group, made, strict=True):
            transcripts[i] = transcript
    return transcripts


def plan_batches(engine: Engine, lens: Sequence[int], *, max_batch_s: float | None = None) -> Iterator[list[int]]:
    """Indices of recordings that go into one batch, longest first; those too short for a single frame are dropped.

    On a CPU the batches are those that cost least in total, where padding costs as much as audio and every batch something
    besides; elsewhere they are as full as possible.

    Args:
        lens: number of features of each recording, at 100 Hz.
        max_batch_s: seconds of audio in a batch, padding included; a longer recording is a batch of its own. None: 60 on a
            CPU, 30 for exported graphs, 240 for those of chunks, 600 elsewhere.
    Raises:
        ValueError: `max_batch_s` is not positive.
    """
    is_cpu, is_exported = engine.device.type == "cpu", not isinstance(engine.scorer, nn.Module)
    is_chunked = is_exported and engine.chunk_sizes is not None
    if max_batch_s is None and is_exported:
        max_batch_s = _CHUNKED_BATCH_S if is_chunked else _EXPORTED_BATCH_S
    elif max_batch_s is None:
        max_batch_s = _CPU_BATCH_S if is_cpu else _ACCELERATOR_BATCH_S
    if not max_batch_s > 0:
        raise ValueError(f"max_batch_s must be positive, but is {max_batch_s}")
    long_enough = [i for i, length in enumerate(lens) if engine.scorer.output_length(length) > 0]
    order = sorted(long_enough, key=lambda i: -lens[i])
    padded = [lens[i] + engine.tail_padding_frames for i in order]
    max_frames = max_batch_s * FEATURE_RATE_HZ
    if is_chunked:
        sizes = _cheapest_batches(padded, 0, max_frames, run_utterances=_CHUNKED_RUN_UTTERANCES)
    elif is_cpu:
        sizes = _cheapest_batches(padded, _EXPORTED_RUN_FRAMES if is_exported else _RUN_FRAMES, max_frames)
    else:
        sizes = _full_batches(padded, max_frames)
    start = 0
    for size in sizes:
        yield order[start : start + size]
        start += size


def _full_batches(lens: Sequence[int], max_frames: float) -> list[int]:
    """Sizes of the batches of recordings, longest first, if each takes as many as fit."""
    sizes: list[int] = []
    longest = 0
    for length in lens:
        if sizes and longest * (sizes[-1] + 1) <= max_frames:
            sizes[-1] += 1
        else:
            sizes.append(1)
            longest = length
    return sizes


def _cheapest_batches(
    lens: Sequence[int], run_frames: float, max_frames: float, *, run_utterances: float = 0.0
) -> list[int]:
    """Sizes of the batches of recordings, longest first, with the least cost in total.

    A batch costs `run_frames`, its frames, padding included, and as much as `run_utterances` more of its longest utterance.
    The best division of the first recordings ends in one batch and is, before it, the best of the recordings before.
    """
    costs, last_sizes = [0.0], [0]
    for stop in range(1, len(lens) + 1):
        best, best_size = math.inf, 0
        for size in range(1, stop + 1):
            longest = lens[stop - size]
            if size > 1 and longest * size > max_frames:
                break
            cost = costs[stop - size] + run_frames + longest * (size + run_utterances)
            if cost < best:
                best, best_size = cost, size
        costs.append(best)
        last_sizes.append(best_size)
    sizes, stop = [], len(lens)
    while stop:
        sizes.append(last_sizes[stop])
        stop -= last_sizes[stop]
    return sizes[::-1]


def _searched_together(batches: Iterator[list[int]], lens: Sequence[int]) -> Iterator[list[list[int]]]:
    """Batches, longest first, in groups whose frames are searched at once."""
    group: list[list[int]] = []
    for batch in batches:
        num_utterances = sum(map(len, group)) + len(batch)
        if group and num_utterances * lens[group[0][0]] > _SEARCH_S * FEATURE_RATE_HZ:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group
