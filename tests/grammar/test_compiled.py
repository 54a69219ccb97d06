"""Contract: a grammar compiled into the tokens of a model puts out the same slots for a sentence as the grammar itself."""

import math

import pytest

from tests.grammar.grammars import grammar_of, slots
from zipasr.grammar import Grammar, slots_of
from zipasr.search.graph import NO_SYMBOL, NO_TOKEN, TokenGraph, compile_words
from zipasr.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz '"
SENTENCES = {
    "number": ("zero", "two hundred and forty two thousand nine", "nine hundred ninety nine", "twenty"),
    "digits": ("oh", "one two three oh", "seven"),
    "date": ("november twenty ninth twenty twenty six", "the third of may", "may third two thousand and nine"),
    "size": ("small", "extra large", "large", "big"),
    "list": ("small and large and small", "large"),
}
RULES = """public <a> = number <zipasr.number_0_999999> {n} | digits <zipasr.digits> {pin} | date <zipasr.date> {when}
    | size <size> {size} | list <list>;
<list> = (small | large) {item} [and <list>];
<size> = /3/ small | /2/ (big | large) {=large} {tag=unused} | /1/ extra large;"""


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Grammar:
    return grammar_of(tmp_path_factory.mktemp("grammar"), RULES)


def tokenizers() -> dict[str, Tokenizer]:
    texts = [LETTERS.upper(), *(" ".join([rule, text]).upper() for rule, group in SENTENCES.items() for text in group)]
    return {
        "characters": Tokenizer.train(texts, kind="char", vocab_size=None),
        "pieces": Tokenizer.train(texts * 3, kind="bpe", vocab_size=60),
    }


def outputs_of(graph: TokenGraph, ids: list[int]) -> list[str] | None:
    """What the best path of some tokens puts out; None: there is no path."""
    paths: dict[int, tuple[float, list[str]]] = {graph.start: (0.0, [])}
    for token in [NO_TOKEN, *(part for i in ids for part in (i, NO_TOKEN))]:
        paths = _silent(graph, paths) if token == NO_TOKEN else _after(graph, paths, token)
    ends = [
        (score + float(graph.final_scores[state]), outputs)
        for state, (score, outputs) in paths.items()
        if graph.final_scores[state] > -math.inf
    ]
    return max(ends)[1] if ends else None


def _after(graph: TokenGraph, paths: dict[int, tuple[float, list[str]]], token: int) -> dict[int, tuple[float, list[str]]]:
    found: dict[int, tuple[float, list[str]]] = {}
    for state, (score, outputs) in paths.items():
        for arc in range(graph.first_arc[state], graph.first_arc[state + 1]):
            if graph.tokens[arc] == token:
                symbol = graph.output_symbols[arc]
                more = [] if symbol == NO_SYMBOL else [graph.symbols[symbol]]
                new = (score + float(graph.scores[arc]), [*outputs, *more])
                target = int(graph.targets[arc])
                found[target] = max(new, found.get(target, new))
    return found


def _silent(graph: TokenGraph, paths: dict[int, tuple[float, list[str]]]) -> dict[int, tuple[float, list[str]]]:
    """Follow arcs without tokens as far as they lead; no graph here has a loop of them."""
    reached, new = dict(paths), paths
    while new := _after(graph, new, NO_TOKEN):
        for state, path in new.items():
            reached[state] = max(path, reached.get(state, path))
    return reached


@pytest.mark.parametrize("kind", ["characters", "pieces"])
def test_compiled_grammar_has_the_slots_of_the_grammar(grammar: Grammar, kind: str) -> None:
    pytest.importorskip("kaldifst", reason="kaldifst is not installed")
    tokenizer = tokenizers()[kind]
    graph = compile_words(grammar.graph, tokenizer)
    for rule, group in SENTENCES.items():
        for text in (f"{rule} {words}" for words in group):
            outputs = outputs_of(graph, list(tokenizer.encode(text.upper())))
            assert outputs is not None, text
            assert slots_of(outputs) == slots(grammar, text)
            assert " ".join(symbol for symbol in outputs if not symbol.startswith("{")) == text
    for text in ("NUMBER", "DIGITS ONE TWENTY", "SIZE SMALL SMALL", "LIST SMALL AND"):
        assert outputs_of(graph, list(tokenizer.encode(text))) is None, text
