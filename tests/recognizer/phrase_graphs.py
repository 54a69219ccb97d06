"""Graphs of a few phrases for the recognizers of the tests, made without a compiler."""

from collections.abc import Mapping

from tests.search.graph.hand_graphs import Arc, token_graph
from zipasr.search.graph import NO_TOKEN, LoadedGraph
from zipasr.tokenizer import Tokenizer

ORDERS = {
    "QUICK FOX": "{animal=fox}",
    "LAZY DOG": "{animal=dog}",
    "FIVE JUGS": "{count=5}",
    "ONE TWO THREE": "{count=3}",
}
"""Phrases in the words of `tests.tiny_model.TEXTS`, each with the tag after it."""


def phrase_graph(
    tokenizer: Tokenizer, phrases: Mapping[str, str] = ORDERS, *, name: str = "orders", rejection: float | None = None
) -> LoadedGraph:
    """A graph that allows one of some phrases."""
    arcs: list[Arc] = []
    num_states = 1
    final_states = []
    for phrase, tag in phrases.items():
        state = 0
        for word in phrase.split():
            ids = tokenizer.encode(word)
            for i, token in enumerate(ids):
                arcs.append((state, num_states, token, word if i == len(ids) - 1 else "", 0.0))
                state, num_states = num_states, num_states + 1
        arcs.append((state, num_states, NO_TOKEN, tag, 0.0))
        final_states.append(num_states)
        num_states += 1
    settings = {} if rejection is None else {"rejection": rejection}
    return LoadedGraph(token_graph(arcs, dict.fromkeys(final_states, 0.0)), name, settings, {})
