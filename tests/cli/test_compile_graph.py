"""Contract: `zipasr compile-graph` writes the folder of a graph and prints its size; misuse and bad files are one line."""

import json
from pathlib import Path

import pytest

from tests.tiny_model import save_tiny, tiny_tokenizer
from zipasr.cli import main
from zipasr.search.graph import load_graph


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model") / "model"))


def test_it_prints_what_it_wrote(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "phrases.txt").write_text("one box\ntwo box\n")
    command = ["compile-graph", model, str(tmp_path / "phrases.txt"), "--out", str(tmp_path / "boxes"), "--hlg"]
    assert main(command) == 0
    graph = load_graph(tmp_path / "boxes", tiny_tokenizer()).graph
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'boxes'}: {graph.num_states} states, {graph.num_arcs} arcs, 3 outputs; HLG.fst has ")
    assert main([*command, "--json", "--rejection", "1.5", "--name", "orders"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["graph"], report["arcs"], report["slots"]) == (str(tmp_path / "boxes"), graph.num_arcs, [])
    loaded = load_graph(tmp_path / "boxes", tiny_tokenizer())
    assert (loaded.name, loaded.settings) == ("orders", {"rejection": 1.5})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "must be made of a grammar, --arpa or --fst, but of nothing"),
        (["phrases.txt", "--scale", "2"], 2, "--scale has no effect without --arpa"),
        (["phrases.txt", "--rejection", "nan"], 2, "--rejection must be a finite number"),
        (["missing.jsgf"], 2, "missing.jsgf"),
        (["--arpa", "missing.arpa"], 1, "missing.arpa"),
        (["--arpa", "phrases.txt"], 1, "must start with"),
        (["--fst", "phrases.txt"], 1, "must be an OpenFst file"),
        (["phrases.txt", "--lexicon", "phrases.txt"], 1, "must have a word and tokens of the model in each line"),
        (["numbers.txt"], 2, "numbers.txt:2:1: '42'"),
    ],
)
def test_bad_input_is_one_line(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("phrases.txt").write_text("one box\n")
    Path("numbers.txt").write_text("one\n42\n")
    assert main(["compile-graph", model, *arguments, "--out", "graph"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("graph").exists()
