"""Law: a JSGF grammar allows what its rules say, tried sentence by sentence; each mistake is told with its place."""

import itertools
import math
import re
from pathlib import Path

import pytest

from tests.grammar.grammars import HEADER, grammar_of, sentences, slots
from zipasr.errors import ConfigError
from zipasr.grammar import match_words, read_grammar


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("public <a> = x y;", {"x y"}),
        ("public <a> = x | y z;", {"x", "y z"}),
        ("public <a> = x [y];", {"x", "x y"}),
        ("public <a> = (x | y) z;", {"x z", "y z"}),
        ("public <a> = x*;", {"", "x", "x x", "x x x"}),
        ("public <a> = x+;", {"x", "x x", "x x x"}),
        ("public <a> = x (y | z)* x;", {"x x", "x y x", "x z x"}),
        ("public <a> = [x]* y;", {"y", "x y", "x x y"}),
        ("public <a> = x* | y+ | z;", {"", "x", "x x", "x x x", "y", "y y", "y y y", "z"}),
        ("public <a> = [x+] [y*];", {"", "x", "y", *"x x|x y|y y|x x x|x x y|x y y|y y y".split("|")}),
        ("public <a> = <b> <b>; <b> = x | y;", {"x x", "x y", "y x", "y y"}),
        ("public <a> = x; public <b> = y;", {"x", "y"}),
        ("public <a> = <NULL> | x;", {"", "x"}),
        ("public <a> = x <VOID> | y;", {"y"}),
        ("public <a> = x <a> | y;", {"y", "x y", "x x y"}),
        ("public <a> = x [<a>];", {"x", "x x", "x x x"}),
        ("public <a> = x <b> | z; <b> = y <a>;", {"z", "x y z"}),
        ("public <a> = z <r> | y; <r> = x [<r>];", {"y", "z x", "z x x"}),
        ("public <a> = (<r> | y) z; <r> = x [<r>];", {"y z", "x z", "x x z"}),
        ("public <a> = /0/ x | /1/ y;", {"y"}),
        ('public <a> = "x y" z;', {"x y z"}),
        ("public <a> = <test.b>; <b> = x;", {"x"}),
        ("// one\npublic /* two\nlines */ <a> = x /* three */ y; // four", {"x y"}),
        ("import <zipasr.digits>;\npublic <a> = x;", {"x"}),
        ("import <zipasr.weekday>;\npublic <a> = x; <weekday> = y;", {"x"}),
        ("public <import> = x; <grammar> = y;", {"x"}),
    ],
)
def test_grammar_allows_what_its_rules_say(tmp_path: Path, rules: str, allowed: set[str]) -> None:
    assert sentences(grammar_of(tmp_path, rules), 3) == allowed


def test_words_may_have_any_characters(tmp_path: Path) -> None:
    grammar = grammar_of(tmp_path, r'public <a> = o\'clock | C\+\+ | a/b | "semi;colon" | "quo\"te" | ചായ;')
    assert set(grammar.graph.words) == {"o'clock", "C++", "a/b", "semi;colon", 'quo"te', "ചായ"}


def test_names_of_grammars_may_have_dots(tmp_path: Path) -> None:
    header = "#JSGF V1.0 UTF-8 en;\ngrammar com.example.orders;\n"
    rules = "public <a> = <b> <orders.b> <com.example.orders.b>; <b> = x;"
    assert sentences(grammar_of(tmp_path, rules, header=header), 3) == {"x x x"}


def test_file_is_read_in_the_encoding_that_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "test.jsgf"
    path.write_bytes("#JSGF V1.0 ISO-8859-1;\r\ngrammar test;\r\npublic <a> = café;\r\n".encode("latin-1"))
    assert read_grammar(path).graph.words == ("café",)


@pytest.mark.parametrize("imported", ["digits", "*"])
def test_imported_rules_are_known_by_their_simple_names(tmp_path: Path, imported: str) -> None:
    grammar = grammar_of(tmp_path, f"import <zipasr.{imported}>;\npublic <a> = <digits> {{n}} | at <zipasr.digits> {{m}};")
    assert slots(grammar, "one two") == {"n": "12"} and slots(grammar, "at two") == {"m": "2"}
    own = grammar_of(tmp_path, f"import <zipasr.{imported}>;\npublic <a> = <digits>; <digits> = x;")
    assert sentences(own, 2) == {"x"}


