"""Law: a list of phrases allows its phrases and nothing else; and each mistake is told with its place."""

import math
from pathlib import Path

import pytest

from tests.grammar.grammars import grammar_of, sentences, slots
from zipasr.errors import ConfigError


def test_phrases_with_weights_and_tags(tmp_path: Path) -> None:
    text = "\ufeff# lights\n\nlight on {action=on}\n  /0.5/ light  off {action=off} {text}\r\nlight\n/0/ on\n"
    grammar = grammar_of(tmp_path, text, name="phrases.txt", header="")
    assert sentences(grammar, 3) == {"light on", "light off", "light"}
    assert slots(grammar, "light off") == {"action": "off", "text": "light off"}
    assert slots(grammar, "light on") == {"action": "on"}
    assert sorted({arc.score for arc in grammar.graph.arcs}) == pytest.approx([math.log(0.5), 0.0])
    assert grammar.name == "phrases" and grammar.slots == ("action", "text")
    assert {word: place[1:] for word, place in grammar.places.items()} == {"light": (3, 1), "on": (3, 7), "off": (4, 16)}


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "1:1", "must have at least one phrase"),
        ("# nothing\n\n", "1:1", "must have at least one phrase"),
        ("x\n  /much/ y", "2:3", "a weight must be a finite number from 0, but is much"),
        ("x\n/-1/ y", "2:1", "a weight must be a finite number from 0"),
        ("x\n{action=on}", "2:1", "a line must have words"),
        ("x {a=1} y", "1:1", "perhaps {tags} behind them"),
        ("x {a", "1:1", "perhaps {tags} behind them"),
        ("x\ny  {a b}", "2:4", "a tag must be"),
        ("/0/ x", "1:1", "must allow at least one word"),
    ],
)
def test_mistake_is_told_with_its_place(tmp_path: Path, text: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grammar_of(tmp_path, text, name="phrases.txt", header="")
    assert str(caught.value).startswith(f"{tmp_path / 'phrases.txt'}:{place}: ") and message in str(caught.value)
