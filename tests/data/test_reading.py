"""Reading. Law: reading from any position gives the same batches as reading from the start; ranks share the batches, and
each batch is read once."""

import dataclasses
import logging
import os
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.tone_batches import CONFIG, assert_same, tone_cuts, tone_tokenizer
from zipasr.data.batching import Batch, BatchConfig, BatchReader, ReadBatch
from zipasr.data.plan import BatchPlan
from zipasr.data.reading import PlacedBatch, read_batches
from zipasr.errors import DataError
from zipasr.features import FbankConfig
from zipasr.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return tone_cuts(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tone_tokenizer()


def make(cuts: list[Any], tokenizer: Tokenizer, config: BatchConfig = CONFIG) -> tuple[BatchPlan, BatchReader]:
    plan = BatchPlan([cut.duration for cut in cuts], config, seed=1)
    return plan, BatchReader(cuts, tokenizer, FbankConfig(), config, seed=1)


def read(
    cuts: list[Any],
    tokenizer: Tokenizer,
    config: BatchConfig = CONFIG,
    *,
    place: tuple[int, int] = (0, 0),
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> list[PlacedBatch]:
    plan, reader = make(cuts, tokenizer, config)
    return list(
        read_batches(
            plan,
            reader,
            start=place,
            num_epochs=2,
            num_workers=num_workers,
            rank=rank,
            world_size=world_size,
        )
    )


def content(placed: PlacedBatch) -> Batch:
    assert placed.batch is not None
    return placed.batch


def test_no_batch_is_padded_beyond_the_limit(cuts: list, tokenizer: Tokenizer) -> None:
    for placed in read(cuts, tokenizer):
        num, frames = content(placed).features.shape[:2]
        assert num == 1 or num * frames <= 100 * CONFIG.max_duration_s + num  # each differs by one frame of rounding


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_reading_equals_reading_from_the_start(cuts: list, tokenizer: Tokenizer, num_workers: int) -> None:
    random.seed(0)
    np.random.seed(0)
    whole = read(cuts, tokenizer)
    places = [(placed.epoch, placed.batch_index) for placed in whole]
    assert places == sorted(places)
    assert {epoch for epoch, _ in places} == {0, 1}
    assert [placed.is_last for placed in whole] == [
        i + 1 == len(places) or places[i + 1][1] == 0 for i in range(len(places))
    ]
    for start in {1, len(whole) // 2, len(whole) - 1} if num_workers == 0 else {len(whole) // 2}:
        random.seed(start)
        np.random.seed(start)
        torch.manual_seed(start)
        tail = read(cuts, tokenizer, place=places[start], num_workers=num_workers)
        assert [placed[:3] for placed in tail] == [placed[:3] for placed in whole[start:]]
        for ours, theirs in zip(tail, whole[start:], strict=True):
            assert_same(content(ours), content(theirs))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_leaves_the_random_state_alone(cuts: list, tokenizer: Tokenizer, num_workers: int) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    read(cuts, tokenizer, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_bytes", [0, 60_000, 2**20])
def test_cache_changes_nothing(cuts: list, tokenizer: Tokenizer, num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(cuts, tokenizer)
    config = dataclasses.replace(CONFIG, cache_mb=1)
    plan, reader = make(cuts, tokenizer, config)
    object.__setattr__(config, "cache_mb", num_bytes / 2**20)  # a cache this small drops its entries
    found = list(read_batches(plan, reader, num_epochs=2, num_workers=0))
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(content(ours), content(theirs))
    held = sum(utterance.features.numel() * 4 for utterance in reader._cache.values())
    assert held == reader._cache_bytes <= num_bytes
    assert (held > 0) == (num_bytes > 0)


class _Dies(BatchReader):
    def read(self, key: object) -> ReadBatch:
        os._exit(9)


def test_reader_process_that_dies(cuts: list, tokenizer: Tokenizer) -> None:
    plan, _ = make(cuts, tokenizer)
    reader = _Dies(cuts, tokenizer, FbankConfig(), CONFIG, seed=0)
    with pytest.raises(DataError, match="lower num_workers"):
        list(read_batches(plan, reader, num_epochs=1, num_workers=1))


@pytest.mark.parametrize("world_size", [3, 4])
def test_ranks_share_the_batches(cuts: list[Any], tokenizer: Tokenizer, world_size: int) -> None:
    whole = read(cuts, tokenizer)
    of_rank = [read(cuts, tokenizer, rank=rank, world_size=world_size) for rank in range(world_size)]
    sizes = Counter(placed.epoch for placed in whole)
    assert any(size % world_size for size in sizes.values())
    assert len({tuple(placed[:3] for placed in parts) for parts in of_rank}) == 1
    steps = Counter(placed.epoch for placed in of_rank[0])
    assert steps == {epoch: -(-size // world_size) for epoch, size in sizes.items()}
    assert sum(placed.is_last for placed in of_rank[0]) == 2
    for placed in whole:
        rank, index = placed.batch_index % world_size, placed.batch_index // world_size
        found = next(p for p in of_rank[rank] if (p.epoch, p.batch_index) == (placed.epoch, index))
        assert_same(content(found), content(placed))
    assert sum(placed.batch is not None for parts in of_rank for placed in parts) == len(whole)
    tail = read(cuts, tokenizer, place=(0, 2), rank=1, world_size=world_size)
    assert [placed[:3] for placed in tail] == [placed[:3] for placed in of_rank[1][2:]]
    assert [p.batch.ids if p.batch else None for p in tail] == [p.batch.ids if p.batch else None for p in of_rank[1][2:]]


def test_rank_that_is_not_there(cuts: list[Any], tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="rank must be from 0 to world_size - 1, but is 2 of 2"):
        read(cuts, tokenizer, rank=2, world_size=2)


def gone(cut: Any) -> Any:
    source = dataclasses.replace(cut.recording.sources[0], source=f"/no/such/{cut.id}.flac")
    return dataclasses.replace(cut, recording=dataclasses.replace(cut.recording, sources=[source]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_audio_is_named_once_and_the_rest_is_read(
    cuts: list[Any], tokenizer: Tokenizer, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    some = [gone(cut) if cut.id == "3" else cut for cut in cuts]
    with caplog.at_level(logging.WARNING):
        found = read(some, tokenizer, num_workers=num_workers)
    assert caplog.text.count("skipped 1 of 7 utterances: the audio of 3 (") == 1
    assert len(caplog.records) == 1
    whole = read(cuts, tokenizer)
    assert [placed[:3] for placed in found] == [placed[:3] for placed in whole]
    names = Counter(name for p in found if p.batch for ids in p.batch.ids for name in ids.split("+"))
    assert names == {cut.id: 6 for cut in cuts if cut.id != "3"}
    middle = next(i for i, placed in enumerate(found) if placed.batch_index == 2)
    for ours, theirs in zip(read(some, tokenizer, place=(0, 2)), found[middle:], strict=True):
        assert ours[:3] == theirs[:3]
        if ours.batch is None or theirs.batch is None:
            assert ours.batch is theirs.batch
        else:
            assert_same(content(ours), content(theirs))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_much_unreadable_audio_stops(cuts: list[Any], tokenizer: Tokenizer, num_workers: int) -> None:
    some = [gone(cut) if cut.id in "35" else cut for cut in cuts]
    message = (
        r"^the audio of [35] \(.*[35]\.flac\) can no longer be read: .*; run zipasr prepare again\. 2 of \d+ utterances"
    )
    with pytest.raises(DataError, match=message):
        read(some, tokenizer, num_workers=num_workers)
    read(some, tokenizer, dataclasses.replace(CONFIG, max_unreadable_share=0.3), num_workers=num_workers)
    one = [gone(cut) if cut.id == "3" else cut for cut in cuts]
    with pytest.raises(DataError, match="the limit is a share of 0;"):
        read(one, tokenizer, dataclasses.replace(CONFIG, max_unreadable_share=0.0), num_workers=num_workers)
