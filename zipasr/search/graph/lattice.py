"""Lattices: all paths of an utterance through its graph that come near the best one, for rescoring by larger models.

Encoded frames (N, T, D) at 25 Hz and graphs in, a `Lattice` an utterance out. Its nodes are in order of time; an arc is one
step of the search: a label, a blank, a repetition, or an arc of the graph without token. Scores in nats.
Source: Ney and Aubert 1994, "A word graph algorithm for large vocabulary, continuous speech recognition"; pruning by
posterior scores, Sixtus and Ortmanns 1999, "High quality word graphs using forward-backward pruning".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.graph.arcs import check_graph
from zipasr.search.graph.graph_search import GraphSearch
from zipasr.search.graph.passing import NO_TRANSITIONS, GraphBatch, Transitions
from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph, concatenated, take
from zipasr.search.hypothesis import Hypothesis, Output
from zipasr.search.prior import AnyPrior, WeightedPriors
from zipasr.search.resumable import check_states

DEFAULT_LATTICE_BEAM_NATS = 8.0
"""As published: `output_beam` of HLG decoding in the recipes."""


class LatticeArcs(NamedTuple):
    """The arcs of a lattice (A,), in order of the nodes that they enter."""

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    frames: NDArray[np.int64]
    """Frame at 25 Hz of each; for arcs without token the one before."""
    labels: NDArray[np.int64]
    """Label that each emits, or `NO_TOKEN`."""
    symbols: NDArray[np.int64]
    """What each puts out, or `NO_SYMBOL`."""
    log_probs: NDArray[np.float64]
    """Log-probability by the model."""
    graph_scores: NDArray[np.float64]
    """Score by the graph."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """The paths of one utterance; without any, it has no arcs and no final node."""

    arcs: LatticeArcs
    final_scores: dict[int, float]
    """Score by the graph of ending in a node; other nodes are not final. Node 0 is the start."""
    symbols: Sequence[str]
    """Outputs, as those of the graph."""
    num_nodes: int

    def best(
        self,
        num_best: int = 1,
        *,
        prior: AnyPrior | None = None,
        graph_scale: float = 1.0,
        num_kept: int = 16,
    ) -> list[Hypothesis]:
        """The best paths with different tokens and outputs, the best first.

        Args:
            num_best: number of hypotheses.
            prior: language models, already weighted, whose score of the tokens and their end is added to that of a path.
            graph_scale: weight of the scores of the graph; 0 replaces its language model by the prior.
            num_kept: paths with different tokens and outputs that are kept at each node. Exact if no node has more.
        Returns:
            At most `num_best` hypotheses; none for a lattice without paths.
        Raises:
            ValueError: `num_best` or `num_kept` is below 1.
        """
        if min(num_best, num_kept) < 1:
            raise ValueError(f"num_best and num_kept must be 1 or more, but are {num_best} and {num_kept}")
        scored_by: AnyPrior = WeightedPriors([]) if prior is None else prior
        at_node: list[dict[tuple[object, ...], _Partial]] = [{} for _ in range(self.num_nodes)]
        at_node[0][()] = _Partial(0.0, scored_by.start(), None, ())
        arcs, first = self.arcs, 0
        while first < len(arcs.targets):  # arcs into one node after the other; all that enter its sources came before
            target = int(arcs.targets[first])
            end = int(np.searchsorted(arcs.targets, target, side="right"))
            at_node[target] = self._entering(range(first, end), at_node, scored_by, graph_scale, num_kept)
            first = end
        ends = [
            (partial, graph_scale * score) for node, score in self.final_scores.items() for partial in at_node[node].values()
        ]
        finals = scored_by.finish([partial.prior_state for partial, _ in ends]) if ends else []
        totals = [partial.score + score + end for (partial, score), end in zip(ends, finals, strict=True)]
        found: dict[tuple[object, ...], Hypothesis] = {}
        for i in sorted(range(len(ends)), key=lambda i: -totals[i]):
            if len(found) == num_best:
                break
            hypothesis = self._hypothesis(ends[i][0], totals[i])
            found.setdefault((hypothesis.ids, hypothesis.outputs), hypothesis)
        return list(found.values())

    def _entering(
        self,
        indices: Sequence[int],
        at_node: Sequence[dict[tuple[object, ...], "_Partial"]],
        prior: AnyPrior,
        graph_scale: float,
        num_kept: int,
    ) -> dict[tuple[object, ...], "_Partial"]:
        """The best paths into a node, by what they have said; the prior scores all new labels in one call."""
        arcs = self.arcs
        steps = [(i, partial) for i in indices for partial in at_node[int(arcs.sources[i])].values()]
        labels = [(n, int(arcs.labels[i])) for n, (i, _) in enumerate(steps) if arcs.labels[i] != NO_TOKEN]
        states: list[object] = [partial.prior_state for _, partial in steps]
        scores = [0.0] * len(steps)
        if labels:
            new_states, new_scores = prior.extend([states[n] for n, _ in labels], [label for _, label in labels])
            for (n, _), state, score in zip(labels, new_states, new_scores, strict=True):
                states[n], scores[n] = state, score
        found: dict[tuple[object, ...], _Partial] = {}
        for (i, partial), state, score in zip(steps, states, scores, strict=True):
            total = partial.score + arcs.log_probs[i] + graph_scale * arcs.graph_scores[i] + score
            is_said = arcs.labels[i] != NO_TOKEN or arcs.symbols[i] != NO_SYMBOL
            said = (*partial.said, (int(arcs.labels[i]), int(arcs.symbols[i]))) if is_said else partial.said
            if said not in found or total > found[said].score:
                last = _Said(i, partial.last) if is_said else partial.last
                found[said] = _Partial(float(total), state, last, said)
        return dict(sorted(found.items(), key=lambda item: -item[1].score)[:num_kept])

    def _hypothesis(self, partial: "_Partial", score: float) -> Hypothesis:
        chain: list[int] = []
        last = partial.last
        while last is not None:
            chain.append(last.arc)
            last = last.before
        ids: list[int] = []
        emitted: list[int] = []
        outputs: list[Output] = []
        for i in reversed(chain):
            if self.arcs.symbols[i] != NO_SYMBOL:
                outputs.append(Output(self.symbols[self.arcs.symbols[i]], len(ids)))
            if self.arcs.labels[i] != NO_TOKEN:
                ids.append(int(self.arcs.labels[i]))
                emitted.append(i)
        frames = tuple(int(self.arcs.frames[i]) for i in emitted)
        log_probs = tuple(float(self.arcs.log_probs[i]) for i in emitted)
        return Hypothesis(tuple(ids), frames, log_probs, float(score), tuple(outputs))


class _Said(NamedTuple):
    """An arc that put out something, and the one before it on the path."""

    arc: int
    before: "_Said | None"


class _Partial(NamedTuple):
    """The best path to a node of those that have said the same."""

    score: float
    prior_state: object
    last: _Said | None
    said: tuple[object, ...]


@torch.inference_mode()
def graph_lattices(
    search: GraphSearch,
    encoded: Encoded,
    graphs: TokenGraph | Sequence[TokenGraph],
    *,
    lattice_beam_nats: float = DEFAULT_LATTICE_BEAM_NATS,
) -> list[Lattice]:
    """The lattice of each utterance of a batch.

    It has exactly the paths whose score is within `lattice_beam_nats` of the best one's, as far as the beam and `max_states`
    of the search leave them, and others that the same arcs make.

    Args:
        search: by the CTC head, or the transducer with one label a frame.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        graphs: what may be said, for all utterances or for each.
        lattice_beam_nats: see above.
    Raises:
        ValueError: lengths do not fit the frames, there is no graph for each utterance, a graph does not fit the model, the
            beam is negative, or a frame may emit several labels.
        ConfigError: a graph has a cycle of arcs without tokens: its lattice would have endless paths.
    """
    own = list(graphs) if isinstance(graphs, Sequence) else [graphs] * len(encoded.lens)
    if getattr(search, "max_symbols_per_frame", 1) != 1:
        raise ValueError("max_symbols_per_frame must be 1 for a lattice, but is more; search for the n best instead")
    if not lattice_beam_nats >= 0:
        raise ValueError(f"lattice_beam_nats must be 0 or more, but is {lattice_beam_nats}")
    for graph in own:
        check_graph(graph, blank_id=search.scorer.blank_id)
    states = [search.first_state(graph) for graph in own]
    lens = check_states(states, encoded)
    if not states:
        return []
    batch = GraphBatch(states, search.limits)
    batch.transitions = []
    batch.paths = batch.close(batch.paths, -1)
    search.pass_on(batch, states, encoded, lens)
    steps = concatenated([NO_TRANSITIONS, *batch.transitions])
    made = []
    for n, (graph, length) in enumerate(zip(own, lens, strict=True)):
        chosen = take(steps, steps.utterances == n)
        first_state = batch.first_states[n]
        made.append(_pruned(chosen, graph, int(first_state), length, lattice_beam_nats))
    return made


def _pruned(steps: Transitions, graph: TokenGraph, first_state: int, length: int, beam_nats: float) -> Lattice:
    """The lattice of the steps of one utterance whose best path comes near enough."""
    start = np.array([[0, first_state + graph.start, _first_side(steps)]])
    nodes, places = np.unique(np.concatenate([start, steps.sources, steps.targets]), axis=0, return_inverse=True)
    num = len(steps.utterances)
    at_start, sources, targets = np.split(places.reshape(-1), [1, 1 + num])
    order = _in_order(sources, targets, len(nodes))
    ranks = np.empty(len(nodes), np.int64)
    ranks[order] = np.arange(len(nodes))
    frames = steps.targets[:, 0] - 1
    arcs = LatticeArcs(
        ranks[sources], ranks[targets], frames, steps.labels, steps.symbols, steps.log_probs, steps.graph_scores
    )
    arcs = take(arcs, np.argsort(arcs.targets, kind="stable"))
    scores = arcs.log_probs + arcs.graph_scores
    finals = np.full(len(nodes), -math.inf)
    is_last = nodes[order][:, 0] == length
    finals[is_last] = graph.final_scores[nodes[order][is_last, 1] - first_state]
    first = int(ranks[at_start[0]])
    forward, backward = np.full(len(nodes), -math.inf), finals.copy()
    forward[first] = 0.0
    for i in range(num):
        source, target = arcs.sources[i], arcs.targets[i]
        forward[target] = max(forward[target], forward[source] + scores[i])
    for i in np.argsort(-arcs.sources, kind="stable").tolist():
        source, target = arcs.sources[i], arcs.targets[i]
        backward[source] = max(backward[source], backward[target] + scores[i])
    best = backward[first]
    if best == -math.inf:
        return Lattice(take(arcs, np.zeros(0, np.int64)), {}, graph.symbols, 1)
    is_near = forward[arcs.sources] + scores + backward[arcs.targets] >= best - beam_nats - 1e-9
    arcs = take(arcs, is_near)
    kept = np.unique(np.concatenate([[first], arcs.sources, arcs.targets]))
    arcs = arcs._replace(sources=np.searchsorted(kept, arcs.sources), targets=np.searchsorted(kept, arcs.targets))
    near_finals = {
        n: float(finals[node])
        for n, node in enumerate(kept.tolist())
        if finals[node] > -math.inf and forward[node] + finals[node] >= best - beam_nats - 1e-9
    }
    return Lattice(arcs, near_finals, graph.symbols, len(kept))


def _first_side(steps: Transitions) -> int:
    """The side of the start, which all first steps leave."""
    at_start = steps.sources[steps.sources[:, 0] == 0]
    return int(at_start[0, 2]) if len(at_start) else 0


def _in_order(sources: NDArray[np.int64], targets: NDArray[np.int64], num_nodes: int) -> NDArray[np.int64]:
    """The nodes so that every arc goes from an earlier to a later one.

    Raises:
        ConfigError: there is a cycle.
    """
    num_open = np.bincount(targets, minlength=num_nodes)
    following: list[list[int]] = [[] for _ in range(num_nodes)]
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        following[source].append(target)
    ready = np.flatnonzero(num_open == 0).tolist()[::-1]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for target in following[node]:
            num_open[target] -= 1
            if num_open[target] == 0:
                ready.append(target)
    if len(order) < num_nodes:
        raise ConfigError(
            "a graph must have no cycle of arcs without tokens for a lattice, but this one has; search for the n best "
            "instead"
        )
    return np.array(order, np.int64)
