"""`read_grammar`: a file with a grammar or a list of phrases -> `Grammar`, a graph over words that puts out slots."""

import functools
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from zipasr.errors import ConfigError
from zipasr.grammar.expand import expand
from zipasr.grammar.expansion import Expansion, Reference, RuleFile, Tagged, Word, children
from zipasr.grammar.jsgf import parse_jsgf
from zipasr.grammar.phrases import parse_phrases
from zipasr.grammar.place import Place, Source, read_source
from zipasr.grammar.rules import Rules
from zipasr.grammar.slots import slot_name
from zipasr.search.graph import WordGraph
from zipasr.text import lower, upper
from zipasr.tokenizer import Tokenizer

ENGLISH = Path(__file__).with_name("english.jsgf")
"""The built-in rules."""
_JSGF_NAMES = (".jsgf", ".gram", ".jsg")
_MAX_SHOWN = 10


class Grammar(NamedTuple):
    """What may be said, as a graph over words, and the slots that it can fill."""

    graph: WordGraph
    """Words and tags; the tags are symbols that `slots_of` understands."""
    name: str
    """Name of the grammar; `phrases` for a list of phrases."""
    slots: tuple[str, ...]
    """Names of the slots, sorted."""
    places: dict[str, Place]
    """Where each word of the graph is written first."""


def read_grammar(path: str | os.PathLike[str], *, tables: Sequence[str | os.PathLike[str]] = ()) -> Grammar:
    """Read a grammar: JSGF if the file says so in its first line or its name ends in .jsgf, otherwise a list of phrases.

    Args:
        path: the file.
        tables: further JSGF files whose rules the grammar may name as <grammar.rule>; the built-in rules, such as
            <zipasr.digits>, are always known.
    Raises:
        ConfigError: a file cannot be read or is no grammar, a rule is missing, starts with itself or never ends, or nothing
            can be said; with file, line and column. Or there are tables for a list of phrases.
    """
    source = read_source(path)
    is_jsgf = source.text.lstrip().startswith("#JSGF") or Path(path).suffix.lower() in _JSGF_NAMES
    if tables and not is_jsgf:
        raise ConfigError(
            f"{path} must be JSGF for tables to have an effect, but is a list of phrases, which cannot name their rules; "
            "leave the tables out, or write a JSGF grammar"
        )
    try:
        file = parse_jsgf(source) if is_jsgf else parse_phrases(source)
        rules = Rules(file, (_built_in(), *(parse_jsgf(read_source(table)) for table in tables)))
        rules.check()
        graph = expand(rules)
    except RecursionError as error:
        raise ConfigError(
            f"{path} must have fewer groups and rules inside each other, but has too many to follow"
        ) from error
    found = list(_reached(rules))
    said = set(graph.words)
    places = {part.text: part.place for part in reversed(found) if isinstance(part, Word) and part.text in said}
    names = {slot_name(symbol) for part in found if isinstance(part, Tagged) for symbol in part.behind}
    return Grammar(graph, file.grammar, tuple(sorted(names - {""})), places)


def require_spelling(grammar: Grammar, tokenizer: Tokenizer, *, lexicon: Container[str] = ()) -> None:
    """Check that a model can write all words of a grammar.

    Args:
        grammar: the grammar.
        tokenizer: the vocabulary of the model.
        lexicon: words whose spelling is given, in either case.
    Raises:
        ConfigError: it cannot write some; the message names each with file, line and column. Or it cannot encode text.
    """
    lacking = {}
    for word, place in sorted(grammar.places.items(), key=lambda item: item[1]):
        if not any(version in lexicon for version in (word, upper(word), lower(word))):
            tokenizer.require_encoding(
                f"the word {word!r} of a grammar",
                cure=", or give the tokens of all words of the grammar with --lexicon FILE",
            )
            if unknown := tokenizer.unknown_characters(tokenizer.spelling(word)):
                lacking[f"{place}: {word!r}"] = unknown
    if lacking:
        more = f" and {len(lacking) - _MAX_SHOWN} more" if len(lacking) > _MAX_SHOWN else ""
        names = ", ".join(list(lacking)[:_MAX_SHOWN]) + more
        characters = "".join(sorted(set().union(*lacking.values())))
        raise ConfigError(
            f"words of a grammar must be writable in the model's vocabulary, but that lacks {characters!r} of {names}; "
            "spell as the training texts would, with numbers in words and without punctuation"
        )


@functools.cache
def _built_in() -> RuleFile:
    return parse_jsgf(Source(ENGLISH.read_text(encoding="utf-8"), ENGLISH.name))


def _reached(rules: Rules) -> Iterator[Expansion]:
    """All expansions that the public rules lead to, each rule once, in their order."""
    todo: list[Expansion] = [rule.expansion for rule in reversed(rules.public())]
    seen = {rule.name for rule in rules.public()}
    while todo:
        part = todo.pop()
        yield part
        todo += reversed(children(part))
        if isinstance(part, Reference) and (rule := rules.find(part)).name not in seen:
            seen.add(rule.name)
            todo.append(rule.expansion)
