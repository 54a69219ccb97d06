"""Run: every published recipe, shrunk, from a miniature of its corpus to error rates on a test set. Golden: the published
sizes. Contract: each recipe states its command, hardware and error rates, and docs/recipes.md lists it."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from tests.prepare.published_corpora import (
    write_aishell,
    write_gigaspeech,
    write_librispeech,
    write_musan,
    write_wenetspeech,
)
from tests.train.tones import minute_config
from zipasr.config import set_fields
from zipasr.data.augment import SpecAugmentConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError
from zipasr.evaluate import evaluate, read_cuts
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.model import AsrModel, medium
from zipasr.prepare import prepare
from zipasr.recipes import aishell, gigaspeech, librispeech, wenetspeech
from zipasr.recipes.find import find_recipe, recipe_names
from zipasr.recognizer import Recognizer
from zipasr.train.average_span import AverageSpan
from zipasr.train.config import TokenizerConfig, TrainConfig
from zipasr.train.loop import train

ROOT = Path(__file__).parents[2]
MODULES = {module.__name__.rpartition(".")[2]: module for module in (librispeech, aishell, wenetspeech, gigaspeech)}
NAMES = [name for name in recipe_names() if name.partition(":")[0] in MODULES]
PARAMETERS = {
    "librispeech:small": 23_285_615,
    "librispeech:medium": 65_549_011,
    "librispeech:large": 148_439_574,
    "librispeech:medium_streaming": 66_110_931,
    "librispeech:medium_transducer_ctc": 65_805_511,
    "aishell:medium_cr_ctc": 66_218_471,
    "aishell:medium_bbpe": 65_549_011,
    "wenetspeech:small": 32_327_030,
    "wenetspeech:medium": 75_879_898,
    "wenetspeech:large": 160_059_933,
    "gigaspeech:medium": 65_549_011,
}
"""Sizes that are published exactly; the others are published in millions, which their docstrings state."""
TEST_SETS = {
    "librispeech": ("test-clean", "test-other"),
    "aishell": ("test",),
    "wenetspeech": ("test-net", "test-meeting"),
    "gigaspeech": ("test",),
}
HOURS = {"librispeech": 2881.0, "aishell": 510.0, "wenetspeech": 30_000.0, "gigaspeech": 10_000.0}
"""Hours of audio in an epoch, including the copies at other speeds."""


def documentation(name: str) -> str:
    module, _, function = name.partition(":")
    text: str = getattr(MODULES[module], function).__doc__
    return text


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every miniature corpus, prepared as a user prepares the real one."""
    root = tmp_path_factory.mktemp("published")
    writers = {
        "librispeech": write_librispeech,
        "aishell": write_aishell,
        "wenetspeech": write_wenetspeech,
        "gigaspeech": write_gigaspeech,
        "musan": write_musan,
    }
    for name, write in writers.items():
        prepare(f"{name}:{write(root / 'downloads' / name)}", root / "data" / name)
    return root / "data"


def shrunk(config: TrainConfig, data: Path) -> TrainConfig:
    """The recipe with a model of two stacks, for a few batches of a few seconds on a CPU; everything else is unchanged."""
    tiny = minute_config()
    assert isinstance(config.model.encoder, ZipformerConfig) and isinstance(tiny.model.encoder, ZipformerConfig)
    encoder = dataclasses.replace(tiny.model.encoder, is_causal=config.model.encoder.is_causal)
    network = dataclasses.replace(config.model, encoder=encoder)
    if network.transducer is not None:
        transducer = TransducerConfig(predictor_dim=32, joiner_dim=32, context_size=network.transducer.context_size)
        network = dataclasses.replace(network, transducer=transducer)
    if network.attention is not None:
        decoder = AttentionConfig(num_layers=1, dim=32, attention_dim=32, num_heads=2, feedforward=64)
        network = dataclasses.replace(network, attention=decoder)
    vocab_size = None if config.tokenizer.vocab_size is None else 20
    noise = config.batch.noise
    if noise is not None:
        noise = dataclasses.replace(noise, cuts=str(data.parent / noise.cuts), prob=1.0)
    return dataclasses.replace(
        config,
        data=str(data.parent / config.data),
        model=network,
        tokenizer=dataclasses.replace(config.tokenizer, vocab_size=vocab_size),
        batch=dataclasses.replace(config.batch, max_duration_s=6.0, num_buckets=1, noise=noise),
        num_epochs=1,
        precision="float32",
        device="cpu",
        num_workers=0,
    )


