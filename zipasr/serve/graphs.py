"""The graphs that requests may name: folders of compile-graph -> graphs by name."""

import os
from collections.abc import Iterable, Mapping

from zipasr.errors import ConfigError
from zipasr.search.graph import LoadedGraph, load_graph
from zipasr.tokenizer import Tokenizer

Graphs = Mapping[str, LoadedGraph]
"""Graphs by name."""


def load_graphs(folders: Iterable[str | os.PathLike[str]], tokenizer: Tokenizer) -> Graphs:
    """Read graphs from folders.

    Args:
        folders: each of `zipasr compile-graph`.
        tokenizer: that of the model.
    Raises:
        ConfigError: a graph is one for another vocabulary, or two have the same name.
        DataError: a folder is missing or damaged.
    """
    found: dict[str, LoadedGraph] = {}
    for folder in folders:
        graph = load_graph(folder, tokenizer)
        if graph.name in found:
            raise ConfigError(
                f"graphs must have names of their own, but two are {graph.name}; rename a folder and compile it"
            )
        found[graph.name] = graph
    return found


def chosen_graph(graphs: Graphs, name: str | None) -> LoadedGraph | None:
    """The graph that a request names; None: it names none.

    Raises:
        ConfigError: there is no graph of that name.
    """
    if not name:
        return None
    if name not in graphs:
        known = f"one of {', '.join(sorted(graphs))}" if graphs else "left out, since this server has none"
        raise ConfigError(f"graph must be {known}, but is {name[:100]!r}")
    return graphs[name]
