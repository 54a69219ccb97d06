"""Contract: a folder gives back the graph that was written; graphs of other vocabularies and damaged folders are refused."""

import json
import sys
from pathlib import Path

import pytest

from tests.search.graph.random_graphs import assert_same
from tests.search.graph.vocabularies import VOCABULARIES
from zipasr.errors import ConfigError, DataError, ZipasrError
from zipasr.search.graph import TokenGraph, WordArc, WordGraph, add_ctc_topology, compile_words, load_graph, save_graph
from zipasr.search.graph.folder import read_symbols, vocabulary_hash, write_settings
from zipasr.tokenizer import Tokenizer

BPE = VOCABULARIES["bpe"].tokenizer


def compiled(word: str = "LIGHT") -> TokenGraph:
    return compile_words(WordGraph((WordArc(0, 1, word, "{size=a b}", -0.5),), {1: 0.0}), BPE)


@pytest.mark.parametrize("has_topology", [False, True])
def test_a_folder_gives_back_the_graph(tmp_path: Path, has_topology: bool) -> None:
    graph = add_ctc_topology(compiled(), BPE.blank_id) if has_topology else compiled()
    save_graph(tmp_path / "lights", graph, BPE, made_of={"grammar": "grün.jsgf"}, settings={"rejection": 0.7})
    loaded = load_graph(tmp_path / "lights", BPE)
    assert_same(loaded.graph, graph)
    assert loaded[1:] == ("lights", {"rejection": 0.7}, {"grammar": "grün.jsgf"})
    assert sorted(path.name for path in (tmp_path / "lights").iterdir()) == ["graph.fst", "graph.json", "words.txt"]


def test_a_folder_is_read_without_kaldifst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = compiled()
    save_graph(tmp_path, graph, BPE)
    monkeypatch.setitem(sys.modules, "kaldifst", None)
    assert_same(load_graph(tmp_path, BPE).graph, graph)


def test_a_graph_replaces_the_one_before(tmp_path: Path) -> None:
    save_graph(tmp_path, compiled(), BPE, settings={"rejection": 0.7})
    (tmp_path / "notes.txt").write_text("mine")
    save_graph(tmp_path, compiled("ON"), BPE, name="on")
    loaded = load_graph(tmp_path, BPE)
    assert_same(loaded.graph, compiled("ON"))
    assert (loaded.name, loaded.settings) == ("on", {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_settings_are_changed_in_place(tmp_path: Path) -> None:
    save_graph(tmp_path, compiled(), BPE, settings={"rejection": 0.7, "beam": 8})
    write_settings(tmp_path, {"rejection": None, "unit": "token"})
    assert load_graph(tmp_path, BPE).settings == {"rejection": None, "beam": 8, "unit": "token"}
    for value in (float("nan"), [1]):
        with pytest.raises(ConfigError, match="the setting rejection must be a finite number"):
            write_settings(tmp_path, {"rejection": value})


def test_the_vocabulary_is_that_of_the_model(tmp_path: Path) -> None:
    save_graph(tmp_path, compiled(), BPE)
    load_graph(tmp_path, Tokenizer(BPE.to_bytes()))
    BPE.save(tmp_path / "model")
    decoding = Tokenizer.from_tokens(tmp_path / "model" / "tokens.txt")  # as an exported model may come
    assert vocabulary_hash(decoding) == vocabulary_hash(BPE)
    load_graph(tmp_path, decoding)
    with pytest.raises(ConfigError, match="must be one for the vocabulary of this model"):
        load_graph(tmp_path, VOCABULARIES["unigram"].tokenizer)


@pytest.mark.parametrize("name", ["graph.fst", "words.txt", "graph.json"])
def test_missing_and_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    save_graph(tmp_path, compiled(), BPE)
    content = (tmp_path / name).read_bytes()
    for size in range(len(content)):
        (tmp_path / name).write_bytes(content[:size])
        if name == "graph.json" and size == len(content) - 1:
            continue  # a missing line end changes nothing
        with pytest.raises(DataError, match=name):
            load_graph(tmp_path, BPE)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name}.* cannot be read"):
        load_graph(tmp_path, BPE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "must have format 1, but has 2"),
        ({"settings": []}, "must have the fields format, name"),
        ({"files": {}}, "must list graph.fst and words.txt"),
        ({"files": {"graph.fst": "0", "../words.txt": "0"}}, "must list graph.fst and words.txt"),
        ({"name": None}, "must have the fields"),
    ],
)
def test_descriptions_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save_graph(tmp_path, compiled(), BPE)
    about = json.loads((tmp_path / "graph.json").read_text())
    (tmp_path / "graph.json").write_text(json.dumps(about | changes))
    with pytest.raises(DataError, match=message):
        load_graph(tmp_path, BPE)


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZipasrError, match=r"file.* must be writable"):
        save_graph(tmp_path / "file" / "graph", compiled(), BPE)


@pytest.mark.parametrize("symbol", ["{a\nb}", " {a}", ""])
def test_outputs_that_are_no_line_are_refused(tmp_path: Path, symbol: str) -> None:
    graph = TokenGraph(
        **{name: getattr(compiled(), name) for name in TokenGraph.__dataclass_fields__} | {"symbols": ("", symbol, "a")}
    )
    with pytest.raises(ConfigError, match="an output must be text in one line"):
        save_graph(tmp_path, graph, BPE)


def test_symbols_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("<eps> 0\nnew york\t2\n\ngrün 1\n#0 5\n", encoding="utf-8")
    assert read_symbols(path) == ("", "grün", "new york", "3", "4", "#0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have symbols, but is empty"),
        (b"<eps> 0\na\n", "line 2 is 'a'"),
        (b"<eps> 0\n7\n", "line 2 is '7'"),
        (b"<eps> 0\na -1\n", "line 2"),
        (b"a 0\nb 0\n", "line 2"),
        (b"a 0\nb 1e3\n", "line 2"),
        (b"<eps> 0\ngr\xfcn 1\n", "line 2 is no UTF-8"),
        (b"<eps> 0\na 999999999999\n", "must have the indices 0, 1, 2, ..., but has 999999999999"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_symbols(tmp_path / "words.txt")
