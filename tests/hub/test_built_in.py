"""Contract: the model that comes with the package opens by its name wherever a model is named, unless a file of that name is
there; it is small, streams, has its card and its credits, and is not written to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import zipasr
from tests.tiny_model import noise, save_tiny
from zipasr.checkpoint import CheckpointFolder
from zipasr.cli import main
from zipasr.errors import ConfigError
from zipasr.hub import built_in_names, is_built_in, local_model
from zipasr.hub.built_in import built_in_folder, refuse_built_in
from zipasr.recipes.commands import pretrained
from zipasr.train.config import FinetuneConfig
from zipasr.train.source import open_source

NAME = "commands"
FOLDER = built_in_folder(NAME)


@pytest.fixture
def audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recording in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", noise(1.0), 16_000)
    return "a.wav"


def test_it_is_found_by_its_name() -> None:
    assert NAME in built_in_names() and is_built_in(NAME)
    assert local_model(NAME) == FOLDER == Path(zipasr.__file__).parent / "pretrained" / NAME
    assert not is_built_in("command") and not is_built_in("pretrained") and not is_built_in("")


def test_every_file_is_as_it_was_written_and_small() -> None:
    folder = CheckpointFolder(FOLDER)
    for name in folder.names():
        folder.checksum(name)
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() == {*folder.names(), "checksums.json", "search.json", "README.md", "ATTRIBUTION.md"}
    assert sum(files.values()) <= 3_000_000


def test_it_streams_and_has_the_shape_of_its_recipe(audio: str) -> None:
    recognizer = zipasr.load(NAME)
    assert recognizer.transcribe(np.zeros(16_000, np.float32)).text == ""
    stream = recognizer.stream()
    stream.accept_waveform(np.zeros(32_000, np.float32))
    assert stream.finish().text == ""
    made = CheckpointFolder(FOLDER).document("config.json")
    assert pretrained().model.encoder.is_causal and made["encoder"]["is_causal"]
    assert made["transducer"]["lattice"] == "modified"


def test_verbs_take_its_name(audio: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", NAME, audio, "--json"]) == 0
    Path("keywords.txt").write_text("STOP\n")
    assert main(["spot", NAME, "--keywords", "keywords.txt", audio]) == 0
    assert main(["inspect", NAME]) == 0
    assert main(["profile", NAME, "--json"]) == 0


@pytest.mark.parametrize("flags", [("--precision", "int8"), ("--precision", "float32"), ("--max-gb", "-3")], ids=" ".join)
def test_flags_of_downloads_do_not_apply_to_it(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", NAME, *flags]) == 2
    assert f"{flags[0]} is for models on the hub" in capsys.readouterr().err


def test_it_is_described_with_the_precision_of_its_weights(audio: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["description"]["precision"] == "int8"


def test_training_starts_from_it() -> None:
    source = open_source(FinetuneConfig(checkpoint=NAME))
    assert source.path == FOLDER and source.tokenizer.can_encode


def test_a_folder_of_its_name_comes_first(audio: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny(Path(NAME))
    assert not is_built_in(NAME) and local_model(NAME) == Path(NAME)
    assert main(["inspect", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["description"]["is_causal"] is False
    shutil.rmtree(NAME)
    Path(NAME).write_text("no model")
    assert main(["transcribe", NAME, audio]) == 1
    assert "must be a model folder, but is a file" in capsys.readouterr().err


def test_a_copy_is_written_to_and_the_original_is_not(audio: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"comes with the package; copy it first: zipasr pull {NAME} --out DIR"):
        refuse_built_in(FOLDER)
    Path("rows.jsonl").write_text(json.dumps({"audio": audio, "text": "STOP"}) + "\n")
    assert main(["evaluate", NAME, "rows.jsonl", "--save", "--compare"]) == 2
    assert f"copy it first: zipasr pull {NAME} --out DIR" in capsys.readouterr().err
    assert main(["pull", NAME, "--out", "copy"]) == 0
    assert capsys.readouterr().out.strip() == "copy"
    refuse_built_in(Path("copy"))
    before = CheckpointFolder("copy").blob("model.safetensors")
    assert main(["evaluate", "copy", "rows.jsonl", "--save", "--compare"]) == 0
    assert main(["pull", NAME, "--out", "copy"]) == 0, "a copy is replaced"
    assert before == CheckpointFolder(FOLDER).blob("model.safetensors")
    assert main(["pull", NAME]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(FOLDER)
