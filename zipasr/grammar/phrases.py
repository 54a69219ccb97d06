"""A list of phrases: text -> rules. A phrase a line, perhaps with a weight before it and tags behind it.

    /3/ turn the light on {action=on}
    turn the light off {action=off}

Empty lines and lines that start with # are skipped. Phrases without a weight have the weight 1.
"""

import re

from zipasr.errors import ConfigError
from zipasr.grammar.expansion import Alternatives, Expansion, Rule, RuleFile, Sequence, Word
from zipasr.grammar.lexer import weight_of
from zipasr.grammar.place import Source
from zipasr.grammar.slots import tagged
from zipasr.text import normalize

_LINE = re.compile(r"[ \t]*(?:/(?P<weight>[^/\n]*)/)?(?P<words>[^{}\n]*)(?P<tags>(?:\{[^{}\n]*\}[ \t]*)*)$")


def parse_phrases(source: Source) -> RuleFile:
    """Parse a list of phrases: one public rule with an alternative for each.

    Raises:
        ConfigError: a line has a wrong weight or tag, or no line has words; with file, line and column.
    """
    choices, weights, offset = [], [], 0
    for line in source.text.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            choice, weight = _phrase(line, source, offset)
            choices.append(choice)
            weights.append(weight)
        offset += len(line) + 1
    place = source.place(0)
    if not choices:
        raise ConfigError(f"{place}: a list must have at least one phrase, but has none; write a phrase a line")
    rule = Rule("phrases.phrase", Alternatives(tuple(choices), tuple(weights)), True, place)
    return RuleFile("phrases", {rule.name: rule}, place)


def _phrase(line: str, source: Source, offset: int) -> tuple[Expansion, float]:
    """The expansion and the weight of a line."""
    found = _LINE.match(line)
    start = len(line) - len(line.lstrip())
    place = source.place(offset + start)
    if found is None:
        raise ConfigError(f"{place}: a line must be words and perhaps {{tags}} behind them, but is {line.strip()!r}")
    weight = 1.0 if found["weight"] is None else weight_of(found["weight"], place)
    words = tuple(
        Word(text, source.place(offset + found.start("words") + match.start()))
        for match in re.finditer(r"\S+", found["words"])
        for text in normalize(match[0]).split()
    )
    if not words:
        raise ConfigError(f"{place}: a line must have words, but is {line.strip()!r}; remove it")
    expansion: Expansion = Sequence(words)
    if tags := re.findall(r"\{([^{}]*)\}", found["tags"]):
        expansion = tagged(expansion, tags, source.place(offset + found.start("tags")))
    return expansion, weight
