"""What validations write. Law: a model and its search are written at once. Contract: what users saved stays or goes."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.train.tones import minute_config, write_tones
from zipasr import checkpoint
from zipasr.lm import NGRAM_FILE
from zipasr.model import WEIGHTS_FILE
from zipasr.search.default_search import SEARCH_FILE
from zipasr.search.strategy import SearchConfig
from zipasr.train import validator
from zipasr.train.config import TrainConfig
from zipasr.train.loop import train

OWN = {
    "confidence.json": b"a calibration",
    NGRAM_FILE: b"an n-gram of more text",
    SEARCH_FILE: json.dumps({"search": {"method": "beam", "beam": 8}, "chosen_on": "dev_cuts.jsonl.gz (6)"}).encode(),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    data = write_tones(tmp_path_factory.mktemp("data"), num_train=24, num_dev=6)
    plain = minute_config(data, num_epochs=3, save_interval=2, valid_interval=2, average_period=1)
    return dataclasses.replace(plain, ngram_order=3)


@pytest.fixture(scope="module")
def finished(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config, tmp_path_factory.mktemp("run"), is_quiet=True).folder


def test_a_model_is_written_with_its_search(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = checkpoint.write_folder, dict[str, set[str]]()

    def recorded(folder: Path, **files: Any) -> Path:
        path = write(folder, **files)
        written[path.parent.name if path.name != "model" else "model"] = {file.name for file in path.iterdir()}
        return path

    monkeypatch.setattr(checkpoint, "write_folder", recorded)
    monkeypatch.setattr(validator, "write_folder", recorded)
    train(dataclasses.replace(config, num_epochs=1), tmp_path, is_quiet=True)
    assert {SEARCH_FILE, NGRAM_FILE} <= written["model"] and {SEARCH_FILE, NGRAM_FILE} <= written["best"]
    assert not {SEARCH_FILE, NGRAM_FILE} & written["checkpoints"]


@pytest.mark.parametrize("selection", ["last", "best"])
def test_a_finished_run_keeps_what_users_saved(
    config: TrainConfig,
    finished: Path,
    tmp_path: Path,
    selection: Literal["last", "best"],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, folder = dataclasses.replace(config, selection=selection), shutil.copytree(finished, tmp_path / "run")
    expected = train(config, folder, is_quiet=True)
    weights = (folder / "model" / WEIGHTS_FILE).read_bytes()
    for name, content in OWN.items():
        (folder / "model" / name).write_bytes(content)
    capsys.readouterr()
    report = train(config, folder, is_quiet=True)
    assert "what was saved there stays: confidence.json, ngram.safetensors, search.json" in "".join(capsys.readouterr())
    assert {name: (folder / "model" / name).read_bytes() for name in OWN} == OWN
    assert (report.wer, (folder / "model" / WEIGHTS_FILE).read_bytes()) == (expected.wer, weights)


def test_a_search_that_training_chose_is_chosen_again(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "model" / "confidence.json").write_bytes(OWN["confidence.json"])
    train(dataclasses.replace(config, search=SearchConfig(method="ctc_greedy"), ngram_order=None), folder, is_quiet=True)
    assert json.loads((folder / "model" / SEARCH_FILE).read_bytes())["search"] == {"method": "ctc_greedy"}
    assert not (folder / "model" / NGRAM_FILE).exists()
    assert (folder / "model" / "confidence.json").read_bytes() == OWN["confidence.json"]


def test_another_model_replaces_what_users_saved(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    for name, content in OWN.items():
        (folder / "model" / name).write_bytes(content)
    train(dataclasses.replace(config, num_epochs=config.num_epochs + 1), folder, is_quiet=True)
    assert not (folder / "model" / "confidence.json").exists()
    assert OWN[SEARCH_FILE] != (folder / "model" / SEARCH_FILE).read_bytes()
    assert OWN[NGRAM_FILE] != (folder / "model" / NGRAM_FILE).read_bytes()
