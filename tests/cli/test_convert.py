"""Contract: `zipasr convert` writes a model folder that the other verbs open, prints what it holds, and refuses misuse."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from tests.hub.published_layouts import (
    icefall_folder,
    model_of,
    sentencepiece_model,
    soundsgoodai_folder,
    soundsgoodai_model,
)
from tests.tiny_model import noise, save_tiny
from zipasr.cli import main
from zipasr.hub import shrink
from zipasr.hub.description import describe_folder
from zipasr.model import WEIGHTS_FILE, AsrModel
from zipasr.search.confidence import Calibration, read_calibrations, write_calibration
from zipasr.search.default_search import read_default_search, write_default_search
from zipasr.search.strategy import SearchConfig


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return icefall_folder(tmp_path / "repository", model_of(40), sentencepiece_model())


def test_convert_and_transcribe(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["convert", str(repository), "--out", str(out), "--blank-penalty", "2"]) == 0
    said = capsys.readouterr().out
    assert f"{out}: encoder with transducer, ctc, 40 tokens, kaldi features (exp/pretrained.pt, " in said
    assert "default search: method beam, blank_penalty 2.0" in said
    soundfile.write(tmp_path / "a.wav", noise(0.5), 16_000)
    assert main(["transcribe", str(out), str(tmp_path / "a.wav"), "--json"]) == 0


def test_json(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, vocabulary = tmp_path / "out", repository / "data" / "lang_bpe_40" / "bpe.model"
    checkpoint = repository / "exp" / "pretrained.pt"
    command = ["convert", str(checkpoint), "--out", str(out), "--tokenizer", str(vocabulary), "--num-heads", "1,2", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": str(out),
        "from": "repository/exp/pretrained.pt, repository/exp/train.sh",
        "family": "icefall",
        "vocab_size": 40,
        "can_encode": True,
        "heads": ["transducer", "ctc"],
        "is_causal": False,
        "features": "kaldi",
        "search": None,
    }


def test_settings_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = soundsgoodai_folder(tmp_path / "repository", soundsgoodai_model())
    assert main(["convert", str(root), "--out", str(tmp_path / "out"), "--beam", "2", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["family"], written["vocab_size"]) == ("soundsgoodai", 39)
    assert written["search"] == {"method": "beam", "beam": 2}
    assert AsrModel.load(tmp_path / "out")[1].decode([4]) != ""


def test_a_vocabulary_that_only_decodes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = "".join(f"{token} {i}\n" for i, token in enumerate(["<blk>", *(f"sound{i}" for i in range(1, 40))]))
    root = icefall_folder(tmp_path / "repository", model_of(40), table.encode(), "lang_phone/tokens.txt")
    assert main(["convert", str(root), "--out", str(tmp_path / "out"), "--features", "whisper"]) == 0
    said = capsys.readouterr().out
    assert "whisper features" in said and "no hotwords, alignment or training on" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--num-heads", "x"], 2, "--num-heads must be a number, or numbers with commas"),
        (["--num-heads", "3"], 2, "num_heads=3 cannot be true of stack 0"),
        (["--max-gb", "0"], 2, "--max-gb must be positive, but is 0"),
        (["--max-gb", "1e-6"], 1, "must have at most 1e-06 GB"),
        (["--tokenizer", "absent.model"], 1, "there is no such file"),
        (["--features", "mel"], 2, "invalid choice"),
        (["--beam", "0"], 2, "beam must be at least 1, but is 0"),
    ],
)
def test_misuse(
    repository: Path, tmp_path: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(repository), "--out", str(tmp_path / "out"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_not_replaced(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(repository), "--out", str(repository)]) == 2
    assert "must be a new folder or one of an earlier conversion" in capsys.readouterr().err
    assert (repository / "exp" / "pretrained.pt").is_file()


def test_other_verbs_say_how_to_open_a_checkpoint(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository / "exp" / "pretrained.pt"
    assert main(["transcribe", str(path), "a.wav"]) == 1
    assert f"zipasr convert {path} --out converted" in capsys.readouterr().err
    assert main(["transcribe", str(repository), "a.wav"]) == 1
    assert f"it holds a checkpoint of another project; convert it: zipasr convert {repository} --out DIR" in (
        capsys.readouterr().err
    )


def test_int8_shrinks_a_model_of_ours_and_of_others(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text stays the same or nearly so; a second conversion replaces the first; the default search is kept."""
    assert main(["convert", str(repository), "--out", str(tmp_path / "full"), "--beam", "2"]) == 0
    assert main(["convert", str(repository), "--out", str(tmp_path / "direct"), "--beam", "2", "--int8"]) == 0
    for _ in range(2):
        assert main(["convert", str(tmp_path / "full"), "--out", str(tmp_path / "small"), "--int8"]) == 0
    assert "default search: method beam, beam 2" in capsys.readouterr().out
    sizes = {name: (tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("full", "small", "direct")}
    assert sizes["small"] == sizes["direct"] < 0.5 * sizes["full"]
    full, small = (AsrModel.load(tmp_path / name)[0].state_dict() for name in ("full", "small"))
    for name, weights in full.items():
        if weights.is_floating_point() and weights.ndim > 1:
            bound = weights.flatten(1).abs().amax(1).max() / 254 * 1.001
            assert (small[name] - weights).abs().max() <= bound, name
        else:
            assert torch.equal(small[name], weights), name


def test_int8_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny(tmp_path / "run" / "model")
    assert main(["convert", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "zipasr"
    soundfile.write(tmp_path / "a.wav", noise(0.5), 16_000)
    assert main(["transcribe", str(tmp_path / "out"), str(tmp_path / "a.wav")]) == 0
    assert describe_folder(tmp_path / "out").precision == "int8"
    assert describe_folder(tmp_path / "run" / "model").precision == "float32"
    assert main(["average", "--checkpoints", str(tmp_path / "out"), "--out", str(tmp_path / "mean")]) == 1
    assert "must have its weights in full, but has them in eight bits" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "run"), "--out", str(tmp_path / "new"), "--int8", "--beam", "2"]) == 2
    assert "only --int8 and --out apply to it" in capsys.readouterr().err


def test_int8_keeps_the_default_search_and_the_calibrations(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    write_default_search(folder, SearchConfig(method="beam", beam=8), [], chosen_on="dev")
    write_calibration(folder, "beam", Calibration(temperature=2.0))
    out = shrink(folder, tmp_path / "out")
    assert read_default_search(out) == read_default_search(folder)
    assert read_calibrations(out) == read_calibrations(folder) != {}