@pytest.mark.parametrize("name", NAMES)
def test_from_the_corpus_to_error_rates(tmp_path: Path, data: Path, name: str) -> None:
    test_sets = TEST_SETS[name.partition(":")[0]]
    test_set = test_sets[NAMES.index(name) % len(test_sets)]
    config = shrunk(find_recipe(name), data)
    report = train(config, tmp_path, is_quiet=True)
    num_speeds = len(config.batch.speed_factors)
    num_utterances = sum(1 for _ in read_cuts(Path(config.data) / "train_cuts.jsonl.gz"))
    assert report.num_steps >= num_utterances * num_speeds / 6
    recognizer = Recognizer.load(tmp_path, device="cpu")
    result = evaluate(
        recognizer,
        read_cuts(Path(config.data) / f"{test_set}_cuts.jsonl.gz"),
        scoring="gigaspeech" if name.startswith("gigaspeech") else None,
    )
    is_mandarin = name.startswith(("aishell", "wenetspeech"))
    tokenizer = recognizer.engine.tokenizer
    assert (tokenizer.is_spaceless, tokenizer.is_byte_level) == (is_mandarin and "bbpe" not in name, "bbpe" in name)
    if tokenizer.is_byte_level:  # two characters in each utterance, and each is a word
        assert result.words.num_reference == result.characters.num_reference == 2 * len(result.results) > 0
    elif is_mandarin:  # two characters in each utterance, and each is an id
        assert recognizer.engine.tokenizer.pieces[3:] == sorted("低中高上下")
        assert result.characters.num_reference == 2 * len(result.results) > 0
        assert all(len(recognizer.engine.tokenizer.encode(utterance.ref)) == 2 for utterance in result.results)
    else:
        assert result.words.num_reference >= 2 * len(result.results) > 0
        assert "<" not in "".join(utterance.ref for utterance in result.results)


