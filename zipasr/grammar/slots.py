"""Slots: what was meant, by name. Tags of a grammar -> symbols that a search puts out -> values.

A tag stands behind what it is about:

- `{name}` is a slot; its value is what was said there, `(small | large) {size}` gives {"size": "large"};
- `{name=value}` is a slot with this value;
- `{=value}` is the value of the slot around it;
- `{+40}` adds to a number, `{*1000}` multiplies what was added since the last multiplication, and the slot around them has
  the total: `two {+2} thousand {*1000} forty {+40}` gives 2040;
- `{&0}` adds characters to a text, which the slot around it has: `oh {&0} seven {&7}` gives "07".

A slot around other slots holds them: {"date": {"month": 11, "day": 29}}. A slot that occurs several times is a list.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from zipasr.errors import ConfigError
from zipasr.grammar.expansion import Expansion, Tagged
from zipasr.grammar.place import Place
from zipasr.text import unspaced

_EDGE = re.compile(r"\{([^\W\d][\w-]*):(begin|end)\}")
"""Symbols around what a slot covers, such as `{size:begin}` and `{size:end}`."""
_TAG = re.compile(r"(?P<name>[^\W\d][\w-]*)?\s*(?:(?P<operation>[=+*&])\s*(?P<value>.*))?", re.DOTALL)
_NUMBER = re.compile(r"\d{1,15}")
_ESCAPED = re.compile(r"[\s%{}]")


def is_tag(symbol: str) -> bool:
    """Whether an output is one of a tag, and not a word."""
    return symbol.startswith("{")


def slot_name(symbol: str) -> str:
    """The slot of the symbol of a tag; empty if the tag has no name."""
    found = re.match(r"\{([^\W\d][\w-]*)", symbol)
    return found[1] if found is not None else ""


def tagged(body: Expansion, tags: Sequence[str], place: Place) -> Tagged:
    """An expansion with what its tags put out before and behind it; no symbol contains white space.

    Args:
        body: the expansion.
        tags: one or more, each what is between { and }.
        place: the place of the first tag, for errors.
    Raises:
        ConfigError: one is no tag that is known, or two are slots for the same words.
    """
    before: list[str] = []
    inside: list[str] = []
    behind: list[str] = []
    for tag in tags:
        name, symbol = _parsed(tag, place)
        if symbol:
            (behind if name else inside).append(symbol)
        elif before:
            raise ConfigError(
                f"{place}: only one tag must say what the slot of some words is, but {{{tag}}} is the second; put the "
                "words and the first into parentheses"
            )
        else:
            before, behind = [f"{{{name}:begin}}"], [f"{{{name}:end}}", *behind]
    return Tagged(body, tuple(before), (*inside, *behind))


def _parsed(text: str, place: Place) -> tuple[str, str]:
    """Name of a tag, perhaps empty, and its symbol; that is empty if the slot has what is said as its value."""
    found = _TAG.fullmatch(text.strip())
    name, operation, value = found.groups(default="") if found is not None else ("", "", "")
    if name and not operation:
        return name, ""
    if not value or (name and operation != "="):
        raise ConfigError(f"{place}: a tag must be {{name}}, {{name=value}} or {{=value}}, but is {{{text}}}")
    if operation in ("+", "*") and not _NUMBER.fullmatch(value):
        raise ConfigError(f"{place}: the number of a tag must be 0 or more and have digits only, but the tag is {{{text}}}")
    escaped = _ESCAPED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), value)
    return name, f"{{{name}{operation}{escaped}}}"


@dataclass
class _Slot:
    """What was put out so far inside of a slot."""

    name: str
    words: list[str] = field(default_factory=list)
    inner: dict[str, Any] = field(default_factory=dict)
    """Slots inside of it."""
    given: str | None = None
    """The value of `{=value}`."""
    text: str = ""
    """What `{&...}` collected."""
    total: int = 0
    """What was added and then multiplied."""
    added: int = 0
    """What was added since."""
    is_number: bool = False

    def take(self, operation: str, value: str) -> None:
        """Apply a tag without a name."""
        if operation == "=":
            self.given = value
        elif operation == "&":
            self.text += value
        else:
            self.is_number = True
            if operation == "+":
                self.added += int(value)
            else:
                self.total, self.added = self.total + self.added * int(value), 0

    def value(self) -> Any:
        """What the slot holds."""
        if self.given is not None:
            return self.given
        if self.text:
            return self.text
        if self.is_number:
            return self.total + self.added
        return self.inner or unspaced(" ".join(self.words))

    def put(self, name: str, value: Any) -> None:
        """Keep the value of a slot inside of this one; later ones of the same name make a list."""
        before = self.inner.get(name)
        if name not in self.inner:
            self.inner[name] = value
        else:
            self.inner[name] = [*before, value] if isinstance(before, list) else [before, value]


def slots_of(outputs: Iterable[str]) -> dict[str, Any]:
    """The slots of what a search put out.

    Args:
        outputs: words and the symbols of tags, in order. Outputs of a stream may stop anywhere: a slot that has begun and
            not ended is left out.
    Returns:
        Value of each slot by name, ready for JSON: text, a whole number, a dict of slots inside, or a list of these if the
        slot occurs several times.
    """
    slots = [_Slot("")]
    for symbol in outputs:
        if not is_tag(symbol):
            for slot in slots:
                slot.words.append(symbol)
        elif edge := _EDGE.fullmatch(symbol):
            if edge[2] == "begin":
                slots.append(_Slot(edge[1]))
            elif len(slots) > 1 and slots[-1].name == edge[1]:
                ended = slots.pop()
                slots[-1].put(ended.name, ended.value())
        elif (found := _TAG.fullmatch(symbol[1:-1])) and found["operation"]:
            value = unquote(found["value"])
            if found["name"]:
                slots[-1].put(found["name"], value)
            else:
                slots[-1].take(found["operation"], value)
    return slots[0].inner
