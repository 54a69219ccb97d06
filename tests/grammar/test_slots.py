"""Law: tags come out as slots with values, and outputs that stop anywhere leave out what has not ended."""

from pathlib import Path

import pytest

from tests.grammar.grammars import grammar_of, slots
from zipasr.grammar import match_words, slots_of


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        ("public <a> = x;", "x", {}),
        ("public <a> = one (extra large | small) {size} tea;", "one extra large tea", {"size": "extra large"}),
        ("public <a> = x (large | grande) {size=large};", "x grande", {"size": "large"}),
        ("public <a> = <s> {size}; <s> = grande {=extra large} | small;", "grande", {"size": "extra large"}),
        ("public <a> = <s> {size}; <s> = grande {=extra large} | small;", "small", {"size": "small"}),
        ("public <a> = x y {t};", "x y", {"t": "y"}),
        ("public <a> = (x y) {t} {kind=b};", "x y", {"t": "x y", "kind": "b"}),
        ("public <a> = (x {t})+ ;", "x x x", {"t": ["x", "x", "x"]}),
        ("public <a> = x {kind=b} {=c} {t} {+1};", "x", {"t": "c", "kind": "b"}),
        ("public <a> = x {t} + {u};", "x x", {"u": {"t": ["x", "x"]}}),
        ("public <a> = x+ {t};", "x x x", {"t": "x x x"}),
        ("public <a> = (to x {who} at y {place}) {call};", "to x at y", {"call": {"who": "x", "place": "y"}}),
        ("public <a> = (one {+1} | two {+2}) {n};", "two", {"n": 2}),
        ("public <a> = zero {+0} {n};", "zero", {"n": 0}),
        ("public <a> = (two {+2} thousand {*1000} five {+5}) {n};", "two thousand five", {"n": 2005}),
        ("public <a> = (oh {&0} | seven {&7})+ {pin};", "oh seven oh", {"pin": "070"}),
        (r"public <a> = x {t=50\} %};", "x", {"t": "50} %"}),
        ("public <a> = x {t=a:end};", "x", {"t": "a:end"}),
        ("public <a> = x {=lost} {+4};", "x", {}),
    ],
)
def test_tags_come_out_as_slots(tmp_path: Path, rules: str, text: str, expected: dict[str, object]) -> None:
    assert slots(grammar_of(tmp_path, rules), text) == expected


def test_symbols_hold_no_white_space(tmp_path: Path) -> None:
    """Tables of symbols, such as words.txt, separate their columns by it."""
    grammar = grammar_of(tmp_path, "public <a> = x {t=extra\tlarge \u00a0 tea} y {size};")
    tags = [arc.tag for arc in grammar.graph.arcs if arc.tag]
    assert len(tags) == 3 and not [tag for tag in tags if len(tag.split()) != 1]
    assert slots(grammar, "x y") == {"t": "extra\tlarge \u00a0 tea", "size": "y"}


def test_what_has_not_ended_is_left_out(tmp_path: Path) -> None:
    grammar = grammar_of(tmp_path, "public <a> = x {first} (y z) {second};")
    outputs = match_words(grammar.graph, ["x", "y", "z"])
    assert outputs is not None
    found = [slots_of(outputs[:length]) for length in range(len(outputs) + 1)]
    assert found == [{}, {}, {}, *[{"first": "x"}] * 4, {"first": "x", "second": "y z"}]


def test_slots_have_names(tmp_path: Path) -> None:
    grammar = grammar_of(tmp_path, "public <a> = x {size} | <b>; <b> = y {kind=b} {=z}; <unused> = z {lost};")
    assert grammar.slots == ("kind", "size")
