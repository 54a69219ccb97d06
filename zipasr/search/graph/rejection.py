"""Rejection: hypotheses of a search through a graph -> the same, or nothing if something else was said.

Whatever is said, a graph has a best path. The measure is how much less probable the audio is on that path than by free
decoding: `Hypothesis.shortfall`, in nats per token. Above the threshold of the graph, chosen on a dev set, the answer is
nothing.
"""

import math
from collections.abc import Sequence

from zipasr.errors import ConfigError
from zipasr.search.graph.folder import LoadedGraph
from zipasr.search.hypothesis import Hypothesis

REJECTION = "rejection"
"""Name of the threshold among the settings of a graph, in nats per token; absent or null: nothing is rejected."""


def rejection_threshold(graph: LoadedGraph) -> float:
    """The shortfall above which the answer is nothing; infinite: never.

    Raises:
        ConfigError: the setting is no number.
    """
    value = graph.settings.get(REJECTION)
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ConfigError(
            f"the setting {REJECTION} of the graph {graph.name} must be a number of nats per token, or null, but is "
            f"{value!r}; correct its graph.json"
        )
    return float(value)


def judged(hypotheses: Sequence[Hypothesis], graph: LoadedGraph) -> list[Hypothesis]:
    """The hypotheses of an utterance, or only one without tokens if the best one falls short by too much."""
    best = hypotheses[0]
    if best.shortfall is not None and best.shortfall > rejection_threshold(graph):
        return [Hypothesis(score=best.score, shortfall=best.shortfall, is_complete=False)]
    return list(hypotheses)
