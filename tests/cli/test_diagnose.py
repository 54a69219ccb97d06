"""Contract: `zipasr diagnose` prints the worst modules first, all of them as JSON, and says what is wrong with its input."""

import json
from pathlib import Path

import pytest

from tests.train.tones import minute_model, write_cuts, write_tones
from zipasr.cli import main
from zipasr.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnose")
    write_tones(folder / "data", num_train=1, num_dev=4)
    tokenizer = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)
    minute_model(vocab_size=tokenizer.vocab_size).save(folder / "model", tokenizer)
    return folder


def test_table(folder: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["diagnose", str(folder / "model"), str(folder / "data" / "dev_cuts.jsonl.gz"), "--device", "cpu"]
    assert main([*argv, "--rows", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 utterances" in lines[0] and "the end of training" in lines[0]
    assert len(lines) == 6
    assert all(line.startswith("! ") for line in lines[2:5])
    assert "modules are outside their limits" in lines[-1] and "not shown, --rows 0 shows all" in lines[-1]
    assert main([*argv, "--rows", "0", "--utterances", "2"]) == 0
    out = capsys.readouterr().out
    assert "whiteness" in out and "entropy" in out and "2 utterances" in out
    assert "not shown" not in out


def test_json(folder: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["diagnose", str(folder / "model"), str(folder / "data" / "dev_cuts.jsonl.gz"), "--json"]
    assert main([*argv, "--outputs"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_utterances"] == 4 and document["step"] == "inf"
    badness = [module["badness"] for module in document["modules"]]
    assert badness == sorted(badness, reverse=True)
    assert {module["kind"] for module in document["modules"]} == {"balancer", "whiten", "attention", "output"}


@pytest.mark.parametrize(
    ("model", "cuts", "more", "code", "message"),
    [
        ("no", "data/dev_cuts.jsonl.gz", [], 1, "must be a model folder"),
        ("model", "data/no.jsonl.gz", [], 1, "there is no such file"),
        ("model", "data/empty.jsonl.gz", [], 1, "holds none with a text"),
        ("model", "data/dev_cuts.jsonl.gz", ["--utterances", "0"], 2, "--utterances must be 1 or more"),
        ("model", "data/dev_cuts.jsonl.gz", ["--rows", "-1"], 2, "--rows must be 0 or more"),
    ],
)
def test_refuses(
    folder: Path, capsys: pytest.CaptureFixture, model: str, cuts: str, more: list[str], code: int, message: str
) -> None:
    write_cuts(folder / "data" / "empty.jsonl.gz", [])
    assert main(["diagnose", str(folder / model), str(folder / cuts), *more]) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert "Traceback" not in captured.err
