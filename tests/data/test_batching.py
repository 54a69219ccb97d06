"""Batches of planned items. Law: seed and position determine them; an unreadable item is treated as if it were not
planned."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.data.tone_batches import CONFIG, assert_same, tone_cuts, tone_tokenizer
from tests.train.tones import RATE_HZ, cut_of, say
from zipasr.data.batching import BatchConfig, BatchReader, Item
from zipasr.data.variation import VariationConfig
from zipasr.errors import ConfigError, DataError
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return tone_cuts(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tone_tokenizer()


def make(cuts: list[Any], tokenizer: Tokenizer, config: BatchConfig = CONFIG) -> BatchReader:
    return BatchReader(cuts, tokenizer, FbankConfig(), config, seed=1)


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
        {"max_unreadable_share": 1.5},
        {"max_duration_s": math.nan},
        {"speed_factors": (1.0, math.nan)},
        {"concat_max_s": math.nan},
    ],
)
def test_wrong_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BatchConfig(**wrong)


def test_variation_changes_frames_and_nothing_else(cuts: list, tokenizer: Tokenizer) -> None:
    plain = dataclasses.replace(CONFIG, spec_augment=None)
    vary = dataclasses.replace(plain, variation=VariationConfig())
    items = (Item((0,), 1.0), Item((3, 1), 0.9))
    before, batch, again, other = (
        make(cuts, tokenizer, config)[0, index, items] for config, index in ((plain, 0), (vary, 0), (vary, 0), (vary, 1))
    )
    assert_same(batch, again)
    assert not torch.equal(batch.feature_lens, other.feature_lens)
    assert torch.equal(batch.labels, before.labels) and batch.ids == before.ids
    added = batch.feature_lens - before.feature_lens
    assert (added >= 0).all() and (added <= 80).all() and added.any()
    assert batch.audio_s == pytest.approx(before.audio_s + float(added.sum()) / 100)
    off = VariationConfig(frequency_warp=0.0, gain_db=0.0, edge_s=0.0)
    assert_same(make(cuts, tokenizer, dataclasses.replace(plain, variation=off))[0, 0, items], before)


def test_content_of_a_batch(cuts: list, tokenizer: Tokenizer) -> None:
    config = BatchConfig(speed_factors=(1.0,), spec_augment=None)
    reader = make(cuts, tokenizer, config)
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
    """Both views hold the same utterances, masked differently; counts of audio and labels do not change."""
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


def test_whisper_features_are_normalized_before_padding(cuts: list, tokenizer: Tokenizer) -> None:
    config = dataclasses.replace(CONFIG, spec_augment=None)
    fbank = Fbank(FbankConfig(kind="whisper"))
    key = (1, 0, tuple(Item((utterance,), 1.0) for utterance in (0, 1)))
    batch = BatchReader(cuts, tokenizer, fbank.config, config, seed=0)[key]
    for row, length, utterance in zip(batch.features, batch.feature_lens, (0, 1), strict=True):
        expected = fbank.normalized(fbank(cuts[utterance].load_audio()[0]))
        assert torch.equal(row[:length], expected)
        assert (row[length:] == PADDING_VALUE).all()
    assert batch.feature_lens[0] != batch.feature_lens[1]


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_the_length(cuts: list, tokenizer: Tokenizer, speed: float) -> None:
    reader = make(cuts, tokenizer)
    length = int(reader[0, 0, (Item((3,), speed),)].feature_lens[0])
    assert length == pytest.approx(100 * cuts[3].duration / speed, abs=1)


def test_augmentation_differs_from_epoch_to_epoch(cuts: list, tokenizer: Tokenizer) -> None:
    reader = make(cuts, tokenizer)
    items = (Item((3,), 1.0),)
    assert torch.equal(reader[0, 0, items].features, reader[0, 0, items].features)
    for other in [(1, 0), (0, 1)]:
        assert not torch.equal(reader[0, 0, items].features, reader[*other, items].features)


def damaged(folder: Path, name: str, damage: str) -> Any:
    """A cut whose file is missing, truncated, overwritten or full of NaN."""
    path = folder / f"{name}.wav"
    soundfile.write(path, say(["DOWN", "LO", "MID"], np.random.default_rng(0)), RATE_HZ, subtype="FLOAT")
    cut = cut_of(path, "LO")
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:2000])  # lhotse fills in up to 0.5 s of missing audio
    elif damage == "overwritten":
        path.write_bytes(b"\xff" * 5000)
    else:
        soundfile.write(path, np.full(round(cut.duration * RATE_HZ), np.nan), RATE_HZ, subtype="FLOAT")
    return cut


@pytest.mark.parametrize("damage", ["gone", "short", "overwritten", "not finite"])
def test_unreadable_audio_is_dropped(cuts: list[Any], tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    reader = make([*cuts, damaged(tmp_path, "bad", damage)], tokenizer)
    bad = len(cuts)
    read = reader.read((0, 3, (Item((0,), 1.0), Item((bad,), 1.1), Item((3, bad, 1), 0.9), Item((bad, bad), 1.0))))
    assert [utterance for utterance, _ in read.unreadable] == [bad] * 4
    assert all("the audio of bad (" in reason and "bad.wav" in reason for _, reason in read.unreadable)
    assert read.batch is not None
    assert_same(read.batch, reader[0, 3, (Item((0,), 1.0), Item((3, 1), 0.9))])
    assert reader.read((0, 3, (Item((bad,), 1.0),))).batch is None
    with pytest.raises(
        DataError, match=r"^the audio of bad \(.*bad\.wav\) can no longer be read: .*; run zipasr prepare again$"
    ):
        reader[0, 3, (Item((0,), 1.0), Item((bad,), 1.0))]


def test_nothing_to_read(cuts: list[Any], tokenizer: Tokenizer) -> None:
    assert make(cuts, tokenizer).read((0, 0, ())) == (None, (), 0)
