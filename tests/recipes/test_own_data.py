"""Contract: the run for a data folder follows from its content, by rules that are printed."""

import dataclasses
from pathlib import Path

import pytest

from tests.train.tones import write_tones
from zipasr.data.lengths import num_encoder_frames
from zipasr.data.noise import NoiseConfig
from zipasr.data.variation import VariationConfig
from zipasr.recipes import prompts
from zipasr.recipes.own_data import (
    MADE_FOR,
    MASKS_FROM_EPOCH,
    NOISE_ALONE_PROB,
    NOISE_FILE,
    DataFacts,
    batches_to_train,
    describe,
    fit,
    fit_to_data,
)
from zipasr.train.config import TokenizerConfig
from zipasr.train.data import make_tokenizer, read_cuts
from zipasr.train.length import scaled_to


def facts(**changes: object) -> DataFacts:
    usual = DataFacts(
        num_utterances=456,
        hours=0.55,
        num_words=5047,
        num_distinct_words=55,
        num_distinct_characters=26,
        num_distinct_texts=440,
        num_speakers=50,
        dense_share=0.0,
        is_spaceless=False,
    )
    return usual._replace(**changes)


def test_the_rules_leave_the_recipe_as_it_is_on_the_data_that_it_was_made_for() -> None:
    tiny = prompts.tiny()
    per_epoch = MADE_FOR.num_steps / MADE_FOR.num_epochs
    same = scaled_to(tiny, int(MADE_FOR.num_steps), steps_per_epoch=per_epoch, made_for=MADE_FOR)
    assert (same.lr_batches, same.lr_epochs, same.num_epochs) == (tiny.lr_batches, tiny.lr_epochs, tiny.num_epochs)
    assert same.batch == tiny.batch
    assert (same.lr_warmup_batches, same.loss_warmup_batches) == (tiny.lr_warmup_batches, tiny.loss_warmup_batches)


@pytest.mark.parametrize(
    ("per_epoch", "expected"),
    [
        (90, 3000),  # little data: enough steps to learn at all
        (230, 4140),  # 18 epochs
        (656, 11_808),
        (1350, 12_000),  # upper bound without further epochs
        (9000, 18_000),  # but two epochs at each speed
    ],
)
def test_length_grows_with_the_data_within_bounds(per_epoch: float, expected: int) -> None:
    assert batches_to_train(per_epoch) == expected


def test_half_an_hour_is_trained_as_the_prompts_are() -> None:
    """11,808 batches under these schedules reached 1.1 % on half an hour of 38 voices (docs/own_data.md)."""
    config, tiny = fit(facts(), "data", batches_per_epoch=656).config, prompts.tiny()
    assert (config.max_batches, config.num_epochs) == (11_808, 18)
    assert (config.lr_batches, config.lr_epochs) == (tiny.lr_batches, tiny.lr_epochs)
    changed = dataclasses.replace(tiny.batch, variation=VariationConfig(), spec_augment_from_epoch=MASKS_FROM_EPOCH)
    assert config.batch == changed


@pytest.mark.parametrize(("per_epoch", "num_epochs"), [(1350, 9), (50, 60)])
def test_more_or_fewer_epochs_keep_the_shares_of_the_schedules(per_epoch: int, num_epochs: int) -> None:
    config, tiny = fit(facts(), "data", batches_per_epoch=per_epoch).config, prompts.tiny()
    assert config.max_batches is not None and config.num_epochs == num_epochs
    share = config.max_batches / per_epoch / tiny.num_epochs
    assert config.lr_epochs == pytest.approx(tiny.lr_epochs * share, rel=0.01)
    assert config.batch.spec_augment_from_epoch == round(MASKS_FROM_EPOCH * share)
    assert config.lr_batches == pytest.approx(tiny.lr_batches * min(1.0, config.max_batches / MADE_FOR.num_steps), rel=0.01)
    assert config.save_interval % config.average_period == 0
    assert config.valid_interval % config.save_interval == 0
    saved_share = config.keep_checkpoints * config.save_interval / config.max_batches
    assert saved_share > config.average_share  # or the average could not start where it should


@pytest.mark.parametrize(("hours", "order"), [(0.1, 6), (19.0, 6), (20.0, None)])
def test_little_data_has_an_ngram_of_its_texts(hours: float, order: int | None) -> None:
    run = fit(facts(hours=hours), "data", batches_per_epoch=656)
    assert run.config.ngram_order == order
    assert sum(line.startswith("n-gram: of order 6") for line in run.reasons) == (order is not None)


def test_several_processes_take_as_many_steps_with_more_epochs(tmp_path: Path) -> None:
    alone = fit(facts(), "data", batches_per_epoch=160).config
    fitted = fit(facts(), "data", batches_per_epoch=160, batches_per_step=8)
    assert (alone.max_batches, alone.num_epochs) == (3000, 19)
    assert (fitted.config.max_batches, fitted.config.num_epochs) == (3000, 150)
    assert any(line.startswith("length: 3,000 × 8 batches of 12 s, which are 150.0 epochs") for line in fitted.reasons)
    data = str(write_tones(tmp_path, num_train=30, num_dev=1))
    assert fit_to_data(data, batches_per_step=2).config.num_epochs == 2 * fit_to_data(data).config.num_epochs


