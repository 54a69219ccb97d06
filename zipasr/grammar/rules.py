"""Rules that refer to each other: which rule a name means, and what is wrong with rules before they are expanded."""

import difflib
from collections.abc import Iterator, Sequence

from zipasr.errors import ConfigError
from zipasr.grammar.expansion import (
    Alternatives,
    Expansion,
    Optional,
    Reference,
    Repeat,
    Rule,
    RuleFile,
    Tagged,
    Word,
    children,
)
from zipasr.grammar.expansion import Sequence as InSequence


class Rules:
    """The rules of a grammar and of the tables that it may use."""

    def __init__(self, file: RuleFile, tables: Sequence[RuleFile] = ()) -> None:
        """Join the rules of files; those of `tables` are known by their full names, such as zipasr.digits.

        Raises:
            ConfigError: a reference or an import means no rule.
        """
        self.file = file
        self._rules = {name: rule for table in (*tables, file) for name, rule in table.rules.items()}
        self._imported: dict[tuple[str, str], str] = {}
        """The full name of the rule that a simple name means in a grammar that imports it."""
        for reference in (reference for table in (*tables, file) for reference in table.imports):
            for rule in self._imports(reference):
                self._imported[reference.grammar, rule.simple_name] = rule.name
        self._nullable = self._rules_that_can_be(is_empty=True)
        self._ending = self._rules_that_can_be(is_empty=False)

    def _imports(self, reference: Reference) -> list[Rule]:
        """The rules that an import names."""
        grammar, _, name = reference.name.rpartition(".")
        if name != "*":
            return [self.find(reference)]
        found = [rule for rule in self._rules.values() if rule.name.rpartition(".")[0] == grammar and rule.is_public]
        if not found:
            raise ConfigError(f"{reference.place}: a grammar with public rules must be imported, but {grammar} has none")
        return found

    def find(self, reference: Reference) -> Rule:
        """The rule that a reference means.

        Raises:
            ConfigError: there is none.
        """
        own = reference.grammar
        simple = own.rpartition(".")[2]
        names = [f"{own}.{reference.name}", self._imported.get((own, reference.name), reference.name), reference.name]
        if reference.name.startswith(f"{simple}."):
            names.append(f"{own}.{reference.name.removeprefix(f'{simple}.')}")
        for name in names:
            if name in self._rules:
                return self._rules[name]
        known = {name.removeprefix(f"{own}."): None for name in self._rules}
        near = difflib.get_close_matches(reference.name, list(known), n=1)
        cure = f"did you mean <{near[0]}>?" if near else "define it in this file"
        raise ConfigError(f"{reference.place}: a rule must be defined, but <{reference.name}> is not; {cure}")

    def public(self) -> list[Rule]:
        """The rules that may be said by themselves.

        Raises:
            ConfigError: there is none.
        """
        found = [rule for rule in self.file.rules.values() if rule.is_public]
        if not found:
            raise ConfigError(
                f"{self.file.place}: a grammar must have a public rule, but {self.file.grammar} has none; write public "
                "before the rule that may be said: public <order> = coffee | tea;"
            )
        return found

    def is_nullable(self, expansion: Expansion) -> bool:
        """Whether an expansion may be no word at all."""
        return self._can_be(expansion, self._nullable, is_empty=True)

    def check(self) -> None:
        """Check that all rules of the file can be expanded.

        Raises:
            ConfigError: a rule starts with itself or never ends, or a repeat would never end.
        """
        for rule in self.file.rules.values():
            self._check_left(rule, [rule.name], set())
        for rule in self.file.rules.values():
            if rule.name not in self._ending:
                raise ConfigError(
                    f"{rule.place}: a rule must end somewhere, but <{rule.simple_name}> always goes on with a "
                    "rule that does not; add an alternative without it"
                )
            self._check_repeats(rule.expansion)

    def _check_left(self, rule: Rule, path: list[str], seen: set[str]) -> None:
        for reference in self._first_references(rule.expansion):
            target = self.find(reference)
            if target.name == path[0]:
                shown = " -> ".join(f"<{name.rpartition('.')[2]}>" for name in (*path, target.name))
                raise ConfigError(
                    f"{reference.place}: a rule must not start with itself, but this one does: {shown}; put the words "
                    "before the rule, or write a repeat with + or *"
                )
            if target.name not in seen:
                seen.add(target.name)
                self._check_left(target, [*path, target.name], seen)

    def _first_references(self, expansion: Expansion) -> Iterator[Reference]:
        """The references that an expansion may start with."""
        if isinstance(expansion, Reference):
            yield expansion
        for part in children(expansion):
            yield from self._first_references(part)
            if isinstance(expansion, InSequence) and not self.is_nullable(part):
                return

    def _check_repeats(self, expansion: Expansion) -> None:
        """Refuse repeats of tags without words, which would never end."""
        if isinstance(expansion, Repeat) and self.is_nullable(expansion.body) and self._has_tags(expansion.body, set()):
            raise ConfigError(
                f"{expansion.place}: what is repeated must have a word or no tags, but this has tags and may be empty; make "
                "its words compulsory"
            )
        for part in children(expansion):
            self._check_repeats(part)

    def _has_tags(self, expansion: Expansion, seen: set[str]) -> bool:
        if isinstance(expansion, Reference):
            rule = self.find(expansion)
            is_new = rule.name not in seen
            seen.add(rule.name)
            return is_new and self._has_tags(rule.expansion, seen)
        return isinstance(expansion, Tagged) or any(self._has_tags(part, seen) for part in children(expansion))

    def _rules_that_can_be(self, *, is_empty: bool) -> set[str]:
        """Names of the rules that may be no word (`is_empty`), or any finite number of words."""
        known: set[str] = set()
        while new := {
            name
            for name, rule in self._rules.items()
            if name not in known and self._can_be(rule.expansion, known, is_empty=is_empty)
        }:
            known |= new
        return known

    def _can_be(self, expansion: Expansion, known: set[str], *, is_empty: bool) -> bool:
        """Whether an expansion may be no word (`is_empty`), or any finite number of words; `known` are rules that can."""
        found = (self._can_be(part, known, is_empty=is_empty) for part in children(expansion))
        match expansion:
            case Word():
                return not is_empty
            case Reference():
                return self.find(expansion).name in known
            case Alternatives(choices):  # <VOID> ends as well: it says that nothing can be said, and is meant
                return any(found) or (not choices and not is_empty)
            case Optional():
                return True
        return all(found)
