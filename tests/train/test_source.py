"""A finetuning run whose source checkpoint is gone. Run: it continues as if the source were there, and warns. Contract: what
needs the source."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from tests.train.recipes import transducer_recipe
from tests.train.runs import stop_after_batches
from tests.train.tones import NEW_WORDS, WORDS, minute_config, minute_model, vocabulary, write_tones
from zipasr.checkpoint import CheckpointFolder
from zipasr.cli import main
from zipasr.errors import CheckpointError
from zipasr.train.loop import train
from zipasr.train.resolve import resolve
from zipasr.train.source import SOURCE_FOLDER
from zipasr.train.state import AVERAGE_FILE, LORA_FILE, TENSORS_FILE, checkpoint_folders


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("new"), num_train=24, num_dev=2, sounds=NEW_WORDS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return minute_model().save(tmp_path / "source", vocabulary(WORDS))


TAKES_ANY_TEXT = "max_unknown_share=1"
"""The data have letters that the vocabulary of the source lacks."""
SETTINGS = [
    ["finetune.vocabulary=new", "finetune.lora={}"],
    ["finetune.parts=encoder", "finetune.frozen=encoder.frontend"],
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_goes_on_without_it(
    data: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: list[str],
) -> None:
    """The same command gives the same bits in the end."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from pathlib import Path\nfrom tests.train.recipes import transducer_recipe\n"
        "from zipasr.train.config import TrainConfig\n"
        f"def few() -> TrainConfig:\n    return transducer_recipe(Path({str(data)!r}))\n"
    )
    argv = ["train", f"{file}:few", "--from", str(source), "--no-progress"]
    argv += [part for text in settings for part in ("--set", text)]
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        stop_after_batches(patch, 2)
        assert main([*argv, "--out", str(tmp_path / "stopped")]) == 130
    assert len(checkpoint_folders(tmp_path / "stopped")) == 1
    shutil.rmtree(source)
    with caplog.at_level(logging.WARNING):
        assert main([*argv, "--out", str(tmp_path / "stopped")]) == 0
    assert caplog.text.count(f"{source}, from which this run started, is gone; continuing without it") == 1
    number, whole = list(checkpoint_folders(tmp_path / "whole").items())[-1]
    stopped = checkpoint_folders(tmp_path / "stopped")[number]
    for name in (TENSORS_FILE, AVERAGE_FILE, "model.safetensors", *([LORA_FILE] if "lora" in settings[-1] else [])):
        expected, found = CheckpointFolder(whole).tensors(name), CheckpointFolder(stopped).tensors(name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items()), name


@pytest.mark.parametrize("settings", [*SETTINGS, []])
def test_configuration_is_the_same_without_it(data: Path, source: Path, tmp_path: Path, settings: list[str]) -> None:
    """This holds if only the checkpoint has a head, and if only the recipe has one."""
    settings = [*settings, TAKES_ANY_TEXT]
    both = minute_config(data, num_epochs=1)
    for name, config in (("one", transducer_recipe(data)), ("both", both)):
        expected = resolve(config, settings, str(source))
        train(expected, tmp_path / name, is_quiet=True)
        moved = source.rename(tmp_path / "moved")
        assert resolve(config, settings, str(source), tmp_path / name) == expected
        moved.rename(source)


def test_what_needs_it(data: Path, source: Path, tmp_path: Path) -> None:
    """The source is needed by a run without a checkpoint, by an older run without a record, and to check another hash."""
    run = tmp_path / "run"
    config = resolve(transducer_recipe(data), [TAKES_ANY_TEXT], str(source))
    train(config, run, is_quiet=True)
    assert config.finetune is not None
    noted = run / SOURCE_FOLDER
    noted.rename(tmp_path / "noted")
    train(resolve(transducer_recipe(data), ["num_epochs=3", TAKES_ANY_TEXT], str(source)), run, is_quiet=True)
    assert noted.is_dir()
    shutil.rmtree(source)
    resolve(transducer_recipe(data), [TAKES_ANY_TEXT], str(source), run)
    with pytest.raises(CheckpointError, match="to begin with"):
        resolve(transducer_recipe(data), [f"finetune.sha256={'0' * 64}", TAKES_ANY_TEXT], str(source), run)
    with pytest.raises(CheckpointError, match="to begin with"):
        resolve(transducer_recipe(data), [TAKES_ANY_TEXT], str(source), tmp_path / "another")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="to begin with"):
        train(config, run, is_quiet=True)
