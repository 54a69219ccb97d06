"""Batches. Law: the plan follows from (seed, epoch); reading from anywhere gives what reading from the start gives."""

import dataclasses
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.tones import RATE_HZ, cut_of, say
from zipasr.data import batching
from zipasr.data.augment import SpecAugmentConfig
from zipasr.data.batching import Batch, BatchConfig, BatchPlan, BatchReader, Item, PlacedBatch, read_batches
from zipasr.errors import ConfigError, DataError
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.tokenizer import Tokenizer

TEXTS = ["LO", "MID HI", "UP", "DOWN LO MID", "HI", "UP DOWN", "MID"]


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder, generator = tmp_path_factory.mktemp("sound"), np.random.default_rng(0)
    made = []
    for i, text in enumerate(TEXTS):
        soundfile.write(folder / f"{i}.flac", say(text.split(), generator), RATE_HZ)
        made.append(cut_of(folder / f"{i}.flac", text))
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, kind="char", vocab_size=14)


AUGMENT = SpecAugmentConfig(time_warp_frames=10, time_mask_frames=10, prob=1.0)
CONFIG = BatchConfig(max_duration_s=2.5, num_buckets=2, concat_prob=0.5, concat_max_s=2.0, spec_augment=AUGMENT)


def make(cuts: list, tokenizer: Tokenizer, config: BatchConfig = CONFIG, seed: int = 1) -> tuple[BatchPlan, BatchReader]:
    plan = BatchPlan([cut.duration for cut in cuts], config, seed=seed)
    return plan, BatchReader(cuts, tokenizer, FbankConfig(), config, seed=seed)


def read(
    cuts: list, tokenizer: Tokenizer, config: BatchConfig = CONFIG, *, place: tuple[int, int] = (0, 0), num_workers: int = 0
) -> list[PlacedBatch]:
    plan, reader = make(cuts, tokenizer, config)
    return list(read_batches(plan, reader, epoch=place[0], index=place[1], num_epochs=2, num_workers=num_workers))


def assert_same(a: Batch, b: Batch) -> None:
    for name in ("features", "feature_lens", "labels", "label_lens"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.ids, a.audio_s) == (b.ids, b.audio_s)


# The plan


@settings(deadline=None, max_examples=50)
@given(
    durations=st.lists(st.floats(0.2, 12.0), min_size=1, max_size=30),
    seed=st.integers(0, 3),
    max_duration_s=st.floats(3.0, 30.0),
    num_buckets=st.integers(1, 8),
    concat_prob=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_epoch_holds_everything_once_per_speed_within_limits(
    durations: list[float], seed: int, max_duration_s: float, num_buckets: int, concat_prob: float
) -> None:
    config = BatchConfig(max_duration_s=max_duration_s, num_buckets=num_buckets, concat_prob=concat_prob, concat_max_s=10.0)
    plan = BatchPlan(durations, config, seed=seed)
    batches = plan.epoch(0)
    read = Counter((i, item.speed) for batch in batches for item in batch for i in item.utterances)
    assert read == Counter((i, speed) for i in range(len(durations)) for speed in (0.9, 1.0, 1.1))
    for batch in batches:
        longest_s = max(plan.item_duration_s(item) for item in batch)
        assert len(batch) == 1 or longest_s * len(batch) <= max_duration_s
        for item in batch:
            joined_s = sum(durations[i] for i in item.utterances)
            assert len(item.utterances) == 1 or joined_s <= 10.0
            assert plan.item_duration_s(item) == pytest.approx(joined_s / item.speed)


def test_plan_follows_from_seed_and_epoch() -> None:
    durations = np.random.default_rng(0).uniform(0.5, 5.0, 50)
    plan = BatchPlan(durations, CONFIG, seed=7)
    first = plan.epoch(3)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    plan.epoch(0)
    assert plan.epoch(3) == first
    assert BatchPlan(durations, CONFIG, seed=7).epoch(3) == first
    assert plan.epoch(4) != first
    assert BatchPlan(durations, CONFIG, seed=8).epoch(3) != first


def test_buckets_put_similar_lengths_together() -> None:
    durations = np.random.default_rng(0).uniform(0.5, 15.0, 400)
    padding = {}
    for num_buckets in (1, 20):
        plan = BatchPlan(durations, BatchConfig(max_duration_s=100.0, num_buckets=num_buckets), seed=0)
        lengths = [[plan.item_duration_s(item) for item in batch] for batch in plan.epoch(0)]
        padding[num_buckets] = 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)
    assert padding[20] < 0.1 < 0.3 < padding[1]


def test_nothing_to_plan() -> None:
    with pytest.raises(DataError, match="at least one utterance"):
        BatchPlan([], CONFIG, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_duration_s": 0.0},
        {"num_buckets": 0},
        {"speed_factors": ()},
        {"speed_factors": (0.1,)},
        {"concat_prob": 1.5},
        {"concat_max_s": -1.0},
        {"cache_mb": -1},
    ],
)
def test_wrong_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BatchConfig(**wrong)