def test_a_published_table_of_characters_fixes_the_ids(tmp_path: Path, data: Path) -> None:
    symbols = ["<blk>", "<sos/eos>", "<unk>", *"下上一高中低二", "#0"]
    table = tmp_path / "tokens.txt"
    table.write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)), encoding="utf-8")
    config = set_fields(shrunk(find_recipe("aishell:small"), data), [f"tokenizer.file={table}"])
    train(config, tmp_path / "exp", is_quiet=True)
    trained, tokenizer = AsrModel.load(tmp_path / "exp" / "model")
    assert tokenizer.pieces == symbols[:-1] and trained.config.vocab_size == 10
    with pytest.raises(CheckpointError, match=r"tokenizer\.file must be a vocabulary, but .* cannot be read"):
        train(set_fields(config, ["tokenizer.file=absent.model"]), tmp_path / "exp2", is_quiet=True)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        num_parameters = sum(p.numel() for p in AsrModel(find_recipe(name).model).parameters())
    assert num_parameters == PARAMETERS.get(name, num_parameters)
    stated = re.search(r"Parameters: ([\d.]+) M", documentation(name))
    assert stated is not None and f"{num_parameters / 1e6:.1f}" == stated[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_states_command_hardware_hours_and_error_rates(name: str) -> None:
    text = documentation(name)
    rates = re.findall(r"\d+\.\d\d", text.splitlines()[0])
    assert len(rates) >= 2 and len(rates) % {"wenetspeech": 3}.get(name.partition(":")[0], 2) == 0
    command = re.search(r"torchrun --nproc-per-node (\d+) -m zipasr train (\S+) --out exp/\w+\n", text)
    assert command is not None and command[2] == name
    assert re.search(rf"Hardware: {command[1]} (V100|A100|GPUs)", text) and "Hours: " in text and "Published: " in text
    hours = re.search(r"Hours: (\d+) \((\d+) epochs of (\d+) minutes\)", text)
    if hours is not None:
        assert int(hours[2]) == find_recipe(name).num_epochs
        assert int(hours[1]) == pytest.approx(int(hours[2]) * int(hours[3]) / 60, abs=0.6)


def test_documentation_lists_every_recipe_with_the_same_figures() -> None:
    rows = {}
    for line in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith("`") and cells[0].strip("`") in NAMES:
            rows[cells[0].strip("`")] = cells
    assert list(rows) == NAMES or set(rows) == set(NAMES)
    for name, cells in rows.items():
        text = documentation(name)
        stated = re.search(r"Parameters: ([\d.]+) M", text)
        command = re.search(r"--nproc-per-node (\d+)", text)
        assert stated is not None and command is not None
        assert stated[1] in cells and cells[2].startswith(command[1])
        assert re.findall(r"\d+\.\d\d", text.splitlines()[0]) == re.findall(r"\d+\.\d\d", cells[-1]), name


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_reach_back_over_the_published_average(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = find_recipe(name)
    num_gpus = int(re.findall(r"--nproc-per-node (\d+)", documentation(name))[0])
    total = config.num_epochs * HOURS[name.partition(":")[0]] * 3600 / (config.batch.max_duration_s * num_gpus)
    assert config.keep_checkpoints * config.save_interval > config.average_share * total
    AverageSpan(config, tmp_path).foresee(int(total))
    assert not caplog.records


def test_byte_level_pieces_of_aishell() -> None:
    """Source: the AISHELL recipe of icefall, its run with byte-level pieces of January 16, 2024."""
    config, characters = aishell.medium_bbpe(), aishell.medium()
    assert config.tokenizer == TokenizerConfig(kind="bbpe", vocab_size=500)
    assert config.model == medium() and config.model.transducer is not None and config.model.transducer.context_size == 2
    assert (config.num_epochs, config.average_share, config.lr_epochs) == (40, 0.25, 10.0)
    same = {"model": characters.model, "tokenizer": characters.tokenizer, "lr_epochs": 18.0, "num_epochs": 55}
    assert dataclasses.replace(config, **same, average_share=characters.average_share) == characters


def test_what_the_corpora_differ_in() -> None:
    speeds = {name: find_recipe(name).batch.speed_factors for name in NAMES}
    assert {name for name, factors in speeds.items() if factors != (0.9, 1.0, 1.1)} == {"gigaspeech:medium"}
    assert {name for name in NAMES if find_recipe(name).batch.noise is None} == {
        name for name in NAMES if name.startswith("aishell")
    }
    assert aishell.medium().batch.spec_augment == SpecAugmentConfig(time_warp_frames=20)
    assert librispeech.medium().batch.spec_augment == wenetspeech.medium().batch.spec_augment == SpecAugmentConfig()
    durations = {name: (c.min_duration_s, c.max_duration_s) for name, c in ((n, find_recipe(n)) for n in NAMES)}
    assert {durations[name] for name in NAMES if name.startswith("librispeech")} == {(1.0, 20.0)}
    assert durations["aishell:small"] == (1.0, 12.0) and durations["wenetspeech:large"] == (1.0, 15.0)
    assert [find_recipe(f"{corpus}:medium").lr_epochs for corpus in MODULES] == [3.5, 18.0, 1.5, 1.0]
    assert [find_recipe(f"{corpus}:medium").lr_warmup_start for corpus in MODULES] == [0.1, 0.5, 0.5, 0.5]
    for name in NAMES:
        find_recipe(name).check_loss_scales()
