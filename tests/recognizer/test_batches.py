"""Batches of short recordings. Reference: the cheapest of all divisions. Law: every recording once, batches no larger than
allowed, results that do not depend on what is searched together."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_model import noise, tiny_asr_model, tiny_recognizer, tiny_tokenizer
from zipasr.recognizer import Recognizer, SearchConfig, transcripts
from zipasr.recognizer import batches as module
from zipasr.recognizer import recognizer as recognizer_module
from zipasr.recognizer.batches import plan_batches
from zipasr.transcript import Transcript

LENS = [300, 310, 90, 900, 40, 95, 120, 0, 305, 5]


def cost_of(sizes: Sequence[int], lens: Sequence[int], run_frames: int, run_utterances: float) -> float:
    starts = list(itertools.accumulate(sizes, initial=0))
    return sum(run_frames + lens[start] * (size + run_utterances) for start, size in zip(starts, sizes, strict=False))


def cheapest(lens: Sequence[int], run_frames: int, max_frames: int, run_utterances: float) -> float:
    """The least cost of all divisions of recordings, longest first."""
    costs = []
    for cuts in itertools.product([False, True], repeat=len(lens) - 1):
        sizes = [1]
        for is_cut in cuts:
            if is_cut:
                sizes.append(1)
            else:
                sizes[-1] += 1
        starts = itertools.accumulate(sizes, initial=0)
        if all(size == 1 or lens[start] * size <= max_frames for start, size in zip(starts, sizes, strict=False)):
            costs.append(cost_of(sizes, lens, run_frames, run_utterances))
    return min(costs)


@pytest.mark.parametrize("run_frames", [0, 50, 120, 1000])
@pytest.mark.parametrize("max_frames", [100, 650, 3000])
@pytest.mark.parametrize("run_utterances", [0.0, 2.5])
def test_the_batches_are_the_cheapest(run_frames: int, max_frames: int, run_utterances: float) -> None:
    lens = sorted(LENS, reverse=True)
    sizes = module._cheapest_batches(lens, run_frames, max_frames, run_utterances=run_utterances)
    assert sum(sizes) == len(lens)
    assert cost_of(sizes, lens, run_frames, run_utterances) == cheapest(lens, run_frames, max_frames, run_utterances)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("max_batch_s", [0.1, 5.0, None])
def test_every_recording_is_in_one_batch(device: str, max_batch_s: float | None) -> None:
    engine = dataclasses.replace(tiny_recognizer().engine, device=torch.device(device))
    batches = list(plan_batches(engine, LENS, max_batch_s=max_batch_s))
    found = [i for batch in batches for i in batch]
    assert sorted(found) == [i for i, length in enumerate(LENS) if engine.scorer.output_length(length) > 0]
    assert [LENS[i] for i in found] == sorted((LENS[i] for i in found), reverse=True)
    for batch in batches:
        padded_s = (LENS[batch[0]] + engine.tail_padding_frames) / 100 * len(batch)
        assert len(batch) == 1 or padded_s <= (max_batch_s or (60.0 if device == "cpu" else 600.0))
    assert list(plan_batches(engine, [], max_batch_s=max_batch_s)) == []


def test_an_accelerator_gets_full_batches() -> None:
    engine = dataclasses.replace(tiny_recognizer().engine, device=torch.device("meta"), tail_padding_frames=0)
    assert list(plan_batches(engine, [100, 100, 100, 400, 100], max_batch_s=8.0)) == [[3, 0], [1, 2, 4]]


@pytest.mark.parametrize("method", ["greedy", "beam", "ctc_greedy", "attention_rescoring"])
def test_what_is_searched_together_changes_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = tiny_recognizer(method)
    recordings = [noise(duration_s, seed) for seed, duration_s in enumerate((1.3, 0.4, 2.9, 0.01, 0.7, 2.1))]
    together = recognizer.transcribe_many(recordings, max_batch_s=3.5)
    assert any(transcript.text for transcript in together)
    monkeypatch.setattr(module, "_SEARCH_S", 0.0)
    for found, expected in zip(recognizer.transcribe_many(recordings, max_batch_s=3.5), together, strict=True):
        assert found.text == expected.text
        assert [(t.start_s, t.end_s) for t in found.tokens] == [(t.start_s, t.end_s) for t in expected.tokens]
        assert found.score == pytest.approx(expected.score, abs=1e-2)


def test_without_true_times_nothing_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = tiny_recognizer("greedy")
    samples = [noise(2.0, seed) for seed in range(2)]
    timed = recognizer.transcribe_many(samples)
    monkeypatch.setattr(transcripts, "align_hypotheses", lambda *_, **__: pytest.fail("nothing must be aligned"))
    untimed = recognizer.transcribe_many(samples, use_true_times=False)
    for found, expected in zip(untimed, timed, strict=True):
        assert found.text == expected.text
        assert [token.log_prob for token in found.tokens] == [token.log_prob for token in expected.tokens]
        assert [word.confidence for word in found.words] == [word.confidence for word in expected.words]
        assert [token.end_s for token in found.tokens] == sorted(token.end_s for token in found.tokens)


def test_too_short_recordings_are_left_out() -> None:
    transcripts = tiny_recognizer().transcribe_many([np.zeros(0, np.float32)] * 2)
    assert [transcript.text for transcript in transcripts] == ["", ""]


@pytest.mark.parametrize(
    ("num_best", "default", "expected"), [(6, 8, 8), (6, 4, 6), (9, 8, 9), (2, 8, 8), (6, None, 6), (2, None, 4)]
)
def test_a_list_never_narrows_a_default_beam(
    num_best: int, default: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches, transcribe = list[SearchConfig](), recognizer_module.transcribe_batches

    def recorded(engine: Any, recordings: Any, search: SearchConfig, **settings: Any) -> list[Transcript]:
        searches.append(search)
        return transcribe(engine, recordings, search, **settings)

    monkeypatch.setattr(recognizer_module, "transcribe_batches", recorded)
    known = SearchConfig(method="joint", beam=default) if default is not None else None
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), default_search=known)
    recognizer.transcribe_many([noise(0.5)], num_best=num_best)
    assert [(search.beam, search.num_best) for search in searches] == [(expected, num_best)]
