"""CTC search through a graph: encoded frames (N, T, D) at 25 Hz -> the best paths of every utterance.

Source: token passing, Young et al. 1989, "Token passing: a simple conceptual model for connected speech recognition
systems"; over graphs, Miao et al. 2015, "EESEN", arXiv:1507.08240. The n best: Schwartz and Chow 1990, "The N-best
algorithm". The blanks and repeats of CTC are implicit unless the graph has them as arcs: then a frame with the label of the
frame before repeats it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zipasr.nn.encoded import Encoded
from zipasr.search.graph.arcs import check_tokens
from zipasr.search.graph.graph_search import DEFAULT_BEAM_NATS, DEFAULT_LIMITS, DEFAULT_MAX_STATES, GraphSearch
from zipasr.search.graph.passing import Continuations, GraphBatch, GraphState, Limits, Paths, along_arcs, staying
from zipasr.search.graph.token_graph import NO_TOKEN, TokenGraph, concatenated, take
from zipasr.search.greedy import CtcGreedySearch
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prior import AnyPrior
from zipasr.search.resumable import search_all
from zipasr.search.scorer import AdjustedScorer, Scorer

_NO_LABEL = 0
"""Side of paths whose last frame was a blank; that of label v is v + 1."""


class CtcGraphSearch(GraphSearch):
    """CTC search through a graph as a `ResumableSearch`; see `ctc_graph_search`."""

    def __init__(
        self,
        scorer: Scorer,
        limits: Limits = DEFAULT_LIMITS,
        *,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
        prior: AnyPrior | None = None,
    ) -> None:
        """Configure the search; other arguments as in `ctc_graph_search`.

        Args:
            limits: which paths to keep.
            prior: language models, already weighted, whose score of a hypothesis is added to its own before the hypotheses
                are ranked; it chooses among those of the best `limits.num_kept` paths.
        """
        self._adjusted = AdjustedScorer(scorer, blank_penalty, temperature)
        free = CtcGreedySearch(scorer, blank_penalty=blank_penalty, temperature=temperature)
        super().__init__(scorer, free, limits, prior)

    def first_state(self, graph: TokenGraph) -> GraphState:
        return GraphState(graph, _NO_LABEL)

    def _next_state(self, state: GraphState, side: int | None) -> GraphState:
        return GraphState(state.graph, _NO_LABEL if side is None else side)

    def pass_on(self, batch: GraphBatch, states: Sequence[GraphState], encoded: Encoded, lens: Sequence[int]) -> None:
        log_probs_NTV = self._adjusted.ctc_log_probs(encoded.frames).cpu()
        check_tokens(batch.graph, log_probs_NTV.shape[-1])
        scores_NTV = log_probs_NTV.double().numpy()
        for frame in batch.running(lens):
            found = self._continuations(batch, scores_NTV[:, frame])
            good = batch.within_beam(batch.paths.utterances[found.sources], found.scores)
            paths = batch.follow(batch.paths, take(found, good), frame)
            batch.paths = batch.capped(batch.close(paths, frame))
        batch.store(lens)

    def _continuations(self, batch: GraphBatch, scores_NV: NDArray[np.float64]) -> Continuations:
        """All continuations of the paths of a batch with the labels of a frame."""
        paths, blank_id = batch.paths, self.scorer.blank_id
        is_implicit = ~batch.has_topology[paths.utterances]
        at_blank = np.flatnonzero(is_implicit)
        blanks = staying(at_blank, paths, np.full(len(at_blank), _NO_LABEL), scores_NV[paths.utterances[at_blank], blank_id])
        at_label = np.flatnonzero(is_implicit & (paths.sides != _NO_LABEL))
        sides = paths.sides[at_label]
        repeats = staying(at_label, paths, sides, scores_NV[paths.utterances[at_label], sides - 1])
        return concatenated([blanks, repeats, self._by_arcs(batch, paths, scores_NV)])

    def _by_arcs(self, batch: GraphBatch, paths: Paths, scores_NV: NDArray[np.float64]) -> Continuations:
        table = batch.graph.emitting
        sources, arcs = table.leaving(paths.states)
        tokens = table.tokens[arcs].astype(np.int64)
        is_repeat = paths.sides[sources] == tokens + 1
        # Without a blank between, the same label is that of the path again, not a new one.
        is_free = ~is_repeat | batch.has_topology[paths.utterances[sources]]
        sources, arcs, tokens, is_repeat = sources[is_free], arcs[is_free], tokens[is_free], is_repeat[is_free]
        log_probs = scores_NV[paths.utterances[sources], tokens]
        is_blank = tokens == self.scorer.blank_id
        sides = np.where(is_blank, _NO_LABEL, tokens + 1)
        labels = np.where(is_blank | is_repeat, NO_TOKEN, tokens)
        return along_arcs(paths, table, sources, arcs, sides=sides, labels=labels, log_probs=log_probs)


def ctc_graph_search(
    scorer: Scorer,
    encoded: Encoded,
    graphs: TokenGraph | Sequence[TokenGraph],
    *,
    beam_nats: float = DEFAULT_BEAM_NATS,
    max_states: int = DEFAULT_MAX_STATES,
    num_best: int = 1,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
) -> list[list[Hypothesis]]:
    """The most probable paths of each utterance through its graph, by the CTC head.

    A path is an alignment; its score is the log-probability of its frames by CTC plus the scores of its arcs. Of the
    alignments of one output the best counts, not the sum.

    Args:
        scorer: has a CTC head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        graphs: what may be said, for all utterances or for each.
        beam_nats: paths that are less probable than the best by more are dropped after each frame.
        max_states: number of states that stay after a frame, the best first; a state with another label in the last frame
            counts as another one.
        num_best: number of hypotheses, which differ in what the graph puts out, or in tokens if it puts out nothing else.
        blank_penalty: subtracted from the blank's log-probability before they are normalized again.
        temperature: divides the log-probabilities before they are normalized again.
    Returns:
        For each utterance its hypotheses that end where the graph allows it, the best first, with `outputs` and
        `shortfall`; if there is none, one without tokens whose score is -inf.
    Raises:
        ValueError: lengths do not fit the frames, there is no graph for each utterance, a graph does not fit the model, a
            setting is out of range, or there is no CTC head.
        ConfigError: a graph has a cycle of arcs without tokens that gains.
    """
    limits = Limits(beam_nats, max_states, num_best)
    search = CtcGraphSearch(scorer, limits, blank_penalty=blank_penalty, temperature=temperature)
    return search_all(search, encoded, graphs)
