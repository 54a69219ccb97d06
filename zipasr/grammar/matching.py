"""What a grammar makes of a text: the words of free decoding -> outputs, from which `slots_of` reads the slots."""

from collections.abc import Sequence
from typing import NamedTuple

from zipasr.search.graph import WordArc, WordGraph
from zipasr.text import normalize


class _Path(NamedTuple):
    """The most likely way to a state so far."""

    score: float
    outputs: "tuple[_Path, str] | None"
    """The path before and the last output; None: no output yet."""


def match_words(graph: WordGraph, words: Sequence[str]) -> tuple[str, ...] | None:
    """The outputs of a graph for a sentence: its words as the graph writes them, and tags.

    Args:
        graph: the graph of a grammar.
        words: the sentence; upper and lower case do not matter.
    Returns:
        The outputs of the most likely path; None if the graph does not allow the sentence.
    """
    leaving: dict[tuple[int, str | None], list[WordArc]] = {}
    for arc in graph.arcs:
        leaving.setdefault((arc.source, None if arc.word is None else arc.word.casefold()), []).append(arc)
    paths = _with_tags({0: _Path(0.0, None)}, leaving)
    for word in words:
        asked, reached = normalize(word).casefold(), dict[int, _Path]()
        for state, path in paths.items():
            for arc in leaving.get((state, asked), ()):
                _keep(reached, arc, path)
        paths = _with_tags(reached, leaving)
    ends = [path._replace(score=path.score + graph.final_scores[s]) for s, path in paths.items() if s in graph.final_scores]
    return _spelled(max(ends, key=lambda path: path.score)) if ends else None


def _keep(paths: dict[int, _Path], arc: WordArc, path: _Path) -> bool:
    """Follow an arc; whether that is the best way to its target so far."""
    score = path.score + arc.score
    if arc.target in paths and paths[arc.target].score >= score:
        return False
    for output in (arc.word, arc.tag):
        path = path if output is None else _Path(score, (path, output))
    paths[arc.target] = path._replace(score=score)
    return True


def _with_tags(paths: dict[int, _Path], leaving: dict[tuple[int, str | None], list[WordArc]]) -> dict[int, _Path]:
    """Follow the arcs without words as far as they lead."""
    paths, todo = dict(paths), list(paths)
    while todo:
        state = todo.pop(0)
        for arc in leaving.get((state, None), ()):
            if _keep(paths, arc, paths[state]):
                todo.append(arc.target)
    return paths


def _spelled(path: _Path) -> tuple[str, ...]:
    outputs: list[str] = []
    while path.outputs is not None:
        path, output = path.outputs
        outputs.append(output)
    return tuple(reversed(outputs))
