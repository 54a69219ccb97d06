"""Short recordings (samples,) at 16 kHz -> transcripts: those of similar length are encoded and searched in one batch."""

from collections.abc import Iterator, Sequence

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.recognizer.engine import Engine
from zipasr.recognizer.transcripts import to_transcripts
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.strategy import SearchConfig
from zipasr.transcript import Transcript

_CPU_BATCH_S, _ACCELERATOR_BATCH_S = 60.0, 600.0
# On two CPU cores the encoder's time per second of audio is flat from 8 to 60 s in a batch and a third higher at 240 s,
# which no longer fits the caches (`small`, sentences of 4 s and of 30 s); an accelerator needs many at once.
_CPU_SHORTEST_SHARE = 0.6
"""On a CPU, nothing shorter than this share of the longest goes into its batch: padding costs as much as audio. Eight
prompts of mixed lengths are transcribed 1.2 times as fast as in one batch (`tiny`, one core); 0.5 to 0.8 are alike."""


def transcribe_batches(
    engine: Engine,
    recordings: Sequence[np.ndarray],
    search: SearchConfig,
    *,
    hotwords: HotwordGraph | None = None,
    max_batch_s: float | None = None,
) -> list[Transcript]:
    """A transcript of each recording; see `Recognizer.transcribe_many`. `resolve_search` must have checked the search."""
    durations_s = [len(samples) / SAMPLE_RATE_HZ for samples in recordings]
    lens = [engine.fbank.num_frames(len(samples)) for samples in recordings]
    transcripts = [Transcript("", duration_s=duration_s) for duration_s in durations_s]
    for batch in plan_batches(engine, lens, max_batch_s=max_batch_s):
        features = [engine.fbank(recordings[i]) for i in batch]
        encoded = engine.encode(features)
        ranked = engine.find(encoded, search, hotwords=hotwords)
        calibration = engine.calibrations.get(search.method)
        made = to_transcripts(engine, encoded, features, ranked, [durations_s[i] for i in batch], calibration)
        for i, transcript in zip(batch, made, strict=True):
            transcripts[i] = transcript
    return transcripts


def plan_batches(engine: Engine, lens: Sequence[int], *, max_batch_s: float | None = None) -> Iterator[list[int]]:
    """Indices of recordings that go into one batch, longest first; those too short for a single frame are dropped.

    Args:
        engine: the model.
        lens: number of features of each recording, at 100 Hz.
        max_batch_s: seconds of audio in a batch, padding included; a longer recording is a batch of its own. None: 60 on a
            CPU, 600 elsewhere.
    Raises:
        ValueError: `max_batch_s` is not positive.
    """
    is_cpu = engine.device.type == "cpu"
    if max_batch_s is None:
        max_batch_s = _CPU_BATCH_S if is_cpu else _ACCELERATOR_BATCH_S
    if not max_batch_s > 0:
        raise ValueError(f"max_batch_s must be positive, but is {max_batch_s}")
    long_enough = [i for i, length in enumerate(lens) if engine.scorer.output_length(length) > 0]
    shortest_share = _CPU_SHORTEST_SHARE if is_cpu else 0.0
    batch: list[int] = []
    for i in sorted(long_enough, key=lambda i: -lens[i]):
        longest, own = (lens[j] + engine.tail_padding_frames for j in (batch[0] if batch else i, i))
        is_full = longest * (len(batch) + 1) > max_batch_s * FEATURE_RATE_HZ
        if batch and (is_full or own < shortest_share * longest):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
