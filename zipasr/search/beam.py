"""Modified beam search: encoded frames (N, T, D) at 25 Hz -> the best hypotheses of every utterance.

A path takes one label or blank in each sub-step of a frame, and a frame has `max_symbols_per_frame` sub-steps at most. So
all hypotheses of all utterances stand at the same frame and sub-step and are scored by one joiner call. Token sequences of
an utterance form a tree in which equal sequences are the same node: hypotheses that meet there are merged by adding their
probabilities, and whatever depends on the sequence alone (the label context; the state of a language model or of
hotwords) has its place in the node.
Source: Kang et al. 2023, "Fast and parallel decoding for transducer", arXiv:2211.00484, section 2 (one label a frame).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import Contexts, KeptContexts, first_context
from zipasr.search.continuations import Beam, Chooser, Continuation
from zipasr.search.hypothesis import Hypothesis, normalized
from zipasr.search.label_tree import (
    Emission,
    LabelNode,
    final_scores,
    log_add,
    prune,
    root_node,
    score_all,
    to_hypothesis,
)
from zipasr.search.prior import AnyPrior
from zipasr.search.resumable import check_states, search_all
from zipasr.search.scorer import AdjustedScorer, Scorer


class _Path(NamedTuple):
    """A live hypothesis: all paths with one token sequence, with the times of the best path."""

    prefix: LabelNode
    log_prob: float
    """By the transducer alone."""
    last: Emission | None

    @property
    def score(self) -> float:
        """Score for ranking: that of the transducer and the prior."""
        return self.log_prob + self.prefix.prior_score

    @property
    def context_row(self) -> int:
        """Row of the label context."""
        assert self.prefix.context_row is not None
        return self.prefix.context_row


class BeamState:
    """Progress of the search in one utterance."""

    def __init__(self, context: tuple[int, ...], prior: AnyPrior | None) -> None:
        """Start after the labels of `context`."""
        self.context, self.prior, self.num_frames = context, prior, 0
        self.trunk = root_node(prior)
        self.paths = [_Path(self.trunk, 0.0, None)]


class BeamSearch:
    """Modified beam search as a `ResumableSearch`; see `modified_beam_search`."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        beam: int = 4,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
        unk_id: int | None = None,
        max_symbols_per_frame: int = 1,
    ) -> None:
        """Configure the search; arguments as in `modified_beam_search`."""
        if beam < 1:
            raise ValueError(f"beam must be at least 1, but is {beam}")
        if max_symbols_per_frame < 1:
            raise ValueError(f"max_symbols_per_frame must be at least 1, but is {max_symbols_per_frame}")
        self.scorer, self.max_symbols_per_frame = scorer, max_symbols_per_frame
        self._chooser = Chooser(adjusted=AdjustedScorer(scorer, blank_penalty, temperature), beam=beam)
        self.silent = {scorer.blank_id, unk_id}
        self._contexts = KeptContexts(scorer)

    def start(self, prior: AnyPrior | None = None) -> BeamState:
        """State of an utterance before its first frame."""
        return BeamState(first_context(self.scorer), prior)

    @torch.inference_mode()
    def advance(self, states: Sequence[BeamState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        contexts = self._contexts.get()
        projected_NTJ = self.scorer.project_frames(encoded.frames)
        for state in states:
            state.trunk = prune(state.trunk, [path.prefix for path in state.paths])
            for path in state.paths:
                path.prefix.context_row = contexts.row_of(path.prefix.context(state.context))
        longest_first = sorted(range(len(lens)), key=lambda n: -lens[n])
        projected_NTJ = projected_NTJ[torch.tensor(longest_first, dtype=torch.int64, device=projected_NTJ.device)]
        active = [states[n] for n in longest_first]
        sorted_lens = sorted(lens, reverse=True)
        for frame in range(max(lens, default=0)):
            while sorted_lens[len(active) - 1] <= frame:
                active.pop()
            self._advance_frame(active, projected_NTJ[: len(active), frame], contexts)

    def _advance_frame(self, states: Sequence[BeamState], projected_NJ: Tensor, contexts: Contexts) -> None:
        """Advance every state by one frame, in sub-steps of the states that have open paths left."""
        beams = [Beam(state.paths, []) for state in states]
        active, projected_AJ = list(range(len(states))), projected_NJ
        for num_symbols in range(1, self.max_symbols_per_frame + 1):
            chosen = self._chooser.choose([beams[n] for n in active], projected_AJ, contexts)
            is_last = num_symbols == self.max_symbols_per_frame
            for n, continuations in zip(active, chosen, strict=True):
                beams[n] = _merge(continuations, states[n].num_frames, self.silent, contexts, is_last=is_last)
            score_all(
                (states[n].prior, path.prefix)
                for n in active
                if states[n].prior is not None
                for path in (*beams[n].open, *beams[n].finished)
            )
            active = [n for n in active if beams[n].open]
            if not active:
                break
            projected_AJ = projected_NJ[torch.tensor(active, device=projected_NJ.device)]
        for state, beam in zip(states, beams, strict=True):
            state.paths = beam.finished
            state.num_frames += 1

    def hypotheses(self, states: Sequence[BeamState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """For each state its hypotheses, the best first by `normalized_score`; see `ResumableSearch`."""
        return [
            [to_hypothesis(path.prefix, path.last, score) for score, path in self._ranked(state)[:num_best]]
            for state in states
        ]

    def restart(self, state: BeamState) -> BeamState:
        """State of the next utterance; see `ResumableSearch`."""
        _, best = self._ranked(state)[0]
        return BeamState(best.prefix.context(state.context), state.prior)

    def _ranked(self, state: BeamState) -> list[tuple[float, _Path]]:
        """The live hypotheses with their scores, the best first, before any of them is spelled out."""
        prior_scores = final_scores([path.prefix for path in state.paths], state.prior)
        found = [(path.log_prob + score, path) for path, score in zip(state.paths, prior_scores, strict=True)]
        return sorted(
            found, key=lambda pair: -normalized(pair[0], pair[1].prefix.num_labels, context_size=self.scorer.context_size)
        )


# Differs: nine parameters, since one call covers all that the search can do.
def modified_beam_search(
    scorer: Scorer,
    encoded: Encoded,
    *,
    beam: int = 4,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    unk_id: int | None = None,
    prior: AnyPrior | None = None,
    max_symbols_per_frame: int = 1,
) -> list[list[Hypothesis]]:
    """The most probable token sequences of each utterance, by the transducer head.

    On each frame a path emits fewer than `max_symbols_per_frame` labels and then blank, or exactly that many labels; either
    way it is then finished with the frame. The paths take these steps together: after each, the `beam` best are kept of all
    continuations (every hypothesis that is still in the frame with every label and blank) and all hypotheses that are
    finished with it, and those with equal tokens are merged by log-add; so fewer than `beam` may be left. The next frame
    comes when no path that was kept is still in this one.

    With one label a frame this is the published search, and its paths are those of the `modified` lattice of the loss.
    Where a frame may emit more labels than the text has, they are those of the `regular` lattice.

    Args:
        scorer: has a transducer head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        beam: number of continuations to keep.
        blank_penalty: subtracted from the blank's logit; positive values delete fewer words.
        temperature: divides the logits; above 1, the search trusts the model less and keeps hypotheses that differ more.
        unk_id: a label that is skipped like blank; None: the vocabulary has none.
        prior: language models and hotwords, already weighted. As published, the prior's score of a label counts from the
            next choice on: that of the next step, in the same frame or, after its last step, in the next one. Which
            continuations of a step stay is decided without the prior's score of their new label.
        max_symbols_per_frame: labels that a frame may emit before the search advances to the next.
    Returns:
        For each utterance its hypotheses, the best first by `normalized_score`; 1 to `beam` hypotheses.
    Raises:
        ValueError: lengths do not fit the frames, `beam` or `max_symbols_per_frame` is below 1, the temperature is not
            positive, or there is no transducer head.
    """
    search = BeamSearch(
        scorer,
        beam=beam,
        blank_penalty=blank_penalty,
        temperature=temperature,
        unk_id=unk_id,
        max_symbols_per_frame=max_symbols_per_frame,
    )
    return search_all(search, encoded, prior)


def _merge(
    continuations: Iterable[Continuation[_Path]],
    frame: int,
    silent: set[int | None],
    contexts: Contexts,
    *,
    is_last: bool,
) -> Beam[_Path]:
    """The beam after a sub-step, from the continuations that are kept, the best first.

    In the last sub-step of a frame a label finishes it as blank does.
    """
    still_open: dict[LabelNode, _Path] = {}
    finished: dict[LabelNode, _Path] = {}
    for (prefix, log_prob, last), label, step in continuations:
        log_prob += step
        merged = finished
        if label not in silent:
            merged = finished if is_last else still_open
            row, prefix, last = prefix.context_row, prefix.extended(label), Emission(frame, step, last)
            if prefix.context_row is None:
                assert row is not None
                prefix.context_row = contexts.row_after(row, label)
        if prefix in merged:
            better = merged[prefix]
            merged[prefix] = better._replace(log_prob=log_add(better.log_prob, log_prob))
        else:
            merged[prefix] = _Path(prefix, log_prob, last)
    return Beam(list(still_open.values()), list(finished.values()))
