"""Transducer search through a graph: encoded frames (N, T, D) at 25 Hz -> the best paths of every utterance.

A path is at a state of the graph with a label context, the last labels that the predictor sees. Each different context of an
utterance is scored once in a frame, however many paths have it. Blank is a loop at every state.
Source: Kang et al. 2023, "Fast and parallel decoding for transducer", arXiv:2211.00484, section 3. Here a frame may also
emit several labels, in the sub-steps of `modified_beam_search`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import Contexts, KeptContexts, first_context
from zipasr.search.graph.arcs import check_tokens
from zipasr.search.graph.graph_search import DEFAULT_BEAM_NATS, DEFAULT_LIMITS, DEFAULT_MAX_STATES, GraphSearch
from zipasr.search.graph.passing import (
    Continuations,
    GraphBatch,
    GraphState,
    Limits,
    Paths,
    along_arcs,
    best_of_each,
    staying,
)
from zipasr.search.graph.token_graph import TokenGraph, concatenated, places_within, take
from zipasr.search.greedy import GreedySearch
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prior import AnyPrior
from zipasr.search.resumable import search_all
from zipasr.search.scorer import AdjustedScorer, Scorer

DEFAULT_MAX_CONTEXTS = 8
"""As published for fast_beam_search."""
_ROWS = 1 << 32
"""More than the rows of `Contexts`."""


class GraphBeamSearch(GraphSearch):
    """Transducer search through a graph as a `ResumableSearch`; see `transducer_graph_search`."""

    def __init__(
        self,
        scorer: Scorer,
        limits: Limits = DEFAULT_LIMITS,
        *,
        max_contexts: int = DEFAULT_MAX_CONTEXTS,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
        unk_id: int | None = None,
        max_symbols_per_frame: int = 1,
        prior: AnyPrior | None = None,
    ) -> None:
        """Configure the search; `limits` and `prior` as in `CtcGraphSearch`, others as in `transducer_graph_search`."""
        if max_contexts < 1:
            raise ValueError(f"max_contexts must be at least 1, but is {max_contexts}")
        self.max_contexts, self.max_symbols_per_frame = max_contexts, max_symbols_per_frame
        self._adjusted = AdjustedScorer(scorer, blank_penalty, temperature)
        self._silent = [scorer.blank_id] if unk_id is None else [scorer.blank_id, unk_id]
        free = GreedySearch(
            scorer,
            blank_penalty=blank_penalty,
            temperature=temperature,
            unk_id=unk_id,
            max_symbols_per_frame=max_symbols_per_frame,
        )
        super().__init__(scorer, free, limits, prior)
        self._contexts = KeptContexts(scorer)

    def first_state(self, graph: TokenGraph) -> GraphState:
        if graph.has_ctc_topology:
            raise ValueError(
                "the graph of a transducer must be over tokens, such as a grammar or LG, but this one has the topology of "
                "CTC (H, HL or HLG); search it with the CTC head"
            )
        return GraphState(graph, 0, [first_context(self.scorer)])

    def _next_state(self, state: GraphState, side: int | None) -> GraphState:
        return GraphState(state.graph, 0, [first_context(self.scorer) if side is None else state.contexts[side]])

    def pass_on(self, batch: GraphBatch, states: Sequence[GraphState], encoded: Encoded, lens: Sequence[int]) -> None:
        contexts = self._contexts.get()
        _to_rows(batch, states, contexts)
        projected_NTJ = self.scorer.project_frames(encoded.frames)
        for frame in batch.running(lens):
            self._advance_frame(batch, projected_NTJ[:, frame], contexts, frame)
        batch.store(lens)
        for state in states:
            rows, places = np.unique(state.paths.sides, return_inverse=True)
            state.contexts = [contexts.context(row) for row in rows.tolist()]
            state.paths = state.paths._replace(sides=places)

    def _advance_frame(self, batch: GraphBatch, projected_NJ: Tensor, contexts: Contexts, frame: int) -> None:
        """Advance all paths by one frame, in sub-steps of the paths that have taken a label in every one so far."""
        opened, finished = batch.paths, take(batch.paths, np.zeros(0, np.int64))
        for num_symbols in range(1, self.max_symbols_per_frame + 1):
            opened, log_probs_MV, rows = self._scored(batch, opened, projected_NJ, contexts)
            # A blank, or what counts as one, if that is more probable.
            silence_M = log_probs_MV[:, self._silent].max(1)
            blanks = staying(np.arange(len(rows)), opened, opened.sides, silence_M[rows])
            labels = _by_arcs(batch, opened, log_probs_MV, rows)
            places = np.concatenate([blanks.sources, labels.sources])
            utterances = np.concatenate([finished.utterances, opened.utterances[places]])
            is_good = batch.within_beam(utterances, np.concatenate([finished.scores, blanks.scores, labels.scores]))
            of_finished, of_blanks, of_labels = np.split(
                is_good, [len(finished.states), len(finished.states) + len(blanks.sources)]
            )
            waiting = batch.follow(opened, take(blanks, of_blanks), frame)
            labels = take(labels, of_labels)
            labels = labels._replace(sides=_rows_after(labels, contexts))
            after = batch.close(batch.follow(opened, labels, frame), frame)
            finished = _merged([take(finished, of_finished), waiting], batch.limits)
            if num_symbols == self.max_symbols_per_frame:
                finished = _merged([finished, after], batch.limits)
            opened = batch.capped(after)
            if not len(opened.states):
                break
        batch.paths = batch.capped(finished)

    def _scored(
        self, batch: GraphBatch, paths: Paths, projected_NJ: Tensor, contexts: Contexts
    ) -> tuple[Paths, NDArray[np.float64], NDArray[np.int64]]:
        """The paths with the best contexts, log-probabilities (M, V) of each utterance and context, and (P,) their rows."""
        pairs, rows = np.unique(paths.utterances * _ROWS + paths.sides, return_inverse=True)
        best = np.full(len(pairs), -np.inf)
        np.maximum.at(best, rows, paths.scores)
        utterances = pairs // _ROWS
        is_kept = np.empty(len(pairs), np.bool_)
        is_kept[np.lexsort((-best, utterances))] = places_within(np.bincount(utterances)) < self.max_contexts
        paths, rows = take(paths, is_kept[rows]), (np.cumsum(is_kept) - 1)[rows[is_kept[rows]]]
        device = projected_NJ.device
        kept_N = torch.from_numpy(utterances[is_kept]).to(device)
        kept_M = torch.from_numpy(pairs[is_kept] % _ROWS).to(device)
        log_probs_MV = self._adjusted.transducer_log_probs(projected_NJ[kept_N], contexts.gather(kept_M))
        check_tokens(batch.graph, log_probs_MV.shape[-1])
        return paths, log_probs_MV.double().cpu().numpy(), rows


# Differs: nine parameters, since one call covers all that the search can do.
def transducer_graph_search(
    scorer: Scorer,
    encoded: Encoded,
    graphs: TokenGraph | Sequence[TokenGraph],
    *,
    beam_nats: float = DEFAULT_BEAM_NATS,
    max_contexts: int = DEFAULT_MAX_CONTEXTS,
    max_states: int = DEFAULT_MAX_STATES,
    num_best: int = 1,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    unk_id: int | None = None,
    max_symbols_per_frame: int = 1,
) -> list[list[Hypothesis]]:
    """The most probable paths of each utterance through its graph, by the transducer head.

    A path takes blank, or the labels of arcs, in the sub-steps of a frame as in `modified_beam_search`; its score is the
    log-probability of all of these plus the scores of its arcs. Of the alignments of one output the best counts, not the
    sum.

    Args:
        scorer: has a transducer head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        graphs: what may be said, for all utterances or for each; without CTC topology.
        beam_nats: paths that are less probable than the best by more are dropped.
        max_contexts: number of label contexts that are scored in a frame, those of the best paths first.
        max_states: number of states that stay after a frame, the best first; a state with another label context counts as
            another one.
        num_best: number of hypotheses, which differ in what the graph puts out, or in tokens if it puts out nothing else.
        blank_penalty: subtracted from the blank's logit.
        temperature: divides the logits.
        unk_id: a label that counts as blank where no arc has it; None: the vocabulary has none.
        max_symbols_per_frame: labels that a frame may emit before the search advances to the next.
    Returns:
        As `ctc_graph_search`.
    Raises:
        ValueError: lengths do not fit the frames, there is no graph for each utterance, a graph does not fit the model, a
            setting is out of range, or there is no transducer head.
        ConfigError: a graph has a cycle of arcs without tokens that gains.
    """
    search = GraphBeamSearch(
        scorer,
        Limits(beam_nats, max_states, num_best),
        max_contexts=max_contexts,
        blank_penalty=blank_penalty,
        temperature=temperature,
        unk_id=unk_id,
        max_symbols_per_frame=max_symbols_per_frame,
    )
    return search_all(search, encoded, graphs)


def _to_rows(batch: GraphBatch, states: Sequence[GraphState], contexts: Contexts) -> None:
    """Let the sides of a batch be rows of contexts instead of places in the contexts of each state."""
    first = np.cumsum([0, *(len(state.contexts) for state in states)])[batch.paths.utterances]
    rows = np.array([contexts.row_of(context) for state in states for context in state.contexts], np.int64)
    batch.paths = batch.paths._replace(sides=rows[first + batch.paths.sides])


def _by_arcs(batch: GraphBatch, paths: Paths, log_probs_MV: NDArray[np.float64], rows: NDArray[np.int64]) -> Continuations:
    """The continuations of paths by the labels of arcs, still with the sides of the paths."""
    table = batch.graph.emitting
    sources, arcs = table.leaving(paths.states)
    tokens = table.tokens[arcs].astype(np.int64)
    log_probs = log_probs_MV[rows[sources], tokens]
    return along_arcs(paths, table, sources, arcs, sides=paths.sides[sources], labels=tokens, log_probs=log_probs)


def _rows_after(labels: Continuations, contexts: Contexts) -> NDArray[np.int64]:
    """The row of the label context after each continuation by a label."""
    pairs, places = np.unique(labels.sides * _ROWS + labels.labels, return_inverse=True)
    rows = [contexts.row_after(*divmod(pair, _ROWS)) for pair in pairs.tolist()]
    return np.array(rows, np.int64)[places]


def _merged(parts: Sequence[Paths], limits: Limits) -> Paths:
    """Paths of the same frame, the best of those that meet."""
    paths = concatenated(parts)
    return take(paths, best_of_each(paths, limits.num_kept))
