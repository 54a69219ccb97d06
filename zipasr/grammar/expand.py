"""Rules -> a graph over words: each reference becomes a copy of its rule, right recursion becomes a loop.

Alternatives without weights cost nothing; with weights the likeliest costs nothing and each other the logarithm of its
weight relative to that one, so that a grammar does not lose against free decoding for having many choices.
"""

import heapq
import math
from collections.abc import Iterable
from itertools import count

from zipasr.errors import ConfigError
from zipasr.grammar.expansion import (
    Alternatives,
    Expansion,
    Optional,
    Reference,
    Repeat,
    Rule,
    Sequence,
    Tagged,
    Word,
)
from zipasr.grammar.rules import Rules
from zipasr.search.graph import WordArc, WordGraph

MAX_ARCS = 1_000_000
"""Grammars with more arcs are refused; a graph of this size takes about 200 MB."""


def expand(rules: Rules) -> WordGraph:
    """The graph of all public rules.

    Raises:
        ConfigError: a rule contains itself elsewhere than at its end, nothing can be said, or the graph would be too large.
    """
    return _Expander(rules).graph()


class _Expander:
    """Writes the arcs of rules. State 0 is the start and state 1 the end."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._arcs: list[WordArc] = []
        self._states = count(2)
        self._open: dict[str, tuple[int, int]] = {}
        """Start and end of the rules that are being expanded."""

    def graph(self) -> WordGraph:
        """Expand all public rules."""
        public = self._rules.public()
        for rule in public:
            self._enter(Reference(rule.simple_name, self._rules.file.grammar, rule.place), rule, 0, 1)
        found = compact(self._arcs, {1: 0.0})
        if not found.words:
            names = ", ".join(f"<{rule.simple_name}>" for rule in public)
            raise ConfigError(
                f"{public[0].place}: a grammar must allow at least one word, but {names} can only be nothing; "
                "check its <VOID>, <NULL> and weights of 0"
            )
        return found

    def _arc(self, source: int, target: int, *, word: str | None = None, tag: str | None = None, score: float = 0.0) -> None:
        if len(self._arcs) >= MAX_ARCS:
            raise ConfigError(
                f"{self._rules.file.place}: a grammar must have at most {MAX_ARCS} arcs when its rules are copied to every "
                "place where they are named, but this one has more; name long rules in fewer places"
            )
        self._arcs.append(WordArc(source, target, word, tag, score))

    def _expand(self, expansion: Expansion | str, start: int, end: int) -> None:
        """Write an expansion, or the symbol of a tag, between two states, either of which others may share."""
        match expansion:
            case str():
                self._arc(start, end, tag=expansion)
            case Word(text):
                self._arc(start, end, word=text)
            case Reference():
                self._enter(expansion, self._rules.find(expansion), start, end)
            case Sequence(parts):
                self._sequence(parts, start, end)
            case Alternatives(choices, weights):
                self._alternatives(choices, weights, start, end)
            case Optional(body):
                self._arc(start, end)
                self._expand(body, start, end)
            case Repeat(body):  # states of its own: its loop must not lead others back
                first, last = next(self._states), next(self._states)
                self._arc(start, first)
                self._expand(body, first, last)
                self._arc(last, first)
                self._arc(last, end)
            case Tagged(body, before, behind):
                self._sequence((*before, body, *behind), start, end)

    def _sequence(self, parts: tuple[Expansion | str, ...], start: int, end: int) -> None:
        if not parts:
            self._arc(start, end)
        for part in parts[:-1]:
            middle = next(self._states)
            self._expand(part, start, middle)
            start = middle
        for part in parts[-1:]:
            self._expand(part, start, end)

    def _alternatives(self, choices: tuple[Expansion, ...], weights: tuple[float, ...], start: int, end: int) -> None:
        highest = max(weights, default=0.0)
        for choice, weight in zip(choices, weights, strict=True):
            if weight == 0:
                continue
            score = math.log(weight) - math.log(highest)  # their ratio may be too small for a number
            first = start
            if score != 0:
                first = next(self._states)
                self._arc(start, first, score=score)
            self._expand(choice, first, end)

    def _enter(self, reference: Reference, rule: Rule, start: int, end: int) -> None:
        """Write a copy of a rule, or an arc back to its start if it is being expanded up to the same end."""
        if rule.name in self._open:
            first, last = self._open[rule.name]
            if last != end:
                raise ConfigError(
                    f"{reference.place}: a rule must name itself only at its end, without a tag or a repeat around it, but "
                    f"<{reference.name}> does so elsewhere; write a repeat with + or *"
                )
            self._arc(start, first)
            return
        first = next(self._states)
        self._arc(start, first)
        self._open[rule.name] = first, end
        self._expand(rule.expansion, first, end)
        del self._open[rule.name]


def compact(arcs: Iterable[WordArc], final_scores: dict[int, float]) -> WordGraph:
    """The same graph without arcs that have neither a word nor a tag, and without states from which nothing is reached.

    Of several ways without words between two states, the most likely counts.

    Args:
        arcs: arcs with scores of 0 or below; state 0 is the start.
        final_scores: log-probability of ending, by state.
    """
    empty: dict[int, list[tuple[int, float]]] = {}
    full: dict[int, list[WordArc]] = {}
    for arc in arcs:
        if arc.word is None and arc.tag is None:
            empty.setdefault(arc.source, []).append((arc.target, arc.score))
        else:
            full.setdefault(arc.source, []).append(arc)
    kept: list[WordArc] = []
    finals: dict[int, float] = {}
    seen, todo = {0}, [0]
    while todo:
        state = todo.pop()
        best: dict[tuple[int, str | None, str | None], float] = {}
        for reached, score in _closure(state, empty).items():
            if reached in final_scores:
                finals[state] = max(finals.get(state, -math.inf), score + final_scores[reached])
            for arc in full.get(reached, ()):
                key = (arc.target, arc.word, arc.tag)
                best[key] = max(best.get(key, -math.inf), score + arc.score)
        kept += [WordArc(state, target, word, tag, score) for (target, word, tag), score in best.items()]
        new = {target for target, _, _ in best} - seen
        seen |= new
        todo += sorted(new)
    return _trimmed(kept, finals)


def _closure(state: int, empty: dict[int, list[tuple[int, float]]]) -> dict[int, float]:
    """The states reached without words, and the score of the most likely way (Dijkstra 1959)."""
    found: dict[int, float] = {}
    todo = [(0.0, state)]
    while todo:
        cost, nearest = heapq.heappop(todo)
        if nearest in found:
            continue
        found[nearest] = -cost
        for target, score in empty.get(nearest, ()):
            if target not in found:
                heapq.heappush(todo, (cost - score, target))
    return found


def _trimmed(arcs: list[WordArc], finals: dict[int, float]) -> WordGraph:
    """Without states that lead to no end; the states are numbered anew."""
    sources: dict[int, list[int]] = {}
    for arc in arcs:
        sources.setdefault(arc.target, []).append(arc.source)
    alive, todo = set(finals), list(finals)
    while todo:
        new = set(sources.get(todo.pop(), ())) - alive
        alive |= new
        todo += new
    numbers = {state: number for number, state in enumerate(sorted(alive | {0}))}
    kept = [
        arc._replace(source=numbers[arc.source], target=numbers[arc.target])
        for arc in arcs
        if arc.source in alive and arc.target in alive
    ]
    return WordGraph(tuple(kept), {numbers[state]: score for state, score in finals.items()})
