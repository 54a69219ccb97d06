"""Contract: `--graph` of transcribe and evaluate: whole phrases with slots, and misuse that is explained."""

import json
from pathlib import Path

import pytest
import soundfile

from tests.recognizer.phrase_graphs import ORDERS, phrase_graph
from tests.tiny_model import noise, save_tiny, tiny_tokenizer
from zipasr.cli import main
from zipasr.search.graph import save_graph
from zipasr.search.graph.folder import write_settings

WIDE = ["--graph-beam-nats", "10000"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_tiny(folder / "model")
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs") / "orders"
    save_graph(folder, phrase_graph(tiny_tokenizer()).graph, tiny_tokenizer())
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    for i in range(2):
        soundfile.write(folder / f"{i}.wav", noise(2.0 + i, i), 16_000)
        (folder / f"{i}.txt").write_text("LAZY DOG")
    return folder


@pytest.mark.parametrize("search", ["auto", "graph", "ctc_graph"])
def test_transcripts_are_phrases_with_slots(
    search: str, run_folder: Path, graph: Path, audio: Path, capsys: pytest.CaptureFixture
) -> None:
    paths = [str(audio / f"{i}.wav") for i in range(2)]
    options = ["--graph", str(graph), "--search", search, *WIDE]
    assert main(["transcribe", str(run_folder), *paths, *options, "--json"]) == 0
    for line in capsys.readouterr().out.splitlines():
        found = json.loads(line)
        ((name, value),) = found["slots"].items()
        assert ORDERS[found["text"]] == f"{{{name}={value}}}"
        assert found["shortfall"] > 0


def test_a_threshold_in_the_folder_makes_the_answer_nothing(
    run_folder: Path, graph: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_graph(tmp_path / "strict", phrase_graph(tiny_tokenizer()).graph, tiny_tokenizer())
    write_settings(tmp_path / "strict", {"rejection": 0.0})
    command = ["transcribe", str(run_folder), str(audio / "0.wav"), *WIDE, "--graph"]
    assert main([*command, str(graph)]) == 0
    assert capsys.readouterr().out.strip() in ORDERS
    assert main([*command, str(tmp_path / "strict")]) == 0
    assert capsys.readouterr().out.strip() == ""


def test_evaluation_and_tuning_under_a_graph(
    run_folder: Path, graph: Path, audio: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["evaluate", str(run_folder), str(audio), "--graph", str(graph), *WIDE, "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["search"]["method"] == "graph"
    assert "searches" not in report
    assert main([*command, "--tune", "blank_penalty=0,1"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-states", "5"], "--max-states has no effect without --graph"),
        (["--graph", "GRAPH", "--search", "beam"], "the search beam cannot use a graph"),
        (["--search", "ctc_graph"], "the search ctc_graph needs a graph, but there is none"),
        (["--graph", "missing"], "must be the folder of a graph, but"),
        (["--graph", "GRAPH", "--max-contexts", "0"], "max_contexts must be from 1 to"),
    ],
)
def test_misuse_is_explained(
    options: list[str],
    message: str,
    run_folder: Path,
    graph: Path,
    audio: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    options = [str(graph) if option == "GRAPH" else option for option in options]
    assert main(["transcribe", str(run_folder), str(audio / "0.wav"), *options]) in (1, 2)
    assert message in capsys.readouterr().err


def test_evaluate_saves_no_search_that_needs_a_graph(
    run_folder: Path, graph: Path, audio: Path, capsys: pytest.CaptureFixture
) -> None:
    for more in (["--compare"], ["--tune", "--save"]):
        assert main(["evaluate", str(run_folder), str(audio), "--graph", str(graph), *more]) in (1, 2)
        assert "--graph" in capsys.readouterr().err