def test_private_rules_are_not_among_all_that_are_imported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="<n_1_99> is not"):
        grammar_of(tmp_path, "import <zipasr.*>;\npublic <a> = <n_1_99>;")


def test_weights_are_relative_to_the_likeliest(tmp_path: Path) -> None:
    grammar = grammar_of(tmp_path, "public <a> = /6/ x | /3/ y | /1.5e0/ z;")
    scores = {arc.word: arc.score for arc in grammar.graph.arcs}
    assert scores == pytest.approx({"x": 0.0, "y": -0.693147, "z": -1.386294}, abs=1e-6)


def test_weights_may_be_of_any_size(tmp_path: Path) -> None:
    grammar = grammar_of(tmp_path, "public <a> = /1e-200/ x | /1e200/ y;")
    scores = {arc.word: arc.score for arc in grammar.graph.arcs}
    assert scores == pytest.approx({"x": -400 * math.log(10), "y": 0.0})


def test_the_likeliest_of_several_ways_counts(tmp_path: Path) -> None:
    assert slots(grammar_of(tmp_path, "public <a> = /1/ x {kind=first} | /2/ x {kind=second};"), "x") == {"kind": "second"}


@pytest.mark.parametrize(
    ("rules", "place", "message"),
    [
        ("public <a> = <drnik>;\n<drink> = x;", "3:14", "did you mean <drink>?"),
        ("public <a> = x\n  <zipasr.digit_s>;", "4:3", "did you mean <zipasr.digits>?"),
        ("public <a> = <a> x | y;", "3:14", "a rule must not start with itself, but this one does: <a> -> <a>"),
        ("public <a> = x;\n<b> = [y] <c>; <c> = <b> | z;", "4:22", "<b> -> <c> -> <b>"),
        ("public <a> = x* <a> | z;", "3:17", "must not start with itself"),
        ("public <a> = x <a> y | z;", "3:16", "a rule must name itself only at its end"),
        ("public <a> = x <a> {t} | z;", "3:16", "a rule must name itself only at its end"),
        ("public <a> = x (<a> | y)+ | z;", "3:17", "a rule must name itself only at its end"),
        ("public <a> = x <a>;", "3:8", "must end somewhere, but <a> always goes on"),
        ("public <a> = x;\n<b> = y <c>; <c> = z <b>;", "4:1", "must end somewhere"),
        ("public <a> = <VOID>;", "3:8", "must allow at least one word"),
        ("public <a> = <NULL>;", "3:8", "must allow at least one word"),
        ("public <a> = /0/ x;", "3:8", "must allow at least one word"),
        ("<a> = x;", "2:9", "must have a public rule, but test has none"),
        ("", "2:9", "must have a public rule"),
        ("public <a> = ([x] {t})+;", "3:23", "has tags and may be empty"),
        ("public <a> = x;\n<a> = y;", "4:1", "<a> has another in line 3"),
        ("import <other.rule>;\npublic <a> = x;", "3:8", "copy the rules"),
        ("import <zipasr.nonsense>;\npublic <a> = x;", "3:8", "a rule must be defined, but <zipasr.nonsense> is not"),
        ("import <zipasr.digit_s>;\npublic <a> = x;", "3:8", "did you mean <zipasr.digits>?"),
        (
            "import <zipasr.x.*>;\npublic <a> = x;",
            "3:8",
            "a grammar with public rules must be imported, but zipasr.x has none",
        ),
        ("public <a> = <digits>;", "3:14", "a rule must be defined, but <digits> is not"),
        ("import other;", "3:8", "must be the name of what to import"),
        ("public <a> = x | ;", "3:18", "there must be words, but there is ;"),
        ("public <a> = ();", "3:15", "there must be words"),
        ("public <a> = (x;", "3:16", "must be a ) for the ( in line 3, but there is ;"),
        ("public <a> = x]", "3:15", "must be a ; at the end of the rule <a>, but there is ]"),
        ("public <a> = x", "3:15", "but there is the end of the file"),
        ("public <a> x;", "3:12", "must be a = behind <a>"),
        ("public a = x;", "3:8", "there must be a rule"),
        ("public <a.b> = x;", "3:8", "without a dot"),
        ("public <NULL> = x;", "3:8", "other than NULL and VOID"),
        ("public <a> = /2/ x | y;", "3:23", "either all alternatives must have a weight or none"),
        ("public <a> = /-2/ x;", "3:14", "a weight must be a finite number from 0, but is -2"),
        ("public <a> = /1 x;", "3:14", "a weight must end with /"),
        ("public <a> = x {t} {u};", "3:16", "{u} is the second"),
        ("public <a> = x {out.size = 3;};", "3:16", "a tag must be"),
        ("public <a> = x {size+1};", "3:16", "a tag must be"),
        ("public <a> = x {};", "3:16", "a tag must be"),
        ("public <a> = x {+ten};", "3:16", "must be 0 or more and have digits only"),
        ("public <a> = x {open;", "3:16", "a tag must end with }"),
        ("public <a> = <b ;", "3:14", "must end with > in its line"),
        ('public <a> = "x ;', "3:14", "a quotation must end"),
        ("public <a> = x; /* open", "3:17", "a comment with */"),
        ("public <a> = x };", "3:16", "a tag must start with {"),
    ],
)
def test_mistake_is_told_with_its_place(tmp_path: Path, rules: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grammar_of(tmp_path, rules)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'test.jsgf'}:{place}: "), text
    assert message in text


