"""The utterances of a run. Reference: the rules applied one by one. Law: selection opens hardly any cuts, and keeps none."""

import dataclasses
import gzip
import json
import logging
import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import serialization as lhotse_serialization

from tests.train.tones import cut_of, minute_config, without_heads, write_cuts, write_tones
from zipasr.config import set_fields
from zipasr.data.batching import BatchReader
from zipasr.data.lengths import num_encoder_frames
from zipasr.data.noise import NoiseConfig
from zipasr.data.reading import read_batches
from zipasr.errors import ConfigError, DataError
from zipasr.features import FbankConfig
from zipasr.model import AsrModel
from zipasr.text import normalize, single_spaced
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.training import train_model
from zipasr.train import data as data_module
from zipasr.train.config import MixConfig, TokenizerConfig, TrainConfig
from zipasr.train.data import ChainedCuts, make_tokenizer, read_cuts, select
from zipasr.train.folder import DATA_FILE, check_same_data
from zipasr.train.preflight import examine
from zipasr.train.validation import validation_batches


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=12, num_dev=3)


@pytest.fixture(scope="module")
def old_tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("old"), num_train=30, num_dev=1, prefix="old-")


def write_many(path: Path, durations_s: list[float], texts: list[str]) -> Path:
    """A manifest of cuts without audio files."""
    lines = []
    for i, (duration_s, text) in enumerate(zip(durations_s, texts, strict=True)):
        shape = {"sampling_rate": 16_000, "num_samples": round(duration_s * 16_000), "duration": duration_s}
        recording = {"id": f"{i}", "sources": [{"type": "file", "channels": [0], "source": f"no/{i}.wav"}], **shape}
        supervision = {"id": f"{i}", "recording_id": f"{i}", "start": 0.0, "duration": duration_s, "text": text}
        cut = {"id": f"{i}", "start": 0.0, "duration": duration_s, "channel": 0}
        lines.append({**cut, "supervisions": [supervision], "recording": recording, "type": "MonoCut"})
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def opened_cuts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the cuts that lhotse makes from now on."""
    opened: list[str] = []
    deserialize = lhotse_serialization.deserialize_item

    def count(data: dict[str, Any]) -> Any:
        opened.append(data["id"])
        return deserialize(data)

    monkeypatch.setattr(lhotse_serialization, "deserialize_item", count)
    return opened


# Selection


def test_frames_of_many_equal_frames_of_one() -> None:
    durations_s = np.random.default_rng(0).uniform(0.01, 3.0, 2000)
    for speed in (0.9, 1.0, 1.1):
        found = data_module.encoder_frames_at(durations_s, speed)
        expected = [num_encoder_frames(int(int(d * 16_000 + 0.5) / speed)) for d in durations_s]
        assert found.tolist() == expected


def test_selection_equals_the_rules_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    durations_s = [round(float(d), 4) for d in rng.uniform(0.2, 6.0, 400)]
    texts = ["".join(rng.choice(list("ab "), size=rng.integers(1, 120))).strip() or "a" for _ in durations_s]
    cuts = read_cuts(write_many(tmp_path / "train_cuts.jsonl", durations_s, texts))
    config = minute_config(tmp_path, min_duration_s=1.0, max_duration_s=5.0)
    config = dataclasses.replace(config, batch=dataclasses.replace(config.batch, speed_factors=(0.9, 1.1, 1.0)))
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    monkeypatch.setattr(data_module, "_BLOCK_CUTS", 150)
    data = select(cuts, cuts, tokenizer, config)
    kept, dropped = [], {"too short": 0, "too long": 0, "more tokens than encoder frames": 0}
    for i, (duration_s, text) in enumerate(zip(durations_s, texts, strict=True)):
        tokens = tokenizer.encode(text)
        needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))
        if duration_s < 1.0:
            dropped["too short"] += 1
        elif duration_s > 5.0:
            dropped["too long"] += 1
        elif num_encoder_frames(int(round(duration_s * 16_000) / 1.1)) < needed:
            dropped["more tokens than encoder frames"] += 1
        else:
            kept.append(str(i))
    assert min(dropped.values()) > 20
    assert data.num_dropped == dropped
    assert [cut.id for cut in data.train] == kept


@pytest.mark.parametrize("has_token_limit", [True, False])
def test_limits_of_copies_are_those_of_cuts_at_another_speed(tmp_path: Path, has_token_limit: bool) -> None:
    """The published filter sees every copy as a cut of its own, as lhotse makes it; preflight reports the same."""
    rng = np.random.default_rng(0)
    edges = [1.0, 0.9, 0.8999, 1.1, 1.0999, 5.0, 4.5, 4.5001, 5.5, 5.5001]
    durations_s = [*edges, *(round(float(d), 4) for d in rng.uniform(0.2, 6.0, 300))]
    texts = ["".join(rng.choice(list("ab "), size=rng.integers(1, 120))).strip() or "a" for _ in durations_s]
    cuts = read_cuts(write_many(tmp_path / "train_cuts.jsonl", durations_s, texts))
    config = without_heads(minute_config(tmp_path, max_duration_s=5.0), has_transducer=True, has_ctc=False)
    config = dataclasses.replace(
        config,
        batch=dataclasses.replace(config.batch, speed_factors=(0.9, 1.0, 1.1)),
        min_duration_s=1.0,
        use_copy_limits=True,
        use_token_limit=has_token_limit,
    )
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    copies = set()
    for cut in cuts:
        for speed in (0.9, 1.0, 1.1):
            copy = cut.perturb_speed(speed) if speed != 1.0 else cut
            num_frames = num_encoder_frames(copy.num_samples)
            is_long_enough = num_frames >= (len(tokenizer.encode(cut.supervisions[0].text)) if has_token_limit else 1)
            if 1.0 <= copy.duration <= 5.0 and is_long_enough:
                copies.add((cut.id, speed))
    data = select(cuts, cuts, tokenizer, config)
    read = [(data.cuts[i].id, item.speed) for batch in data.plan(config).epoch(0) for item in batch for i in item.utterances]
    assert set(read) == copies and len(read) == len(copies)
    kept = {id for id, _ in copies}
    assert {cut.id for cut in data.train} == kept and sum(data.num_dropped.values()) == len(cuts) - len(kept)
    split = examine(config, tokenizer, {"train": cuts, "dev": cuts}).splits["train"]
    assert split.num_lost.total() == len(cuts) - len(kept)
    num_partial = sum(0 < sum((id, speed) in copies for speed in (0.9, 1.0, 1.1)) < 3 for id in kept)
    assert split.num_noted["not used at every speed"] == num_partial > 20


def test_a_token_limit_is_needed_unless_a_frame_may_emit_several() -> None:
    only_transducer = without_heads(minute_config(), has_transducer=True, has_ctc=False)
    assert not set_fields(only_transducer, ["use_token_limit=false"]).use_token_limit
    for config in (minute_config(), set_fields(only_transducer, ["model.transducer.lattice=modified"])):
        with pytest.raises(ConfigError, match="use_token_limit must be true with a CTC head or a transducer that emits one"):
            set_fields(config, ["use_token_limit=false"])


def test_more_tokens_than_frames_train_without_the_limit() -> None:
    """Of the lattice `regular`, as in the published GigaSpeech run."""
    network = without_heads(minute_config(), has_transducer=True, has_ctc=False).model
    torch.manual_seed(0)
    model = AsrModel(dataclasses.replace(network, vocab_size=14)).train()
    lens, labels = torch.tensor([100, 31]), torch.randint(3, 14, (2, 60))
    assert model.encode(torch.zeros(2, 100, 80), lens).lens.max() < 60
    loss = torch.stack([*model(torch.randn(2, 100, 80), lens, labels, torch.tensor([60, 60])).values()]).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_few_cuts_are_opened_and_none_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run opens only the cuts of one batch and those whose tokens it must count, for 20,000 cuts as for 2,000."""
    opened, peaks = opened_cuts(monkeypatch), []
    tokenizer = Tokenizer.train(["a b"], kind="char", vocab_size=None)
    sizes = (500, 2000, 20_000)  # the first run warms up
    for size in sizes:
        texts = ["a b a b a b"] * (size - 2) + ["a b " * 40, "b" * 40]
        path = write_many(tmp_path / f"{size}_cuts.jsonl.gz", [2.0] * size, texts)
        config = dataclasses.replace(minute_config(tmp_path), min_duration_s=0.5)
        cuts = read_cuts(path)
        opened.clear()
        tracemalloc.start()
        data = select(cuts, read_cuts(path), tokenizer, config)
        plan = data.plan(config)
        batch = plan.epoch(1)[plan.num_batches(1) // 2]
        assert [data.cuts[i].duration for item in batch for i in item.utterances] == [2.0] * len(batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(data.train) == size - 2
        assert len(opened) == 2 + len(batch)
    assert (peaks[2] - peaks[1]) / (sizes[2] - sizes[1]) < 300  # bytes; a cut takes 4,000


def test_manifest_without_compression(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "train_cuts.jsonl").write_bytes(gzip.decompress((tones / "train_cuts.jsonl.gz").read_bytes()))
    cuts = read_cuts(tmp_path / "train_cuts.jsonl.gz")
    assert list(cuts) == list(read_cuts(tones / "train_cuts.jsonl.gz"))
    assert not list((tmp_path / ".index").rglob("cuts.jsonl"))


def test_unknown_characters_of_dev(tones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_cuts(tmp_path / "dev_cuts.jsonl.gz", [cut_of(tones / "dev000.flac", "ЖUP"), cut_of(tones / "dev001.flac", "LO Q")])
    cuts = read_cuts(tones / "train_cuts.jsonl.gz")
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    with caplog.at_level(logging.WARNING):
        select(cuts, read_cuts(tmp_path / "dev_cuts.jsonl.gz"), tokenizer, minute_config(tones))
    assert "dev texts hold characters that the vocabulary lacks: Q Ж" in caplog.text


def test_dev_cuts_too_short_for_a_frame_are_not_scored(
    tones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They come from Lhotse cuts of others, or limits.min_duration_s=0.05, and have no loss."""
    cuts = read_cuts(tones / "train_cuts.jsonl.gz")
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    dev = [cut_of(tones / f"dev00{i}.flac", "LO") for i in range(3)]
    short = [cut.truncate(duration=s, preserve_id=True) for cut, s in zip(dev, (0.05, 0.084, 0.09), strict=True)]
    write_cuts(tmp_path / "dev_cuts.jsonl.gz", short)
    config = minute_config(tones)
    with caplog.at_level(logging.WARNING):
        data = select(cuts, read_cuts(tmp_path / "dev_cuts.jsonl.gz"), tokenizer, config)
    assert "skipped 2 of 3 utterances to validate on: too short for an encoder frame" in caplog.text
    assert [cut.id for cut in data.scored_dev] == ["dev002"] and len(data.dev) == 3
    (batch,) = validation_batches(data.scored_dev, tokenizer, config)
    model = AsrModel(config.model.for_vocabulary(tokenizer)).eval()
    losses = model(batch.features, batch.feature_lens, batch.labels, batch.label_lens)
    assert all(loss.isfinite() for loss in losses.values())
    write_cuts(tmp_path / "dev_cuts.jsonl.gz", short[:2])
    with pytest.raises(DataError, match=r"utterances of 0\.1 s or more to validate on, but all 2 in dev_cuts"):
        select(cuts, read_cuts(tmp_path / "dev_cuts.jsonl.gz"), tokenizer, config)


# The vocabulary


def test_vocabulary_of_very_many_texts_has_every_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a b"] * 1000
    texts[333], texts[777] = "ab q", "z a"
    cuts = read_cuts(write_many(tmp_path / "train_cuts.jsonl", [2.0] * 1000, texts))
    whole = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    assert whole.to_bytes() == Tokenizer.train(texts, kind="char", vocab_size=None).to_bytes()
    assert len(list(data_module._vocabulary_texts(cuts, 10))) <= 14
    assert len(list(data_module._vocabulary_texts(cuts, None))) == 1000
    monkeypatch.setattr(data_module, "MAX_CHARACTER_TEXTS", 10)
    for max_texts in (10, None):
        config = TokenizerConfig(kind="char", vocab_size=None, max_texts=max_texts)
        assert set(make_tokenizer(cuts, config).pieces) == set(whole.pieces)


def test_published_vocabularies_are_learned_from_all_texts(tmp_path: Path) -> None:
    """Pieces depend on how often words occur, so that a selection of the texts gives others."""
    texts = ["abab"] + ["cdcd"] * 30
    cuts = read_cuts(write_many(tmp_path / "train_cuts.jsonl", [2.0] * 31, texts))
    pieces = TokenizerConfig(kind="bpe", vocab_size=11)
    every = make_tokenizer(cuts, dataclasses.replace(pieces, max_texts=None))
    assert every.to_bytes() == Tokenizer.train(texts, kind="bpe", vocab_size=11).to_bytes()
    some = make_tokenizer(cuts, dataclasses.replace(pieces, max_texts=1))
    assert some.to_bytes() != every.to_bytes()
    with pytest.raises(ConfigError, match="max_texts must be at least 1, or none for all texts, but is 0"):
        TokenizerConfig(max_texts=0)


# Mixing


def with_mix(config: TrainConfig, *parts: MixConfig) -> TrainConfig:
    return dataclasses.replace(config, mix=parts)


def test_other_folders_are_mixed_in(tones: Path, old_tones: Path) -> None:
    config = with_mix(minute_config(tones), MixConfig(data=str(old_tones), share=0.5))
    cuts, dev_cuts = read_cuts(tones / "train_cuts.jsonl.gz"), read_cuts(tones / "dev_cuts.jsonl.gz")
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    data = select(cuts, dev_cuts, tokenizer, config)
    assert [cut.id for cut in data.cuts] == [
        cut.id for folder in (tones, old_tones) for cut in read_cuts(folder / "train_cuts.jsonl.gz")
    ]
    assert list(data.texts()) == [cut.supervisions[0].text for cut in data.cuts]
    num_own, old_texts = len(data.train), list(data.mixed[0].cuts.texts())
    drawn = data.train.durations_s.sum() / data.mixed[0].cuts.durations_s.sum()  # half of the hours of an epoch
    rows = np.linspace(0, len(old_texts) - 1, round(drawn * len(old_texts))).astype(int)
    assert 2 < len(rows) < len(old_texts)
    assert list(data.epoch_texts()) == [*data.train.texts(), *(old_texts[i] for i in rows)]
    more = select(cuts, dev_cuts, tokenizer, with_mix(config, MixConfig(data=str(old_tones), share=0.9)))
    assert list(more.epoch_texts()) == list(data.texts()) != list(data.texts())[:num_own]
    reader = BatchReader(data.cuts, tokenizer, FbankConfig(), config.batch, seed=config.seed)
    epochs: list[set[str]] = [set(), set()]
    for placed in read_batches(data.plan(config), reader, num_epochs=2, num_workers=0):
        assert placed.batch is not None
        epochs[placed.epoch].update(name for ids in placed.batch.ids for name in ids.split("+"))
    durations_s = {cut.id: cut.duration for cut in data.cuts}
    for names in epochs:
        assert {cut.id for cut in cuts} <= names
        own_s = cuts.durations_s.sum()
        old_s = sum(durations_s[name] for name in names if name.startswith("old-"))
        assert own_s - 1.5 < old_s <= own_s
    assert epochs[0] != epochs[1]


def test_settings_of_mixing() -> None:
    with pytest.raises(ConfigError, match="share must be between 0 and 1, but is 1"):
        MixConfig(data="a", share=1.0)
    with pytest.raises(ConfigError, match=r"must sum to less than 1, the rest being data, but are 0.5, 0.6"):
        with_mix(minute_config(), MixConfig(data="a", share=0.5), MixConfig(data="b", share=0.6))


def test_folder_to_mix_in_that_is_not_there(tones: Path) -> None:
    cuts = read_cuts(tones / "train_cuts.jsonl.gz")
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    with pytest.raises(DataError, match="zipasr prepare SOURCE --out no/such/folder"):
        select(cuts, cuts, tokenizer, with_mix(minute_config(tones), MixConfig(data="no/such/folder", share=0.5)))


def test_chained_cuts() -> None:
    chain = ChainedCuts([["a", "b"], [], ["c"]])
    assert (len(chain), list(chain)) == (3, ["a", "b", "c"])
    for place in (3, -1):
        with pytest.raises(IndexError, match=f"cut {place}, but there are 3"):
            chain[place]


# The same utterances


def test_run_on_other_utterances_is_refused(tones: Path, old_tones: Path, tmp_path: Path) -> None:
    config = minute_config(tones)
    cuts = read_cuts(tones / "train_cuts.jsonl.gz")
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    data = select(cuts, cuts, tokenizer, config)
    for _ in range(2):
        check_same_data(data, tmp_path, config)
    for other in (cuts.take(np.arange(1, 12)), cuts.take(np.arange(11, -1, -1))):
        with pytest.raises(
            ConfigError, match=r"other utterances than .*train_cuts.jsonl.gz holds now: there must be the 12 that"
        ):
            check_same_data(dataclasses.replace(data, train=other), tmp_path, config)
    mixed = with_mix(config, MixConfig(data=str(old_tones), share=0.5))
    with pytest.raises(ConfigError, match="other utterances mixed in than"):
        check_same_data(select(cuts, cuts, tokenizer, mixed), tmp_path, mixed)


def test_changes_of_what_is_mixed_in_of_noise_and_of_the_dev_set_are_noticed(
    tones: Path, old_tones: Path, tmp_path: Path
) -> None:
    """Each change is named with its source."""
    noise = Path(shutil.copy(old_tones / "dev_cuts.jsonl.gz", tmp_path / "noise_cuts.jsonl.gz"))
    config = with_mix(minute_config(tones), MixConfig(data=str(old_tones), share=0.5))
    config = dataclasses.replace(
        config, batch=dataclasses.replace(config.batch, cache_mb=0, noise=NoiseConfig(cuts=str(noise)))
    )
    cuts, dev = read_cuts(tones / "train_cuts.jsonl.gz"), read_cuts(tones / "dev_cuts.jsonl.gz")
    tokenizer = make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None))
    data = select(cuts, dev, tokenizer, config)
    (mixed,) = data.mixed
    record = tmp_path / DATA_FILE
    for _ in range(2):
        check_same_data(data, tmp_path, config)
    before = record.read_text()

    half = dataclasses.replace(mixed, cuts=mixed.cuts.take(np.arange(1, len(mixed.cuts))))
    with pytest.raises(ConfigError, match=f"other utterances mixed in than {old_tones}/train_cuts.jsonl.gz holds now"):
        check_same_data(dataclasses.replace(data, mixed=(half,)), tmp_path, config)
    with pytest.raises(ConfigError, match=r"to validate on than .*dev_cuts.* must be the \d+ .* are \d+ .* prepare that"):
        check_same_data(dataclasses.replace(data, dev=dev[1:]), tmp_path, config)
    shutil.copy(old_tones / "train_cuts.jsonl.gz", noise)
    with pytest.raises(ConfigError, match=f"other noise than {noise} holds now: there must be the"):
        check_same_data(data, tmp_path, config)
    assert record.read_text() == before


def test_a_run_that_mixed_noise_into_audio_is_refused(tones: Path, tmp_path: Path) -> None:
    """The record of an older version is refused with noise, whose mixing changed, and goes on without."""
    cuts = read_cuts(tones / "train_cuts.jsonl.gz")
    quiet = minute_config(tones)
    noise = NoiseConfig(cuts=str(tones / "dev_cuts.jsonl.gz"))
    noisy = dataclasses.replace(quiet, batch=dataclasses.replace(quiet.batch, noise=noise))
    data = select(cuts, cuts, make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None)), noisy)
    record = tmp_path / DATA_FILE
    check_same_data(data, tmp_path, noisy)
    old = record.read_text().replace("noise.features ", "noise ")
    record.write_text(old)
    with pytest.raises(ConfigError, match=r"into the audio.* finish the run with the version .* or use another --out"):
        check_same_data(data, tmp_path, noisy)
    assert record.read_text() == old != ""
    record.write_text("".join(line for line in old.splitlines(keepends=True) if not line.startswith("noise")))
    check_same_data(data, tmp_path, quiet)


def test_record_of_another_version_is_refused(tones: Path, tmp_path: Path) -> None:
    config = minute_config(tones)
    cuts = read_cuts(tones / "train_cuts.jsonl.gz")
    data = select(cuts, cuts, make_tokenizer(cuts, TokenizerConfig(kind="char", vocab_size=None)), config)
    (tmp_path / DATA_FILE).write_text("0" * 64)
    with pytest.raises(ConfigError, match="must be of this version of zipasr, but is of another; use another --out"):
        check_same_data(data, tmp_path, config)


def test_old_cuts_train_like_those_that_are_prepared_anew(tmp_path: Path) -> None:
    """Cuts of other tools and older versions have other spellings; labels, vocabulary and selection are the same."""
    old_texts = ["it’s a cafe\u0301", "it's\u200b o\u00adne", "\ufeff\u200b", "é\u0302 é’é", "ʻo‘z"]
    kept = [text for text in old_texts if normalize(text)]
    old = read_cuts(write_many(tmp_path / "old_cuts.jsonl.gz", [2.0] * 5, old_texts))
    new = read_cuts(write_many(tmp_path / "new_cuts.jsonl.gz", [2.0] * 4, [single_spaced(normalize(t)) for t in kept]))
    assert list(old.texts()) == list(new.texts()) and old.characters == new.characters
    assert old.num_characters.tolist() == new.num_characters.tolist()
    config = TokenizerConfig(kind="char", vocab_size=None)
    tokenizer = make_tokenizer(old, config)
    assert tokenizer.to_bytes() == make_tokenizer(new, config).to_bytes()
    for a, b in zip(old, new, strict=True):
        assert tokenizer.encode(a.supervisions[0].text) == tokenizer.encode(b.supervisions[0].text)


def test_a_vocabulary_with_accents_apart_needs_more_frames(tmp_path: Path) -> None:
    """Its texts have more tokens than characters, which selection must not overlook."""
    tokenizer = Tokenizer.from_bytes(train_model(["\u1112\u1161\u11ab"], "char", 7))
    cuts = read_cuts(write_many(tmp_path / "train_cuts.jsonl", [1.0, 1.0], ["한" * 10, "한" * 5]))
    dev = read_cuts(write_many(tmp_path / "dev_cuts.jsonl", [1.0], ["한"]))
    config = minute_config(tmp_path, max_duration_s=5.0)
    assert len(tokenizer.encode("한" * 10)) > num_encoder_frames(16_000) > 2 * 10
    assert select(cuts, dev, tokenizer, config).num_dropped == {"more tokens than encoder frames": 1}
