"""Contract: `read_grammar` reads both kinds of files, and what a model cannot write is told word by word."""

import json
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.grammar.grammars import HEADER, grammar_of, sentences, slots
from zipasr.errors import ConfigError
from zipasr.grammar import read_grammar, require_spelling
from zipasr.tokenizer import Tokenizer


def test_kind_of_file_is_told_by_its_first_line_or_its_name(tmp_path: Path) -> None:
    assert grammar_of(tmp_path, "public <a> = x;", name="orders.txt").name == "test"
    assert grammar_of(tmp_path, "public a = x;", name="orders.txt", header="").name == "phrases"
    with pytest.raises(ConfigError, match="must start with #JSGF"):
        grammar_of(tmp_path, "public <a> = x;", name="orders.jsgf", header="")


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file with a grammar, but cannot be read"):
        read_grammar(tmp_path / "none.jsgf")


def test_what_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="must be text in utf-8-sig, but its byte 3 is not"):
        read_grammar(tmp_path / "a.txt")


def test_rules_of_tables_are_known_by_their_full_names(tmp_path: Path) -> None:
    table = tmp_path / "numeri.jsgf"
    table.write_text("#JSGF V1.0;\ngrammar numeri;\n<uno> = uno {+1};\npublic <n> = <uno> | due {+2};", encoding="utf-8")
    path = tmp_path / "test.jsgf"
    path.write_text(f"{HEADER}public <a> = <numeri.n> {{n}} | <zipasr.digit> {{d}};", encoding="utf-8")
    grammar = read_grammar(path, tables=[table])
    assert slots(grammar, "due") == {"n": 2} and slots(grammar, "two") == {"d": "2"}
    with pytest.raises(ConfigError, match=r"<numeri\.n> is not"):
        read_grammar(path)


def test_a_list_of_phrases_takes_no_tables(tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("one box\n")
    (tmp_path / "numeri.jsgf").write_text(f"{HEADER}public <n> = uno;")
    with pytest.raises(
        ConfigError, match=r"phrases\.txt must be JSGF for tables to have an effect, but is a list of phrases"
    ):
        read_grammar(tmp_path / "phrases.txt", tables=[tmp_path / "numeri.jsgf"])


def test_tables_may_replace_built_in_rules(tmp_path: Path) -> None:
    table = tmp_path / "english.jsgf"
    table.write_text("#JSGF V1.0;\ngrammar zipasr;\n<digit> = nought {&0} | niner {&9};", encoding="utf-8")
    path = tmp_path / "test.jsgf"
    path.write_text(f"{HEADER}public <a> = <zipasr.digits> {{d}} | <zipasr.month>;", encoding="utf-8")
    grammar = read_grammar(path, tables=[table])
    assert slots(grammar, "niner nought") == {"d": "90"}
    assert "nine" not in grammar.graph.words and "may" in grammar.graph.words


def test_words_that_a_vocabulary_cannot_spell_are_told_with_their_places(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["THE QUICK BROWN FOX JUMPS"], kind="char", vocab_size=None)
    grammar = grammar_of(tmp_path, "public <a> = the\n  7-up | кофе | the;")
    with pytest.raises(ConfigError) as caught:
        require_spelling(grammar, tokenizer)
    path = tmp_path / "test.jsgf"
    assert f"lacks '-7екоф' of {path}:4:3: '7-up', {path}:4:10: 'кофе';" in str(caught.value)
    require_spelling(grammar, tokenizer, lexicon={"7-up", "кофе"})
    require_spelling(grammar_of(tmp_path, "public <a> = the | The;"), tokenizer)


def test_a_model_of_phones_needs_a_lexicon(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("<blk> 0\nHH 1\nAH 2\nL 3\nOW 4\n")
    phones = Tokenizer.from_tokens(tmp_path / "tokens.txt")
    grammar = grammar_of(tmp_path, "public <a> = hello | Hello;")
    require_spelling(grammar, phones, lexicon=("HELLO",))
    for lexicon in ((), ("HALLO",)):
        with pytest.raises(
            ConfigError, match=r"the word 'hello' of a grammar must be .* or give the tokens .* with --lexicon"
        ):
            require_spelling(grammar, phones, lexicon=lexicon)


def test_words_that_cannot_be_said_are_not_asked_for(tmp_path: Path) -> None:
    grammar = grammar_of(tmp_path, "public <a> = x | y <VOID>; <unused> = z;")
    assert set(grammar.places) == {"x"}
    assert sentences(grammar, 2) == {"x"}


def test_example_of_the_documentation_is_true(tmp_path: Path) -> None:
    page = next(
        text for path in (REPOSITORY / "docs").glob("*.md") if "grammar coffee;" in (text := path.read_text("utf-8"))
    )
    example = re.search(r"```text\n(#JSGF.*?)```", page, re.DOTALL)
    said = re.search(r"`make me ([^`]*)`", page.replace("\n", " "))
    values = re.search(r"```json\n(.*?)```", page[example.end() :] if example else "", re.DOTALL)
    assert example and said and values
    grammar = grammar_of(tmp_path, example[1], header="", name="orders.jsgf")
    assert slots(grammar, f"make me {said[1]}") == json.loads(values[1])
    with pytest.raises(ConfigError) as caught:
        grammar_of(tmp_path, example[1].replace("<drink> {drink}", "<drnik> {drink}"), header="", name="orders.jsgf")
    assert str(caught.value).removeprefix(f"{tmp_path}/") in page
