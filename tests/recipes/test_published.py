"""Run: every published recipe, shrunk, from a miniature of its corpus to error rates on a test set. Golden: the settings and
sizes of the original (`published_values`). Contract: each recipe states its command, hardware, date and error rates, and
docs/recipes.md lists it, and everything that differs."""

import dataclasses
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.prepare.published_corpora import (
    write_aishell,
    write_gigaspeech,
    write_librispeech,
    write_musan,
    write_wenetspeech,
)
from tests.recipes.published_values import DIFFERENCES, OURS, PUBLISHED
from tests.train.tones import minute_config
from zipasr.config import set_fields, to_json
from zipasr.data.augment import SpecAugmentConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError
from zipasr.evaluate import evaluate, read_cuts
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.model import AsrModel
from zipasr.prepare import prepare
from zipasr.recipes import aishell, gigaspeech, librispeech, wenetspeech
from zipasr.recipes.find import find_recipe, recipe_names
from zipasr.recognizer import Recognizer
from zipasr.train.average_span import AverageSpan
from zipasr.train.config import TrainConfig
from zipasr.train.data import read_split
from zipasr.train.loop import train

ROOT = Path(__file__).parents[2]
MODULES = {module.__name__.rpartition(".")[2]: module for module in (librispeech, aishell, wenetspeech, gigaspeech)}
NAMES = [name for name in recipe_names() if name.partition(":")[0] in MODULES]
TEST_SETS = {
    "librispeech": ("test-clean", "test-other"),
    "aishell": ("test",),
    "wenetspeech": ("test-net", "test-meeting"),
    "gigaspeech": ("test",),
}
HOURS = {"librispeech": 2881.0, "aishell": 510.0, "wenetspeech": 30_000.0, "gigaspeech": 30_000.0}
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
    durations_s = read_split(config.data, "train").durations_s
    copies_s = [round(float(d) / speed, 8) for d in durations_s for speed in config.batch.speed_factors]
    num_copies = sum(config.min_duration_s <= copy_s <= config.max_duration_s for copy_s in copies_s)
    assert report.num_steps >= num_copies / 6 > 0
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


def settings(config: TrainConfig) -> dict[str, Any]:
    """Every setting of a configuration by its dotted name, including those that are None."""

    def leaves(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{name}.{key}" if name else key).items()}

    return leaves(to_json(config), "")


def test_the_table_has_every_published_recipe() -> None:
    assert set(PUBLISHED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_the_original(name: str) -> None:
    config = find_recipe(name)
    original, ours, model = PUBLISHED[name].settings, settings(config), config.model
    differing = {setting: rows[name] for setting, rows in DIFFERENCES.items() if name in rows}
    expected = {**original, **differing}
    wrong = {setting: (ours.get(setting), value) for setting, value in expected.items() if ours.get(setting) != value}
    assert not wrong, "ours and the original's"
    assert all(original[setting] != value for setting, value in differing.items()), "a difference is none"
    has_effect = {
        "simple_loss_scale": model.transducer is not None,
        "ctc_loss_scale": model.ctc is not None and (model.transducer is not None or model.attention is not None),
        "attention_loss_scale": model.attention is not None,
    }
    compared = {*original, *PUBLISHED[name].unknown, *OURS, *(scale for scale in has_effect if not has_effect[scale])}
    assert {setting for setting in ours if not setting.startswith("search.")} <= compared


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        num_parameters = sum(p.numel() for p in AsrModel(find_recipe(name).model).parameters())
    published = PUBLISHED[name].parameters
    whole, point, decimals = published.partition(".")
    counted = f"{num_parameters / 1e6:.{len(decimals)}f}" if point else str(num_parameters)
    assert counted == (published if decimals else whole)
    stated = re.search(r"Parameters: ([\d.]+) M", documentation(name))
    assert stated is not None and f"{num_parameters / 1e6:.1f}" == stated[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_states_the_trainer_that_it_follows(name: str) -> None:
    run, text = PUBLISHED[name], documentation(name)
    assert f"Follows: icefall of {date.fromisoformat(run.date + '-01'):%B %Y}" in text
    if run.num_gpus is not None:
        assert f"--nproc-per-node {run.num_gpus} " in text


def test_documentation_tells_all_differences_in_one_list() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    _, heading, rest = text.partition("## Differences from the original\n")
    assert heading
    listed = rest.partition("\n## ")[0]
    lines = re.findall(r"^- (.*(?:\n  .*)*)", listed, flags=re.MULTILINE)
    named = {name for line in lines for name in re.findall(r"`([a-z0-9_.]+)`", line)}
    assert set(DIFFERENCES) <= named
    assert {name for run in PUBLISHED.values() for name in run.unknown} <= named


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


def test_what_the_corpora_differ_in() -> None:
    speeds = {name: find_recipe(name).batch.speed_factors for name in NAMES}
    assert set(speeds.values()) == {(0.9, 1.0, 1.1)}
    assert {name for name in NAMES if find_recipe(name).batch.noise is None} == {
        name for name in NAMES if name.startswith("aishell")
    }
    assert aishell.medium().batch.spec_augment == SpecAugmentConfig(time_warp_frames=20)
    assert librispeech.medium().batch.spec_augment == wenetspeech.medium().batch.spec_augment == SpecAugmentConfig()
    assert librispeech.small_ctc().lr == librispeech.small().lr == 0.04
    for name in NAMES:
        find_recipe(name).check_loss_scales()
