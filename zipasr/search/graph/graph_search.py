"""`GraphSearch`: what the searches through graphs share beside token passing: start, restart and the hypotheses.

A free search, one without a graph, runs beside: what is less probable under the graph than free by too much was something
else, and a recognizer can answer nothing then (`Hypothesis.shortfall`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zipasr.nn.encoded import Encoded
from zipasr.search.graph.arcs import check_graph, prepare
from zipasr.search.graph.passing import GraphBatch, GraphState, Limits
from zipasr.search.graph.token_graph import TokenGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prior import AnyPrior
from zipasr.search.rescoring import rescored_by_prior
from zipasr.search.resumable import ResumableSearch, check_states
from zipasr.search.scorer import Scorer

DEFAULT_BEAM_NATS = 20.0
"""As published: `beam` of fast_beam_search and `search_beam` of HLG decoding in the recipes."""
DEFAULT_MAX_STATES = 1000
"""Between the published 64 of fast_beam_search and 10,000 of HLG decoding."""
DEFAULT_LIMITS = Limits(DEFAULT_BEAM_NATS, DEFAULT_MAX_STATES)
"""Those of a search for the best path alone."""


class GraphSearch(ABC):
    """A search through a graph as an `UtteranceSearch`; what CTC and a transducer do in a frame is theirs."""

    def __init__(
        self, scorer: Scorer, free_search: ResumableSearch[Any, Any], limits: Limits, prior: AnyPrior | None
    ) -> None:
        """Configure the search; `free_search` is that of the same head without a graph, with the same settings.

        The other arguments are those of `CtcGraphSearch`.
        """
        if not limits.beam_nats > 0:
            raise ValueError(f"beam_nats must be positive, but is {limits.beam_nats}")
        if limits.max_states < 1:
            raise ValueError(f"max_states must be at least 1, but is {limits.max_states}")
        if limits.num_kept < 1:
            raise ValueError(f"num_kept must be at least 1, but is {limits.num_kept}")
        self.scorer, self.free_search, self.limits, self.prior = scorer, free_search, limits, prior

    def start(self, graph: TokenGraph | None = None) -> GraphState:
        """State of an utterance before its first frame, whose search is to follow the graph.

        Raises:
            ValueError: there is no graph, or it does not fit the search.
            ConfigError: the graph has a cycle without tokens that gains; see `GraphBatch.close`.
        """
        if graph is None:
            raise ValueError(
                "a search through a graph must have one for each utterance, but there is none; pass it to start"
            )
        check_graph(graph, blank_id=self.scorer.blank_id)
        return self._begun(self.first_state(graph), self.free_search.start())

    def _begun(self, state: GraphState, free: Any) -> GraphState:
        """A state whose paths have followed the arcs without tokens from the start."""
        batch = GraphBatch([state], self.limits)
        batch.paths = batch.close(batch.paths, 0)
        batch.store([0])
        state.free = free
        return state

    @torch.inference_mode()
    def advance(self, states: Sequence[GraphState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`.

        Raises:
            ValueError: as `ResumableSearch`, or a graph has tokens that the model lacks.
        """
        lens = check_states(states, encoded)
        if not states:
            return
        self.free_search.advance([state.free for state in states], encoded)
        self.pass_on(GraphBatch(states, self.limits), states, encoded, lens)

    def hypotheses(self, states: Sequence[GraphState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """For each state its hypotheses that end where the graph allows it, the best first; see `ResumableSearch`.

        If no path can end, there is one without tokens, whose score is -inf.
        """
        ranked = [self._ranked(state, None, is_partial=False) for state in states]
        if self.prior is not None:
            ranked = [rescored_by_prior(hypotheses, self.prior) for hypotheses in ranked]
        return [hypotheses[:num_best] for hypotheses in ranked]

    def partial_hypotheses(self, states: Sequence[GraphState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """The same, wherever they end: what has been said so far of something that the graph allows."""
        return [self._ranked(state, num_best, is_partial=True) for state in states]

    def speech_hypothesis(self, state: GraphState) -> Hypothesis:
        """The hypothesis of the free search beside: whether somebody speaks does not depend on the graph."""
        (free,) = self.free_search.hypotheses([state.free])[0]
        return free

    def _ranked(self, state: GraphState, num_best: int | None, *, is_partial: bool) -> list[Hypothesis]:
        paths, finals = state.paths, state.graph.final_scores[state.paths.states].astype(np.float64)
        is_final = finals > -math.inf
        totals = paths.scores + np.where(is_final, finals, 0.0 if is_partial else -math.inf)
        free, has_words = self.speech_hypothesis(state), prepare(state.graph).has_words
        found: list[Hypothesis] = []
        seen: set[int] = set()
        limit = self.limits.num_kept if num_best is None else min(num_best, self.limits.num_kept)
        for i in np.argsort(-totals, kind="stable").tolist():
            if totals[i] == -math.inf or len(found) == limit:
                break
            if int(paths.hashes[i]) in seen:
                continue
            seen.add(int(paths.hashes[i]))
            said = state.history.spell(int(paths.records[i]))
            lost = free.score - float(paths.scores[i] - paths.graph_scores[i])
            found.append(
                said._replace(
                    score=float(totals[i]),
                    shortfall=lost / max(len(said.ids), len(free.ids), 1),
                    is_complete=bool(is_final[i]),
                    has_words=has_words,
                )
            )
        return found or [Hypothesis(score=-math.inf, shortfall=math.inf, is_complete=False)]

    def restart(self, state: GraphState) -> GraphState:
        """State of the next utterance, at the start of the same graph; see `ResumableSearch`."""
        paths = state.paths
        side = int(paths.sides[paths.scores.argmax()]) if len(paths.sides) else None
        return self._begun(self._next_state(state, side), self.free_search.restart(state.free))

    @abstractmethod
    def first_state(self, graph: TokenGraph) -> GraphState:
        """State before the first frame, with the one path at the start of the graph."""

    @abstractmethod
    def _next_state(self, state: GraphState, side: int | None) -> GraphState:
        """The same for the utterance after another one, with the side of its best path; None: it has no path."""

    @abstractmethod
    def pass_on(self, batch: GraphBatch, states: Sequence[GraphState], encoded: Encoded, lens: Sequence[int]) -> None:
        """Advance the paths of a batch by the frames of every row and store them in the states."""
