"""Contract: `zipasr train` checks its arguments first, and reports in one line what it wrote or what is wrong."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.train.runs import assert_same, content
from tests.train.tones import write_tones
from zipasr.cli import main
from zipasr.config import from_json
from zipasr.recipes.configure import is_given
from zipasr.recipes.find import find_recipe
from zipasr.recipes.own_data import fit_to_data
from zipasr.train.config import TrainConfig
from zipasr.train.folder import stored_config
from zipasr.train.state import checkpoint_path

FEW_STEPS = [
    part
    for setting in (
        "num_epochs=1",
        "batch.speed_factors=1.0",
        "tokenizer.kind=char",
        "tokenizer.vocab_size=20",
        "device=cpu",
    )
    for part in ("--set", setting)
]


def show(capsys: pytest.CaptureFixture, *argv: str) -> TrainConfig:
    assert main(["train", *argv, "--out", "nowhere", "--show"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return from_json(TrainConfig, json.loads(captured.out))


def test_show_prints_the_recipe_with_settings(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    config = show(capsys, "prompts:tiny")
    assert config == find_recipe("prompts:tiny")
    config = show(capsys, "prompts:tiny", "--set", "lr=0.03", "--set", "batch.speed_factors=1.0,1.2", "--set", "data=mine")
    assert (config.lr, config.batch.speed_factors, config.data) == (0.03, (1.0, 1.2), "mine")
    assert not Path("nowhere").exists()


def test_run_of_a_folder_says_what_follows_from_its_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_tones(tmp_path / "data", num_train=6, num_dev=1)
    assert main(["train", str(data), "--out", str(tmp_path / "run"), "--show"]) == 0
    captured = capsys.readouterr()
    config = from_json(TrainConfig, json.loads(captured.out))
    assert config == fit_to_data(str(data)).config
    said = captured.err.splitlines()
    assert [line.split(":")[0] for line in said[:4]] == ["data", "tokens", "lattice", "length"]
    assert f"{config.max_batches:,} batches" in said[3]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("budget", ["soon", "-5m", "0"])
def test_an_invalid_budget_is_misuse(budget: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "prompts:tiny", "--out", str(tmp_path / "run"), f"--budget={budget}"]) == 2
    assert "such as 20m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lrr=0.03", "there is no setting lrr; did you mean lr"),
        ("model.encoder.chanels=1,2", "did you mean model.encoder.channels"),
        ("num_epochs=many", "num_epochs must be a whole number, but is 'many'"),
        ("precision=float64", "precision must be one of float32, bfloat16"),
        ("lr", "a setting must be name=value, but is 'lr'"),
        ("log_interval=0", "log_interval must be at least 1"),
        ("device=abacus", "device must be auto, cpu, cuda, cuda:N or mps, but is 'abacus'"),
    ],
)
def test_wrong_settings_are_misuse(setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "prompts:tiny", "--out", str(tmp_path / "run"), "--set", setting]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "run").exists()


def test_a_missing_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["train", "prompts:tiny", "--out", str(tmp_path / "run"), "--set", "device=cuda"]) == 2
    error = capsys.readouterr().err
    assert "cuda" in error and "auto" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["prompts:tinny", "promts:tiny", "no/such/folder"])
def test_an_unknown_recipe_is_misuse_and_lists_the_known_ones(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 2
    assert "tiny" in capsys.readouterr().err


def test_missing_data_is_a_failure_with_its_cure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / "data"
    assert main(["train", "prompts:tiny", "--out", str(tmp_path / "run"), "--set", f"data={data}"]) == 1
    error = capsys.readouterr().err
    assert "train_cuts.jsonl.gz must be a manifest of cuts, but there is no such file" in error
    assert f"make it with: zipasr prepare SOURCE --out {data}" in error
    assert not (tmp_path / "run").exists()


def test_needs_an_output_folder(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "prompts:tiny"]) == 2
    assert "--out" in capsys.readouterr().err


def test_trains_on_a_data_folder_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, out = write_tones(tmp_path / "data", num_train=6, num_dev=2), tmp_path / "run"
    assert main(["train", str(data), "--out", str(out), "--no-progress", *FEW_STEPS]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{out / 'model'}: ")
    assert "dev WER" in captured.out
    assert "M parameters on cpu" in captured.err
    assert main(["evaluate", str(out), str(data / "dev_cuts.jsonl.gz"), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["num_utterances"] == 2
    assert main(["plot", str(out)]) == 0


def test_last_lines_say_where_the_model_is_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The printed commands work as they are, with a space in the path too."""
    data, out = write_tones(tmp_path / "my data", num_train=6, num_dev=2), tmp_path / "my run"
    shutil.copy(data / "dev_cuts.jsonl.gz", data / "test_cuts.jsonl.gz")
    assert main(["train", str(data), "--out", str(out), "--no-progress", *FEW_STEPS]) == 0
    *_, where, test = capsys.readouterr().out.splitlines()
    assert where.startswith(f"the model is in {out / 'model'}; ") and (out / "model" / "model.safetensors").is_file()
    transcribe = shlex.split(where.partition(": ")[2].replace("RECORDING", f"'{data / 'dev000.flac'}'"))
    evaluate = shlex.split(test.partition(": ")[2])
    for command in (transcribe, evaluate):
        assert command[0] == "zipasr"
        assert main([*command[1:], "--device", "cpu"]) == 0


def test_a_short_run_chooses_its_save_interval_unless_it_is_given(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The same command resumes. The weights do not depend on it."""
    data = write_tones(tmp_path / "data", num_train=6, num_dev=2)
    settings = [*FEW_STEPS, "--set", "max_batches=6", "--set", "num_epochs=8", "--set", "average_period=1"]
    recipe = ["prompts:tiny", "--set", f"data={data}", *settings]
    for name, given in (("chosen", []), ("given", ["--set", "save_interval=250"])):
        for _ in range(2):
            assert main(["train", *recipe, *given, "--out", str(tmp_path / name), "--no-progress"]) == 0
            captured = capsys.readouterr()
            assert ("the averaged model of" in captured.err) == (name == "given")
        stored = stored_config(tmp_path / name)
        assert stored is not None and (stored.save_interval == 250) == (name == "given")
    last = [content(checkpoint_path(tmp_path / name, 6))["model.safetensors"] for name in ("chosen", "given")]
    assert_same(*last)
    assert main(["train", *recipe, "--set", "save_interval=3", "--out", str(tmp_path / "chosen")]) == 2
    assert "save_interval (was " in capsys.readouterr().err


def test_a_recipe_file_is_taken_at_its_word(tmp_path: Path) -> None:
    """Its author chose the save interval."""
    assert is_given("save_interval", "my_recipe.py:mine", [])
    assert is_given("save_interval", "prompts:tiny", ["lr=0.1", "save_interval = 5"])
    assert not is_given("save_interval", "prompts:tiny", ["lr=0.1"])
    assert not is_given("save_interval", str(tmp_path), [])