@pytest.mark.parametrize(
    ("header", "place", "message"),
    [
        ("grammar test;\n", "1:1", "must start with #JSGF V1.0;"),
        ("#JSGF V1.0;\n", "2:1", "there must be `grammar NAME;`"),
        ("#JSGF V1.0;\ngrammar test\n", "3:1", "a ; behind the name"),
        ("#JSGF V1.0 nonsense-8;\ngrammar test;\n", "1:1", "must be one that Python knows, but is nonsense-8"),
    ],
)
def test_wrong_header_is_told(tmp_path: Path, header: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grammar_of(tmp_path, "public <a> = x;", header=header)
    assert f":{place}: " in str(caught.value) and message in str(caught.value)


def test_grammar_that_grows_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipasr.grammar.expand.MAX_ARCS", 1000)
    rules = "\n".join(f"<a{i}> = <a{i - 1}> <a{i - 1}>;" for i in range(1, 30))
    with pytest.raises(ConfigError, match="must have at most 1000 arcs"):
        grammar_of(tmp_path, f"public <a> = <a29>;\n<a0> = x;\n{rules}")


def test_grammar_that_nests_too_deep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer groups and rules inside each other"):
        grammar_of(tmp_path, f"public <a> = {'(' * 3000}x{')' * 3000};")


def test_header_of_the_tests_is_that_of_the_format() -> None:
    assert HEADER.count("\n") == 2, "the tests above count lines from 3"


def expressions() -> list[tuple[str, str]]:
    """All ways to nest two signs of a grammar around words, each with the regular expression that says the same."""
    words = [("x", "x"), ("y", "y"), ("<NULL>", "")]

    def around(item: tuple[str, str]) -> list[tuple[str, str]]:
        rule, pattern = item
        return [(f"[{rule}]", f"(?:{pattern})?"), (f"({rule})*", f"(?:{pattern})*"), (f"({rule})+", f"(?:{pattern})+")]

    def joined(one: tuple[str, str], other: tuple[str, str]) -> list[tuple[str, str]]:
        return [
            (f"({one[0]} {other[0]})", f"(?:{one[1]})(?:{other[1]})"),
            (f"({one[0]} | {other[0]})", f"(?:(?:{one[1]})|(?:{other[1]}))"),
        ]

    once = [made for word in words for made in around(word)]
    once += [made for one in words for other in words for made in joined(one, other)]
    twice = [made for item in once for made in around(item)]
    return twice + [
        made for item in once for word in words for pair in ((item, word), (word, item)) for made in joined(*pair)
    ]


def test_nested_signs_are_regular_expressions(tmp_path: Path) -> None:
    texts = ["".join(letters) for length in range(5) for letters in itertools.product("xy", repeat=length)]
    for rule, pattern in expressions():
        expected = {text for text in texts if re.fullmatch(pattern, text)}
        if expected == {""}:
            with pytest.raises(ConfigError, match="must allow at least one word"):
                grammar_of(tmp_path, f"public <a> = {rule};")
            continue
        for rules in (f"public <a> = {rule};", f"public <a> = <b>; <b> = {rule};"):
            graph = grammar_of(tmp_path, rules).graph
            assert {text for text in texts if match_words(graph, list(text)) is not None} == expected, rules
            assert not [arc for arc in graph.arcs if arc.word is None], "arcs without words and tags are removed"
