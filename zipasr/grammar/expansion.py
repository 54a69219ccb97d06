"""What the rules of a grammar say, as a tree: words, references to rules, sequences, alternatives, repeats and tags."""

from dataclasses import dataclass
from typing import NamedTuple

from zipasr.grammar.place import Place


@dataclass(frozen=True, slots=True)
class Word:
    """One word."""

    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class Reference:
    """What another rule says."""

    name: str
    """As it is written, without < and >."""
    grammar: str
    """Name of the grammar in which the reference is."""
    place: Place


@dataclass(frozen=True, slots=True)
class Sequence:
    """One expansion after another; without parts, nothing is said (<NULL>)."""

    parts: "tuple[Expansion, ...]"


@dataclass(frozen=True, slots=True)
class Alternatives:
    """One of several expansions; without choices, nothing can be said here at all (<VOID>)."""

    choices: "tuple[Expansion, ...]"
    weights: tuple[float, ...]
    """How likely each choice is, relative to the others; 0: never."""


@dataclass(frozen=True, slots=True)
class Optional:
    """An expansion or nothing."""

    body: "Expansion"


@dataclass(frozen=True, slots=True)
class Repeat:
    """An expansion any number of times, once at least."""

    body: "Expansion"
    place: Place


@dataclass(frozen=True, slots=True)
class Tagged:
    """An expansion with its tags."""

    body: "Expansion"
    before: tuple[str, ...]
    """Symbols that are put out before the expansion."""
    behind: tuple[str, ...]
    """Symbols that are put out behind it."""


Expansion = Word | Reference | Sequence | Alternatives | Optional | Repeat | Tagged

NULL = Sequence(())
"""Nothing is said."""
VOID = Alternatives((), ())
"""What cannot be said."""


class Rule(NamedTuple):
    """A rule of a grammar."""

    name: str
    """Name of the grammar, a dot, name of the rule."""
    expansion: Expansion
    is_public: bool
    """Whether it may be said by itself."""
    place: Place

    @property
    def simple_name(self) -> str:
        """Its name without that of the grammar."""
        return self.name.rpartition(".")[2]


class RuleFile(NamedTuple):
    """What one file defines."""

    grammar: str
    """Name of the grammar."""
    rules: dict[str, Rule]
    """By the full name."""
    place: Place
    """The place of the name of the grammar."""
    imports: tuple[Reference, ...] = ()
    """Rules of another grammar that simple names mean too, by their full names; one called * means all public ones."""


def children(expansion: Expansion) -> "tuple[Expansion, ...]":
    """The expansions directly inside of another."""
    match expansion:
        case Sequence(parts):
            return parts
        case Alternatives(choices):
            return choices
        case Optional(body) | Repeat(body) | Tagged(body):
            return (body,)
    return ()
