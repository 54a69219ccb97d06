"""The JSpeech Grammar Format (W3C Note of 5 June 2000): text -> rules.

Differs: only rules of `zipasr` are imported, and by their full names they need no import. A tag has a form (`slots.py`).
"""

from zipasr.errors import ConfigError
from zipasr.grammar.expansion import (
    NULL,
    VOID,
    Alternatives,
    Expansion,
    Optional,
    Reference,
    Repeat,
    Rule,
    RuleFile,
    Sequence,
    Word,
)
from zipasr.grammar.lexer import Symbol, symbols_of, weight_of
from zipasr.grammar.place import Source
from zipasr.grammar.slots import tagged
from zipasr.text import normalize

BUILT_IN = "zipasr"
"""Name of the grammar whose rules every grammar may use: `<zipasr.digits>`."""
_CLOSING = {"(": ")", "[": "]"}


def parse_jsgf(source: Source) -> RuleFile:
    """Parse a grammar.

    Raises:
        ConfigError: it is not JSGF, imports another grammar or defines a rule twice; with file, line and column.
    """
    return _Parser(source).parse()


class _Parser:
    """Reads the symbols of one file, from left to right."""

    def __init__(self, source: Source) -> None:
        self._symbols = list(symbols_of(source))
        self._next = 0
        self._grammar = ""

    @property
    def _symbol(self) -> Symbol:
        return self._symbols[self._next]

    def _take(self) -> Symbol:
        symbol = self._symbol
        self._next += symbol.kind != "end"
        return symbol

    def _accept(self, kind: str, text: str) -> bool:
        """Take a symbol if it is this one; whether it is."""
        is_it = self._symbol.kind == kind and self._symbol.text == text
        self._next += is_it
        return is_it

    def _expect(self, kind: str, text: str, what: str) -> Symbol:
        """Take a symbol; an empty text stands for any."""
        if self._symbol.kind != kind or (text and self._symbol.text != text):
            raise ConfigError(f"{self._symbol.place}: there must be {what}, but there is {self._symbol}")
        return self._take()

    def parse(self) -> RuleFile:
        """The rules of the file."""
        self._expect("word", "grammar", "`grammar NAME;` below the first line")
        name = self._expect("word", "", "the name of the grammar, such as `grammar coffee;`")
        self._expect("sign", ";", f"a ; behind the name of the grammar {name.text}")
        self._grammar = name.text
        imports = []
        while self._accept("word", "import"):
            imports.append(self._import())
        rules: dict[str, Rule] = {}
        while self._symbol.kind != "end":
            rule = self._rule()
            if rule.name in rules:
                raise ConfigError(
                    f"{rule.place}: a rule must have one definition, but <{rule.simple_name}> has another in "
                    f"line {rules[rule.name].place.line}; write alternatives with |, or rename one"
                )
            rules[rule.name] = rule
        return RuleFile(name.text, rules, name.place, tuple(imports))

    def _import(self) -> Reference:
        imported = self._expect("name", "", "the name of what to import, such as <zipasr.digits>")
        if not imported.text.startswith(f"{BUILT_IN}."):
            raise ConfigError(
                f"{imported.place}: what is imported must be rules of {BUILT_IN}, but is <{imported.text}>; copy the rules "
                "of the other grammar into this file"
            )
        self._expect("sign", ";", f"a ; behind <{imported.text}>")
        return Reference(imported.text, self._grammar, imported.place)

    def _rule(self) -> Rule:
        is_public = self._accept("word", "public")
        name = self._expect("name", "", "a rule, such as <order> = coffee | tea;")
        if name.text in ("NULL", "VOID", "") or "." in name.text:
            raise ConfigError(
                f"{name.place}: a rule must have a name without a dot other than NULL and VOID, but is called <{name.text}>"
            )
        self._expect("sign", "=", f"a = behind <{name.text}>")
        expansion = self._alternatives()
        self._expect("sign", ";", f"a ; at the end of the rule <{name.text}>")
        return Rule(f"{self._grammar}.{name.text}", expansion, is_public, name.place)

    def _alternatives(self) -> Expansion:
        choices, weights = [], []
        is_more = True
        while is_more:
            if self._symbol.kind == "weight":
                weights.append(weight_of(self._symbol.text, self._symbol.place))
                self._take()
            choices.append(self._sequence())
            if weights and len(weights) != len(choices):
                raise ConfigError(
                    f"{self._symbol.place}: either all alternatives must have a weight or none, but of the first "
                    f"{len(choices)} these many have one: {len(weights)}"
                )
            is_more = self._accept("sign", "|")
        if len(choices) == 1 and not weights:
            return choices[0]
        return Alternatives(tuple(choices), tuple(weights) or (1.0,) * len(choices))

    def _sequence(self) -> Expansion:
        parts: list[Expansion] = []
        while self._symbol.kind in ("word", "quoted", "name") or (self._symbol.kind == "sign" and self._symbol.text in "(["):
            parts.append(self._item())
        if not parts:
            raise ConfigError(
                f"{self._symbol.place}: there must be words, but there is {self._symbol}; for nothing write <NULL>, and "
                "write a \\ before special characters of words"
            )
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _item(self) -> Expansion:
        """A word, a rule or a group with what is behind it: * + and tags."""
        item = self._atom()
        while True:
            place, tags = self._symbol.place, []
            while self._symbol.kind == "tag":
                tags.append(self._take().text)
            if tags:
                item = tagged(item, tags, place)
            elif self._accept("sign", "+"):
                item = Repeat(item, place)
            elif self._accept("sign", "*"):
                item = Optional(Repeat(item, place))
            else:
                return item

    def _atom(self) -> Expansion:
        symbol = self._take()
        if symbol.kind == "sign":
            inside = self._alternatives()
            closing = _CLOSING[symbol.text]
            self._expect("sign", closing, f"a {closing} for the {symbol.text} in line {symbol.place.line}")
            return Optional(inside) if symbol.text == "[" else inside
        if symbol.kind == "name":
            special: dict[str, Expansion] = {"NULL": NULL, "VOID": VOID}
            return special.get(symbol.text) or Reference(symbol.text, self._grammar, symbol.place)
        words = tuple(Word(text, symbol.place) for text in normalize(symbol.text).split())
        return words[0] if len(words) == 1 else Sequence(words)
