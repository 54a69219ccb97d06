"""Contract: a graph is compiled for a model from each kind of source, and sources that do not fit are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.search.graph.paths import scores_of_tokens
from tests.tiny_model import noise, save_tiny, tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.recognizer.graph_compilation import GraphSource, compile_graph
from zipasr.search.graph import add_ctc_topology, load_graph
from zipasr.search.graph.folder import read_symbols
from zipasr.search.graph.openfst import read_graph

TOKENIZER = tiny_tokenizer()
GRAMMAR = "#JSGF V1.0;\ngrammar boxes;\npublic <box> = (ONE | TWO) {number} BOX | PACK {verb=pack};\n"
TWO_WORDS = "\\data\\\nngram 1=4\n\n\\1-grams:\n-99\t<s>\n-1\t</s>\n-0.5\tONE\n-0.6\tTWO\n\n\\end\\\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "model")


def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text))


def test_a_grammar(model: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.jsgf").write_text(GRAMMAR)
    source = GraphSource(grammar=str(tmp_path / "boxes.jsgf"))
    report = compile_graph(model, source, tmp_path / "graph", rejection=0.7)
    assert (report.slots, report.hlg_arcs) == (("number", "verb"), None)
    loaded = load_graph(tmp_path / "graph", TOKENIZER)
    assert (report.num_states, report.num_arcs) == (loaded.graph.num_states, loaded.graph.num_arcs)
    said = {said.tokens for said in scores_of_tokens(loaded.graph, 60)}
    assert said == {tokens_of(text) for text in ("ONE BOX", "TWO BOX", "PACK")}
    assert loaded.name == "graph"
    assert loaded.settings == {"rejection": 0.7}
    assert loaded.made_of == {"grammar": "boxes.jsgf"}


def test_phrases_with_spellings_of_a_lexicon(model: Path, tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("one 42\n")
    a, b = TOKENIZER.pieces[5:7]
    (tmp_path / "lexicon.txt").write_text(f"42 {a} {b}\n")
    source = GraphSource(grammar=str(tmp_path / "phrases.txt"), lexicon=str(tmp_path / "lexicon.txt"))
    compile_graph(model, source, tmp_path / "graph", name="numbers")
    loaded = load_graph(tmp_path / "graph", TOKENIZER)
    (said,) = scores_of_tokens(loaded.graph, 60)
    assert said.tokens == (*tokens_of("ONE"), 5, 6)
    search = SearchConfig(method="graph", graph_beam_nats=1e4)
    found = Recognizer.load(model, search=search, graph=tmp_path / "graph").transcribe(noise(3.0))
    assert found.text == "ONE 42" and [word.text for word in found.words] == ["ONE", "42"]
    assert [token.id for token in found.tokens] == [*tokens_of("ONE"), 5, 6]
    assert loaded.name == "numbers"
    with pytest.raises(ConfigError, match=r"phrases\.txt:1:5: '42'"):
        compile_graph(model, GraphSource(grammar=str(tmp_path / "phrases.txt")), tmp_path / "graph")


def test_rules_of_a_table(model: Path, tmp_path: Path) -> None:
    (tmp_path / "numbers.jsgf").write_text("#JSGF V1.0;\ngrammar numbers;\npublic <small> = ONE | TWO;\n")
    (tmp_path / "boxes.jsgf").write_text("#JSGF V1.0;\ngrammar boxes;\npublic <box> = <numbers.small> BOX;\n")
    source = GraphSource(grammar=str(tmp_path / "boxes.jsgf"), tables=(str(tmp_path / "numbers.jsgf"),))
    compile_graph(model, source, tmp_path / "graph")
    loaded = load_graph(tmp_path / "graph", TOKENIZER)
    assert {said.tokens for said in scores_of_tokens(loaded.graph, 60)} == {tokens_of("ONE BOX"), tokens_of("TWO BOX")}
    assert loaded.made_of == {"grammar": "boxes.jsgf", "tables": ["numbers.jsgf"]}


def test_an_ngram_model_and_its_hlg_as_another_programs_graph(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(TWO_WORDS)
    source = GraphSource(arpa=str(tmp_path / "a.arpa"), scale=0.5)
    report = compile_graph(model, source, tmp_path / "words", has_hlg=True)
    loaded = load_graph(tmp_path / "words", TOKENIZER)
    assert loaded.made_of == {"arpa": "a.arpa", "scale": 0.5}
    scores = scores_of_tokens(loaded.graph, 2 * len(tokens_of("ONE")))
    found = {said.outputs: score for said, score in scores.items()}
    assert found["ONE",] == pytest.approx(0.5 * np.log(10) * (-0.5 - 1), abs=1e-3)
    expected = add_ctc_topology(loaded.graph, TOKENIZER.blank_id)
    assert report.hlg_arcs == expected.num_arcs
    hlg, words = tmp_path / "words" / "HLG.fst", tmp_path / "words" / "words.txt"
    symbols = read_symbols(words)
    read = read_graph(hlg, num_tokens=TOKENIZER.vocab_size, blank_id=TOKENIZER.blank_id, symbols=symbols)
    np.testing.assert_array_equal(read.tokens, expected.tokens)
    compile_graph(model, GraphSource(fst=str(hlg), words=str(words)), tmp_path / "hlg")
    again = load_graph(tmp_path / "hlg", TOKENIZER)
    assert again.graph.has_ctc_topology
    assert again.graph.symbols == loaded.graph.symbols
    assert again.made_of == {"fst": "HLG.fst", "words": "words.txt"}
    np.testing.assert_array_equal(again.graph.scores, expected.scores)
    compile_graph(model, GraphSource(fst=str(hlg)), tmp_path / "words")  # without --hlg: that of before is gone
    assert not hlg.exists()
    assert load_graph(tmp_path / "words", TOKENIZER).graph.symbols == ("",)  # numbers instead of words say nothing


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "must be made of a grammar, --arpa or --fst, but of nothing"),
        ({"grammar": "a", "arpa": "b"}, "but of grammar and arpa"),
        ({"grammar": "a", "scale": 1.0}, "--scale has no effect without --arpa"),
        ({"grammar": "a", "words": "w"}, "--words has no effect without --fst"),
        ({"arpa": "a", "tables": ("t",)}, "--table has no effect without a grammar"),
        ({"fst": "a", "lexicon": "l"}, "--lexicon has no effect without a grammar or --arpa"),
    ],
)
def test_sources_that_do_not_belong_together_are_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GraphSource(**source)
