"""Grammars in temporary files, and the sentences that a graph allows."""

import itertools
from pathlib import Path
from typing import Any

from zipasr.grammar import Grammar, match_words, read_grammar, slots_of

HEADER = "#JSGF V1.0;\ngrammar test;\n"


def grammar_of(folder: Path, rules: str, *, name: str = "test.jsgf", header: str = HEADER) -> Grammar:
    """The grammar of some rules; the first rule is in line 3."""
    path = folder / name
    path.write_text(header + rules, encoding="utf-8")
    return read_grammar(path)


def sentences(grammar: Grammar, longest: int) -> set[str]:
    """All sentences of at most so many words, tried one after another."""
    words = grammar.graph.words
    tried = itertools.chain.from_iterable(itertools.product(words, repeat=length) for length in range(longest + 1))
    return {" ".join(sentence) for sentence in tried if match_words(grammar.graph, sentence) is not None}


def slots(grammar: Grammar, text: str) -> dict[str, Any]:
    """The slots of a sentence, which the grammar must allow."""
    outputs = match_words(grammar.graph, text.split())
    assert outputs is not None, f"{text!r} is not in the grammar"
    return slots_of(outputs)