@pytest.mark.parametrize(
    ("changes", "kind", "lattice"),
    [
        ({}, "char", "modified"),
        ({"hours": 30.0}, "unigram", "modified"),
        ({"hours": 500.0}, "unigram", "regular"),
        ({"is_spaceless": True, "hours": 30.0}, "spaceless", "modified"),
        ({"is_spaceless": True, "dense_share": 0.5}, "spaceless", "modified"),
        ({"dense_share": 0.01}, "char", "modified"),
        ({"dense_share": 0.02}, "bpe", "modified"),
    ],
)
def test_tokens_and_lattice(changes: dict[str, object], kind: str, lattice: str) -> None:
    run = fit(facts(**changes), "data", batches_per_epoch=656)
    assert run.config.tokenizer.kind == kind
    assert run.config.model.transducer is not None and run.config.model.transducer.lattice == lattice
    assert any(line.startswith("tokens: ") for line in run.reasons)
    assert any(line.startswith(f"lattice: {lattice}") for line in run.reasons)


@pytest.mark.parametrize(
    ("changes", "config", "said"),
    [
        ({"num_distinct_characters": 250, "hours": 30.0}, TokenizerConfig(vocab_size=500), "500 pieces, as published"),
        (
            {"num_distinct_characters": 1500, "hours": 30.0},
            TokenizerConfig(vocab_size=1750),
            "1,750 pieces, since the texts",
        ),
        (
            {"num_distinct_characters": 1500, "dense_share": 0.02},
            TokenizerConfig(kind="bpe", vocab_size=1750),
            "than encoder frames; 1,750 pieces, since the texts have 1,500 different characters",
        ),
        (
            {"num_distinct_characters": 1500},
            TokenizerConfig(kind="char", vocab_size=None),
            "characters, since there are less",
        ),
    ],
)
def test_texts_of_many_characters_get_more_pieces(changes: dict[str, object], config: TokenizerConfig, said: str) -> None:
    run = fit(facts(**changes), "data", batches_per_epoch=656)
    assert run.config.tokenizer == config
    assert said in next(line for line in run.reasons if line.startswith("tokens: "))


def test_pieces_can_be_learned_from_any_number_of_characters(tmp_path: Path) -> None:
    """600 syllables in 200 words: more than 500 pieces, so that a vocabulary of 500 would be refused."""
    words = ["".join(chr(0xAC00 + 3 * i + j) for j in range(3)) for i in range(200)]
    data = write_tones(tmp_path, num_train=400, num_dev=1, sounds={word: (300 + i, 400 + i) for i, word in enumerate(words)})
    cuts = read_cuts(data / "train_cuts.jsonl.gz")
    found = describe(cuts)
    assert found.num_distinct_characters == len(set("".join(cuts.texts())) - {" "}) > 500
    tokenizer = make_tokenizer(cuts, fit(found._replace(hours=30.0), str(data), batches_per_epoch=656).config.tokenizer)
    assert tokenizer.vocab_size > found.num_distinct_characters


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_speakers": 1}, "one speaker"),
        ({"num_distinct_texts": 35}, "come again and again"),
        ({"hours": 50.0}, "a larger model"),
    ],
)
def test_notes_about_limited_data(changes: dict[str, object], said: str) -> None:
    assert said in "\n".join(fit(facts(**changes), "data", batches_per_epoch=656).reasons)
    assert said not in "\n".join(fit(facts(), "data", batches_per_epoch=656).reasons)


def test_noise_beside_the_data_is_mixed_in(tmp_path: Path) -> None:
    assert fit(facts(), str(tmp_path), batches_per_epoch=656).config.batch.noise is None
    (tmp_path / NOISE_FILE).touch()
    fitted = fit(facts(), str(tmp_path), batches_per_epoch=656)
    assert fitted.config.batch.noise == NoiseConfig(cuts=str(tmp_path / NOISE_FILE), alone_prob=NOISE_ALONE_PROB)
    said = f"noise: {tmp_path / NOISE_FILE}, in 50% of the utterances at 10 to 20 dB, and alone instead of 5%"
    assert said in fitted.reasons


def test_facts_of_a_folder(tmp_path: Path) -> None:
    data = write_tones(tmp_path, num_train=30, num_dev=3)
    found = describe(read_cuts(data / "train_cuts.jsonl.gz"))
    assert (found.num_utterances, found.num_distinct_words, found.num_speakers) == (30, 5, 0)
    assert 5 < found.num_distinct_texts <= 30 <= found.num_words
    assert 0.002 < found.hours < 0.02
    assert not found.is_spaceless
    run = fit_to_data(str(data))
    assert run.config.data == str(data)
    assert run.config.max_batches == 3000
    assert "30 utterances" in run.reasons[0] and "5 distinct words" in run.reasons[0]


def test_share_of_utterances_with_more_characters_than_frames(tmp_path: Path) -> None:
    data = write_tones(tmp_path, num_train=12, num_dev=1)
    cuts = read_cuts(data / "train_cuts.jsonl.gz")
    shares = []
    for speed in (1.0, 2.0, 4.0, 20.0):
        frames = [num_encoder_frames(int(cut.num_samples / speed)) for cut in cuts]
        is_dense = [len(cut.supervisions[0].text) > number for cut, number in zip(cuts, frames, strict=True)]
        shares.append(sum(is_dense) / len(is_dense))
        assert describe(cuts, max_speed=speed).dense_share == pytest.approx(shares[-1])
    assert shares[0] < shares[-1] == 1.0


def test_a_script_without_spaces_is_noticed(tmp_path: Path) -> None:
    sounds = {"天地": (300, 500), "ひと": (900, 700)}
    data = write_tones(tmp_path, num_train=6, num_dev=1, sounds=sounds)
    assert describe(read_cuts(data / "train_cuts.jsonl.gz")).is_spaceless
    assert fit_to_data(str(data)).config.tokenizer.kind == "spaceless"
