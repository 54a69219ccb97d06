"""Checks before the first step. Reference: manual counts of faults that are added to the data. Contract: what is reported as
lost is what training drops; too much is an error before any training, and the same folder can be used again."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lhotse.utils import fastcopy

from tests.train.tones import cut_of, minute_config, write_cuts, write_tones
from zipasr.data.batching import BatchConfig
from zipasr.data.lengths import num_encoder_frames
from zipasr.errors import DataError
from zipasr.losses.ctc import ctc_loss
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import FinetuneConfig, MixConfig, TrainConfig
from zipasr.train.data import read_cuts, select
from zipasr.train.data_report import DataReport
from zipasr.train.loop import train
from zipasr.train.preflight import check_new_run, check_recipe, examine, read_splits

TOKENIZER = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=20, num_dev=4)


def cuts_of(data: Path, split: str = "train") -> list[Any]:
    return list(read_cuts(data / f"{split}_cuts.jsonl.gz"))


def with_text(cut: Any, text: str | None, **changes: Any) -> Any:
    return fastcopy(cut, supervisions=[fastcopy(cut.supervisions[0], text=text)], **changes)


def look(train_cuts: Any, dev_cuts: Any, most: int = 1000, **settings: Any) -> DataReport:
    return examine(minute_config(**settings), TOKENIZER, {"train": train_cuts, "dev": dev_cuts}, most=most)


def test_good_data(data: Path) -> None:
    report = look(cuts_of(data), cuts_of(data, "dev"))
    train_split = report.splits["train"]
    assert train_split.num_utterances == train_split.num_there == 20 and not train_split.is_sample
    assert train_split.lost_share == 0.0 and not train_split.num_lost and not train_split.num_missing
    assert train_split.token_counts == [len(TOKENIZER.encode(c.supervisions[0].text)) for c in cuts_of(data)]
    report.require_usable()
    lines = report.format_table().splitlines()
    assert lines[1].split() == ["train", "20", f"{sum(c.duration for c in cuts_of(data)) / 3600:.2f}", "0.00%", "all"]
    assert sum(line.startswith("train: seconds of an utterance") for line in lines) == 1


def test_every_rule_counts_its_utterances(data: Path) -> None:
    good = cuts_of(data)
    cuts = [
        *good[:10],
        good[0],
        with_text(good[10], None, id="none"),
        with_text(good[11], "  ", id="blank"),
        fastcopy(good[12], id="two", supervisions=good[12].supervisions * 2),
        fastcopy(good[13], id="short", duration=0.2),
        with_text(good[14], "LO " * 40, id="dense"),
        with_text(good[15], "LÖ", id="umlaut"),
        fastcopy(good[16], id="file", recording=good[16].recording.move_to_memory()),
        fastcopy(good[17], id="long"),
        fastcopy(good[18], id="beyond", recording=fastcopy(good[18].recording, duration=0.2, num_samples=3200)),
        fastcopy(good[19], id="rate", recording=fastcopy(good[19].recording, sampling_rate=8000)),
    ]
    longest = max(cut.duration for cut in cuts if cut.id != "long")
    cuts[-3] = fastcopy(cuts[-3], duration=longest + 0.5)
    report = look(cuts, cuts_of(data, "dev"), min_duration_s=0.3, max_duration_s=longest)
    found = report.splits["train"]
    assert dict(found.num_lost) == {
        "without exactly one text": 3,
        "too short": 1,
        "with more tokens than encoder frames": 1,
        "too long": 1,
        "not at 16 kHz": 1,
    }
    assert found.num_noted["with an id that came before"] == 1
    assert found.num_noted["with characters that the vocabulary lacks"] == 1
    assert "beyond" in found.examples["ending after the recording does"]
    assert found.unknown == "Ö"
    assert found.examples["without exactly one text"] == ["none", "blank", "two"]
    assert found.lost_share == 7 / len(cuts)
    table = report.format_table()
    assert "train: lost: 3 of 21 (14.29%) without exactly one text: none, blank, two" in table
    assert "train: note: the vocabulary lacks Ö" in table
    with pytest.raises(DataError, match=r"at most 20% .* but 33.3% of 21 would be: 3 without exactly one text, 1 "):
        report.require_usable()


def test_lost_is_what_training_leaves_out(data: Path, tmp_path: Path) -> None:
    """The rule is that of CTC, checked with its loss: at the fastest speed, as many frames as tokens and repeats."""
    cut = fastcopy(cuts_of(data)[0], duration=0.6)
    texts = [letters[:n] for n in range(1, 20) for letters in ("L" * 20, "LO" * 10, "LL O" * 5)]
    cuts = [with_text(cut, text, id=f"{i} {text}") for i, text in enumerate(texts)]
    write_cuts(tmp_path / "train_cuts.jsonl.gz", cuts)
    data = select(
        read_cuts(tmp_path / "train_cuts.jsonl.gz"), read_cuts(data / "dev_cuts.jsonl.gz"), TOKENIZER, minute_config()
    )
    kept = {kept.id for kept in data.train}
    num_frames = num_encoder_frames(cut.num_samples)
    assert kept == {
        cut.id for cut, text in zip(cuts, texts, strict=True) if ctc_frames(TOKENIZER.encode(text)) <= num_frames
    }
    assert 0 < len(kept) < len(cuts)
    assert look(cuts, []).splits["train"].num_lost.total() == len(cuts) - len(kept)


def ctc_frames(tokens: list[int]) -> int:
    """The smallest number of frames for which the CTC loss is finite."""
    for num_frames in range(1, 100):
        log_probs = torch.full((1, num_frames, TOKENIZER.vocab_size), 0.1).log_softmax(-1)
        lens = torch.tensor([num_frames]), torch.tensor([len(tokens)])
        if len(tokens) <= num_frames and torch.isfinite(ctc_loss(log_probs, torch.tensor([tokens]), *lens, blank=0)).all():
            return num_frames
    raise AssertionError


def test_speed_and_heads_count(data: Path) -> None:
    cut = fastcopy(cuts_of(data)[0], duration=0.6)
    num_frames = num_encoder_frames(cut.num_samples)
    cuts = [with_text(cut, ("LO" * 20)[: num_frames - 1])]  # and one token for the start of a word
    assert not look(cuts, []).splits["train"].num_lost
    faster = BatchConfig(speed_factors=(0.9, 1.1))
    assert look(cuts, [], batch=faster).splits["train"].num_lost.total() == 1
    repeated = [with_text(cut, "L" * (num_frames - 1))]
    assert look(repeated, []).splits["train"].num_lost.total() == 1
    config = minute_config()
    transducer = dataclasses.replace(config.model, ctc=None)
    assert look(repeated, [], model=transducer).splits["train"].num_lost.total() == 0


def test_ids_and_texts_across_splits(data: Path) -> None:
    train_cuts = cuts_of(data)
    dev = [with_text(train_cuts[0], "UP  LO", id="a"), with_text(train_cuts[1], "LO LO LO LO LO", id=train_cuts[2].id)]
    report = look([with_text(train_cuts[0], "UP LO"), *train_cuts[1:]], dev)
    noted = report.splits["dev"].num_noted
    assert noted == {"with a text of the training part": 1, "with an id of the training part": 1}
    assert report.splits["dev"].examples["with a text of the training part"] == ["a"]
    report.require_usable()
    assert "dev: note: 1 of 2 (50.00%) with a text of the training part: a" in report.format_table()


def test_dev_set_that_is_empty_or_has_ids_twice(data: Path) -> None:
    train_cuts, dev = cuts_of(data), cuts_of(data, "dev")
    with pytest.raises(DataError, match="must be utterances to validate on, but the dev manifest holds none"):
        look(train_cuts, []).require_usable()
    with pytest.raises(DataError, match=r"id of its own, but 1 ids come again \(dev001\)"):
        look(train_cuts, [*dev, dev[1]]).require_usable()
    with pytest.raises(DataError, match="utterances to train on, but the training manifest holds none"):
        look([], dev).require_usable()


def test_missing_recordings_count(data: Path, tmp_path: Path) -> None:
    cuts = cuts_of(data)
    moved = [fastcopy(cut, recording=fastcopy(cut.recording, sources=[source_at(cut, tmp_path)])) for cut in cuts[:5]]
    report = look(moved + cuts[5:], cuts_of(data, "dev"))
    assert (report.splits["train"].num_missing, report.splits["train"].num_files_checked) == (5, 20)
    found = r"25.0% of 20 would be: 5 of 20 without their recording, such as .*gone\.flac .*; put the recordings back"
    with pytest.raises(DataError, match=found):
        report.require_usable()
    look(moved[:2] + cuts[2:], cuts_of(data, "dev")).require_usable()


def test_too_many_tokens_can_be_cured_by_pieces(data: Path) -> None:
    cuts = cuts_of(data)
    dense = [with_text(cut, "LO " * 40) for cut in cuts[:5]]
    with pytest.raises(DataError, match=r"5 with more tokens than encoder frames; use tokens of several letters.*unigram"):
        look(dense + cuts[5:], cuts_of(data, "dev")).require_usable()
    with pytest.raises(DataError) as raised:
        look([with_text(cut, "LO " * 40) for cut in cuts], cuts_of(data, "dev")).require_usable()
    assert "raise max_lost_share" not in str(raised.value)  # it would leave nothing to train on


def source_at(cut: Any, folder: Path) -> Any:
    return fastcopy(cut.recording.sources[0], source=str(folder / "gone.flac"))


class Endless:
    """A manifest of ten million cuts, each made only when requested."""

    def __init__(self, cut: Any) -> None:
        self.cut, self.num_read = cut, 0

    def __iter__(self) -> Iterator[Any]:
        for i in itertools.count():
            self.num_read += 1
            yield fastcopy(self.cut, id=f"u{i}")


def test_large_manifests_are_sampled(data: Path) -> None:
    endless = Endless(cuts_of(data)[0])
    report = look(endless, cuts_of(data, "dev"), most=50)
    assert endless.num_read == 51
    assert report.splits["train"].is_sample and report.splits["train"].num_utterances == 50
    assert "the first ones only" in report.format_table()
    cuts = [fastcopy(cuts_of(data)[0], id=f"u{i}") for i in range(1000)]
    report = look(cuts, cuts_of(data, "dev"), most=10)
    assert report.splits["train"].num_utterances == 10
    assert report.format_table().splitlines()[1].split()[:2] == ["train", "1,000"]
    assert "10, spread evenly" in report.format_table()
    short = [fastcopy(cut, duration=0.05) if i % 200 >= 100 else cut for i, cut in enumerate(cuts)]
    assert look(short, cuts_of(data, "dev"), most=10).splits["train"].lost_share == 0.5


def test_a_refused_run_can_start_with_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_tones(tmp_path / "data", num_train=20, num_dev=2)
    strict = minute_config(data, min_duration_s=2.0, num_epochs=1)
    with pytest.raises(DataError, match=r"100.0% of 20 would be: 20 too short"):
        train(strict, tmp_path / "run", is_quiet=True)
    assert "train: lost: 20 of 20" in capsys.readouterr().err
    train(minute_config(data, num_epochs=1), tmp_path / "run", is_quiet=True)
    assert "train: seconds of an utterance" in capsys.readouterr().err
    train(minute_config(data, num_epochs=2), tmp_path / "run", is_quiet=True)
    assert "seconds of an utterance" not in capsys.readouterr().err  # a run that is resumed has been checked


@pytest.mark.parametrize(("limit", "is_refused"), [(0.24, True), (0.25, False)])
def test_limit(data: Path, limit: float, is_refused: bool) -> None:
    cuts = cuts_of(data)
    cuts[:5] = [with_text(cut, "") for cut in cuts[:5]]
    report = look(cuts, cuts_of(data, "dev"), max_lost_share=limit)
    if is_refused:
        with pytest.raises(DataError, match="5 without exactly one text"):
            report.require_usable()
    else:
        report.require_usable()


def test_utterances_that_the_index_leaves_out_are_lost(data: Path, tmp_path: Path) -> None:
    cuts = cuts_of(data)
    write_cuts(tmp_path / "train_cuts.jsonl.gz", [with_text(cut, "") for cut in cuts[:5]] + cuts[5:])
    write_cuts(tmp_path / "dev_cuts.jsonl.gz", cuts_of(data, "dev"))
    report = examine(minute_config(tmp_path, min_duration_s=0.6), TOKENIZER, read_splits(minute_config(tmp_path)))
    found = report.splits["train"]
    num_short = sum(cut.duration < 0.6 for cut in cuts[5:])
    assert 0 < num_short == found.num_lost.total()
    assert found.lost_share == pytest.approx((5 + num_short) / 20)
    assert "train: lost: 5 of 20 (25.00%) without exactly one text" in report.format_table()
    with pytest.raises(DataError, match="5 without exactly one text"):
        report.require_usable()


def test_data_to_mix_in_is_examined_like_the_training_part(data: Path, tmp_path: Path) -> None:
    """What is mixed in has the same limits, is named by its folder, and its texts make those of dev known."""
    cuts, folders = cuts_of(data), [tmp_path / "good", tmp_path / "old"]
    for folder in folders:
        folder.mkdir()
    write_cuts(folders[0] / "train_cuts.jsonl.gz", cuts[:6])
    few = [with_text(cut, "LÖ", id=f"old {i}") if i < 2 else cut for i, cut in enumerate(cuts[:10])]
    moved = [fastcopy(cut, recording=fastcopy(cut.recording, sources=[source_at(cut, tmp_path)])) for cut in few[2:5]]
    write_cuts(folders[1] / "train_cuts.jsonl.gz", [*few[:2], *moved, *few[5:]])
    mix = tuple(MixConfig(data=str(folder), share=0.2) for folder in folders)
    config = minute_config(data, mix=mix, max_lost_share=0.3, max_unknown_share=0.2)
    splits = {**read_splits(config), "dev": [with_text(cuts_of(data, "dev")[0], "LÖ")]}
    report = examine(config, TOKENIZER, splits)
    assert list(report.splits) == ["train", "mix.0", "mix.1", "dev"]
    old = report.splits["mix.1"]
    assert (old.num_utterances, old.num_missing, old.unknown) == (10, 3, "Ö")
    assert report.splits["dev"].num_noted["with a text of the training part"] == 1
    rows = [line.split() for line in report.format_table().splitlines()[1:4]]
    assert [row[:2] + row[4:] for row in rows[1:]] == [
        ["mix.0", "6", "all", "of", str(folders[0])],
        ["mix.1", "10", "all", "of", str(folders[1])],
    ]
    assert "mix.1: lost: 3 of 10 (30.00%) without their recording" in report.format_table()
    report.require_usable()
    with pytest.raises(
        DataError, match=rf"20% of the utterances mixed in from {folders[1]} may be lost .* 30\.0% of 10 would"
    ):
        examine(dataclasses.replace(config, max_lost_share=0.2), TOKENIZER, splits).require_usable()
    with pytest.raises(
        DataError, match=rf"10% of the utterances mixed in from {folders[1]} may have characters .* Ö; the model"
    ):
        examine(dataclasses.replace(config, max_unknown_share=0.1), TOKENIZER, splits).require_usable()
    with pytest.raises(DataError, match=rf"to train on, but train_cuts.jsonl.gz in {folders[0]} holds none"):
        examine(config, TOKENIZER, {**splits, "mix.0": []}).require_usable()


def test_a_folder_to_mix_in_that_is_not_there(data: Path, tmp_path: Path) -> None:
    config = minute_config(data, mix=(MixConfig(data=str(tmp_path / "gone"), share=0.2),))
    with pytest.raises(DataError, match=r"gone.train_cuts.jsonl.gz must be a manifest of cuts, but there is no such file"):
        check_recipe(config, tmp_path / "run")


def test_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    config: TrainConfig = minute_config(tmp_path)
    with pytest.raises(DataError, match=r"train_cuts.jsonl.gz must be a manifest of cuts, but there is no such file"):
        read_splits(config)
    (tmp_path / "train_cuts.jsonl.gz").write_text("nonsense")
    write_cuts(tmp_path / "dev_cuts.jsonl.gz", [])
    with pytest.raises(DataError, match=r"train_cuts.jsonl.gz must be a lhotse manifest of cuts, but cannot be read"):
        check_new_run(config, TOKENIZER, tmp_path)


def test_check_writes_nothing_and_takes_the_vocabulary_of_the_run(data: Path, tmp_path: Path) -> None:
    report = check_recipe(minute_config(data), tmp_path / "run")
    assert report.splits["train"].unknown == ""
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    Tokenizer.train(["LO MID HI"], kind="char", vocab_size=None).save(tmp_path / "run" / "tokenizer")
    assert check_recipe(minute_config(data), tmp_path / "run").splits["train"].unknown == "NPUW"


def test_test_set_counts_too(data: Path, tmp_path: Path) -> None:
    write_cuts(tmp_path / "train_cuts.jsonl.gz", cuts_of(data))
    write_cuts(tmp_path / "dev_cuts.jsonl.gz", cuts_of(data, "dev"))
    cut = cut_of(data / "dev000.flac", "LO QUIZ " * 50)
    write_cuts(tmp_path / "test_cuts.jsonl.gz", [cut])
    report = check_recipe(minute_config(tmp_path), tmp_path / "run")
    assert report.splits["test"].unknown == "QZ"
    assert "test: cannot be scored: 1 of 1 (100.00%) with more tokens than encoder frames" in report.format_table()
    report.require_usable()


@pytest.mark.parametrize(
    ("pieces", "finetune", "cures"),
    [
        ("LO MID HI UP", "model", ["--text-style words", "--set finetune.vocabulary=new"]),
        ("lo mid hi up", "model", ["lower case", "--set finetune.vocabulary=new"]),
        ("Lo mid hi up", "model", ["style of the vocabulary", "--set finetune.vocabulary=new"]),
        ("LO MID HI UP", None, ["--text-style words", "leave tokenizer.file out"]),
    ],
)
def test_a_vocabulary_that_lacks_characters_of_many_utterances_is_refused(
    data: Path, pieces: str, finetune: str | None, cures: list[str]
) -> None:
    tokenizer = Tokenizer.train([pieces], kind="char", vocab_size=None)
    config = minute_config(finetune=FinetuneConfig(checkpoint=finetune) if finetune else None)
    known, strange = "".join(pieces.split()), "Œ"
    cuts = [with_text(cut, strange if i < 5 else known) for i, cut in enumerate(cuts_of(data))]
    splits = {"train": cuts, "dev": cuts_of(data, "dev")}
    with pytest.raises(DataError, match=r"25.0% of 20 have: Œ; the model") as caught:
        examine(config, tokenizer, splits).require_usable()
    assert all(cure in str(caught.value) for cure in cures)
    examine(dataclasses.replace(config, max_unknown_share=0.25), tokenizer, splits).require_usable()
    splits["train"] = [*cuts[:4], *cuts[5:]]  # 4 of 19
    with pytest.raises(DataError, match=r"21\.1% of 19"):
        examine(config, tokenizer, splits).require_usable()
    splits["train"] = cuts[1:]  # 4 of 19 again; in 20 they are few enough
    examine(config, tokenizer, {**splits, "train": [*cuts[1:], cuts[5]]}).require_usable()


@pytest.mark.parametrize(
    ("texts", "noted"),
    [
        (["it’s", "it's", "it's"], "’ in 1, ' in 2 (all count as ')"),
        (["cafe\u0301", "café"], "NFD in 1, NFC in 1 (all count as NFC)"),
        (["ONE", "two", "Three four"], "upper case in 1, lower case in 1, upper and lower case in 1 (a model learns each"),
        (["it’s ONE", "IT'S", "ONE"], "’ in 1, ' in 1 (all count as '); upper case in 2, upper and lower case in 1"),
        (["it’s so", "‘so’"], ""),
        (["ONE", "TWO 3", "'TIS"], ""),
        (["今天", "我"], ""),
        (["ANNA"] + ["So it is"] * 100, ""),
    ],
)
def test_mixed_spellings_are_noted_in_one_line(data: Path, texts: list[str], noted: str) -> None:
    cuts = cuts_of(data)
    cuts = [with_text(cuts[i % 20], text, id=str(i)) for i, text in enumerate(texts)]
    report = examine(minute_config(), TOKENIZER, {"train": cuts[:-1], "dev": cuts[-1:]})
    lines = [line for line in report.format_table().splitlines() if "spelled in several ways" in line]
    assert len(lines) == bool(noted) and noted in "".join(lines)
