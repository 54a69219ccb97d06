"""Contract: `zipasr inspect` prints what a person wants to know of a model, and the same as JSON; 1 if it cannot be used."""

import json
from pathlib import Path

import pytest

from tests.export.models import causal_model
from tests.hub.published_layouts import icefall_folder, model_of
from tests.model_kinds import REFUSED
from tests.onnx_runtime import small_graphs
from tests.tiny_model import save_tiny, tiny_tokenizer
from zipasr.cli import main


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The rows by name, each on one line."""
    assert main(["inspect", str(path)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(path)
    rows: dict[str, str] = {}
    name = ""
    for line in lines:
        name = line[:19].strip() or name
        rows[name] = f"{rows.get(name, '')} {line[19:].strip()}".strip()
    return rows


def test_a_model_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(save_tiny(tmp_path / "model"), capsys)
    assert rows["encoder"].startswith("Zipformer 2, layers 1 1 1, channels 32 64 48")
    assert rows["heads"] == "transducer (sees 2 labels), ctc" and "Kaldi" in rows["features"]
    assert rows["vocabulary"] == f"{tiny_tokenizer().vocab_size} labels, pieces, upper case"
    assert int(rows["parameters"].replace(",", "")) > 100_000 and rows["precision"] == "float32"
    assert (rows["loads"], rows["decodes offline"], rows["exports"]) == ("yes", "yes", "yes")
    assert rows["streams"].startswith("no: it is not causal")


def test_a_causal_model_and_graphs_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(causal_model().save(tmp_path / "model", tiny_tokenizer()), capsys)
    assert "(causal)" in rows["encoder"] and rows["chunks"].startswith("320, 640, 1280 ms") and rows["streams"] == "yes"
    rows = shown(small_graphs.write(tmp_path / "graphs", **small_graphs.transducer()), capsys)
    assert "ONNX" in rows["layout"] and "parameters" not in rows and "checkpoint" in rows["finetunes"]


def test_a_checkpoint_of_icefall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(tiny_tokenizer().vocab_size, heads=("ctc",))
    rows = shown(icefall_folder(tmp_path / "r", model, tiny_tokenizer().to_bytes(), "lang_bpe_48/bpe.model"), capsys)
    assert rows["heads"] == "ctc" and "icefall" in rows["layout"] and "pretrained.pt" in rows["files"]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_model_is_shown_with_the_reason(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = REFUSED[kind](tmp_path / "model")
    assert main(["inspect", str(path)]) == 1
    output = capsys.readouterr().out
    assert "cannot be used" in output and "files" in output and "loads" not in output


def test_json_has_all_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(save_tiny(tmp_path / "model")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "zipasr" and found["refused"] is None and found["bytes"] == sum(found["files"].values())
    assert found["description"]["encoder"]["channels"] == [32, 64, 48]
    assert found["abilities"]["streams"]["can"] is False and found["abilities"]["loads"] == {"can": True, "why_not": ""}


def test_a_missing_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "missing")]) == 1
    said = capsys.readouterr()
    assert "missing" in said.err and said.out == ""