def test_stable_seed() -> None:
    seeds = {batching.stable_seed(*parts) for parts in [(1, 23), (12, 3), (123,), (1, 2, 3), (3, 2, 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


# Reading


def test_content_of_a_batch(cuts: list, tokenizer: Tokenizer) -> None:
    config = BatchConfig(speed_factors=(1.0,), spec_augment=None)
    _, reader = make(cuts, tokenizer, config)
    batch = reader[0, 0, (Item((0,), 1.0), Item((3, 1), 1.0))]
    assert batch.ids == ("0", "3+1")
    assert [tokenizer.decode(ids[:n].tolist()) for ids, n in zip(batch.labels, batch.label_lens, strict=True)] == [
        "LO",
        "DOWN LO MID MID HI",
    ]
    assert (batch.labels[0, batch.label_lens[0] :] == tokenizer.blank_id).all()
    parts = [Fbank()(cuts[i].load_audio()[0]) for i in (0, 3, 1)]
    assert batch.feature_lens.tolist() == [len(parts[0]), len(parts[1]) + len(parts[2])]
    assert torch.equal(batch.features[0, : len(parts[0])], parts[0])
    assert torch.equal(batch.features[1], torch.cat(parts[1:]))
    assert (batch.features[0, len(parts[0]) :] == torch.tensor(PADDING_VALUE)).all()
    assert batch.audio_s == pytest.approx(sum(cuts[i].duration for i in (0, 3, 1)), abs=0.02)


def test_two_views(cuts: list, tokenizer: Tokenizer) -> None:
    """The same utterances twice, masked apart; what counts the sound and the labels stays as it is."""
    items = (Item((3,), 1.0), Item((1, 2), 1.1))
    readers = [
        BatchReader(cuts, tokenizer, FbankConfig(), CONFIG, seed=1, time_mask_ratio=ratio) for ratio in (None, 2.5, 2.5)
    ]
    one, two, again = (reader[0, 5, items] for reader in readers)
    assert_same(two, again)
    assert two.features.shape == (4, *one.features.shape[1:])
    assert torch.equal(two.feature_lens, one.feature_lens.repeat(2))
    assert torch.equal(two.labels, one.labels)
    assert torch.equal(two.label_lens, one.label_lens)
    assert (two.ids, two.audio_s) == (one.ids, one.audio_s)
    first, second = two.features.chunk(2)
    assert not torch.equal(first, second)
    later = dataclasses.replace(CONFIG, spec_augment_from_epoch=1)
    plain = BatchReader(cuts, tokenizer, FbankConfig(), later, seed=1, time_mask_ratio=2.5)
    first, second = plain[0, 5, items].features.chunk(2)
    assert torch.equal(first, second)
    assert not torch.equal(*plain[1, 5, items].features.chunk(2))


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_the_length(cuts: list, tokenizer: Tokenizer, speed: float) -> None:
    _, reader = make(cuts, tokenizer)
    length = int(reader[0, 0, (Item((3,), speed),)].feature_lens[0])
    assert length == pytest.approx(100 * cuts[3].duration / speed, abs=1)


def test_no_batch_is_padded_beyond_the_limit(cuts: list, tokenizer: Tokenizer) -> None:
    for placed in read(cuts, tokenizer):
        num, frames = placed.batch.features.shape[:2]
        assert num == 1 or num * frames <= 100 * CONFIG.max_duration_s + num  # a frame of rounding each


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_on_equals_reading_from_the_start(cuts: list, tokenizer: Tokenizer, num_workers: int) -> None:
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
            assert_same(ours.batch, theirs.batch)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_leaves_the_random_state_alone(cuts: list, tokenizer: Tokenizer, num_workers: int) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    read(cuts, tokenizer, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_differs_from_epoch_to_epoch(cuts: list, tokenizer: Tokenizer) -> None:
    _, reader = make(cuts, tokenizer)
    items = (Item((3,), 1.0),)
    assert torch.equal(reader[0, 0, items].features, reader[0, 0, items].features)
    for other in [(1, 0), (0, 1)]:
        assert not torch.equal(reader[0, 0, items].features, reader[*other, items].features)


@pytest.mark.parametrize("num_bytes", [0, 60_000, 2**20])
def test_cache_changes_nothing(cuts: list, tokenizer: Tokenizer, num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(cuts, tokenizer)
    config = dataclasses.replace(CONFIG, cache_mb=1)
    plan, reader = make(cuts, tokenizer, config)
    object.__setattr__(config, "cache_mb", num_bytes / 2**20)  # so small a cache drops what it holds
    found = list(read_batches(plan, reader, epoch=0, index=0, num_epochs=2, num_workers=0))
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours.batch, theirs.batch)
    held = sum(features.numel() * 4 for features in reader._cache.values())
    assert held == reader._cache_bytes <= num_bytes
    assert (held > 0) == (num_bytes > 0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_sound_that_is_gone(tmp_path: Path, tokenizer: Tokenizer, num_workers: int) -> None:
    path = tmp_path / "gone.flac"
    soundfile.write(path, say(["LO"], np.random.default_rng(0)), RATE_HZ)
    cut = cut_of(path, "LO")
    path.unlink()
    with pytest.raises(
        DataError, match=r"^the sound of gone \(.*gone\.flac\) cannot be read any more: .* Run prepare again$"
    ):
        read([cut], tokenizer, num_workers=num_workers)


class _Dies(BatchReader):
    def __getitem__(self, key: object) -> Batch:
        os._exit(9)


def test_reader_process_that_dies(cuts: list, tokenizer: Tokenizer) -> None:
    plan, _ = make(cuts, tokenizer)
    reader = _Dies(cuts, tokenizer, FbankConfig(), CONFIG, seed=0)
    with pytest.raises(DataError, match="lower num_workers"):
        list(read_batches(plan, reader, epoch=0, index=0, num_epochs=1, num_workers=1))
