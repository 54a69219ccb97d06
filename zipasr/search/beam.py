"""Modified beam search: encoded frames (N, T, D) at 25 Hz -> the best hypotheses of every utterance.

At most one label a frame, so all hypotheses of all utterances stand at the same frame and are scored by one joiner
call. Token sequences of an utterance form a tree in which equal sequences are the same node: hypotheses that meet there
are merged by adding their probabilities, and whatever depends on the sequence alone (the label context; the state of a
language model or of hotwords) has its place in the node.
Source: Kang et al. 2023, "Fast and parallel decoding for transducer", arXiv:2211.00484, section 2.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import FIRST_ROW, Contexts, first_context
from zipasr.search.hypothesis import Hypothesis
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
from zipasr.search.prior import LabelPrior
from zipasr.search.resumable import check_states, search_all
from zipasr.search.scorer import Scorer, label_log_probs


class _Path(NamedTuple):
    """A live hypothesis: all paths with one token sequence, with the times of the best of them."""

    prefix: LabelNode
    log_prob: float
    """By the transducer alone."""
    last: Emission | None

    @property
    def score(self) -> float:
        """What it is ranked by: the transducer and the prior."""
        return self.log_prob + self.prefix.prior_score


class BeamState:
    """Where the search stands in one utterance."""

    def __init__(self, context: tuple[int, ...], prior: LabelPrior | None) -> None:
        """Begin behind the labels of `context`."""
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
    ) -> None:
        """Settle the search; arguments as in `modified_beam_search`."""
        if beam < 1:
            raise ValueError(f"beam must be at least 1, but is {beam}")
        self.scorer, self.beam = scorer, beam
        self.blank_penalty, self.temperature = blank_penalty, temperature
        self.silent = {scorer.blank_id, unk_id}

    def start(self, prior: LabelPrior | None = None) -> BeamState:
        """State of an utterance of which no frame has come."""
        return BeamState(first_context(self.scorer), prior)

    @torch.inference_mode()
    def advance(self, states: Sequence[BeamState], encoded: Encoded) -> None:
        """Take every state through the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        projected_NTJ = self.scorer.project_frames(encoded.frames)
        contexts = Contexts(self.scorer)
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

    def _advance_frame(self, states: Sequence[BeamState], projected_AJ: Tensor, contexts: Contexts) -> None:
        rows_AK, scores_AK = _to_tensors([state.paths for state in states], projected_AJ.device)
        logits_AKV = self.scorer.join(projected_AJ.unsqueeze(1), contexts.gather(rows_AK))
        log_probs_AKV = label_log_probs(
            logits_AKV, blank_id=self.scorer.blank_id, blank_penalty=self.blank_penalty, temperature=self.temperature
        )
        pool_AP = (log_probs_AKV + scores_AK.unsqueeze(-1)).flatten(1)
        best_AB = pool_AP.topk(min(self.beam, pool_AP.shape[1])).indices
        step_AB = log_probs_AKV.flatten(1).gather(1, best_AB)
        vocab_size = log_probs_AKV.shape[-1]
        for state, best, steps in zip(states, best_AB.tolist(), step_AB.tolist(), strict=True):
            chosen = ((*divmod(index, vocab_size), step) for index, step in zip(best, steps, strict=True))
            state.paths = _advance(state.paths, chosen, state.num_frames, self.silent, contexts)
            state.num_frames += 1
        score_all((state.prior, path.prefix) for state in states if state.prior is not None for path in state.paths)

    def hypotheses(self, states: Sequence[BeamState]) -> list[list[Hypothesis]]:
        """For each state its hypotheses, the best first by `normalised_score`; see `ResumableSearch`."""
        return [[hypothesis for hypothesis, _ in self._ranked(state)] for state in states]

    def restart(self, state: BeamState) -> BeamState:
        """State for what follows; see `ResumableSearch`."""
        _, best = self._ranked(state)[0]
        return BeamState(best.context(state.context), state.prior)

    def _ranked(self, state: BeamState) -> list[tuple[Hypothesis, LabelNode]]:
        """The hypotheses with their nodes, the best first."""
        prior_scores = final_scores([path.prefix for path in state.paths], state.prior)
        found = [
            (to_hypothesis(path.prefix, path.last, path.log_prob + score), path.prefix)
            for path, score in zip(state.paths, prior_scores, strict=True)
        ]
        return sorted(found, key=lambda pair: -pair[0].normalised_score(self.scorer.context_size))


def modified_beam_search(
    scorer: Scorer,
    encoded: Encoded,
    *,
    beam: int = 4,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    unk_id: int | None = None,
    prior: LabelPrior | None = None,
) -> list[list[Hypothesis]]:
    """Search for the most probable token sequences with the transducer head.

    For each frame the `beam` best of all continuations (every hypothesis with every label) stay, and those with equal
    tokens are merged by log-add; so fewer than `beam` may be left.

    Args:
        scorer: has a transducer head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        beam: continuations that stay.
        blank_penalty: taken off the blank's logit; positive values delete fewer words.
        temperature: divides the logits; above 1, the search trusts the model less and keeps more different hypotheses.
        unk_id: a label that is passed over like blank; None: there is none.
        prior: language models and hotwords, already weighted. As published, a label counts for a hypothesis from the
            frame after it on: which continuations of a frame stay is decided without it.
    Returns:
        For each utterance its hypotheses, the best first by `normalised_score`; at least one, 1 to `beam` of them.
    Raises:
        ValueError: lengths do not fit the frames, `beam` is below 1, the temperature is not positive, or there is no
            transducer head.
    """
    search = BeamSearch(scorer, beam=beam, blank_penalty=blank_penalty, temperature=temperature, unk_id=unk_id)
    return search_all(search, encoded, prior)


def _to_tensors(beams: Sequence[list[_Path]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Context rows and scores (A, K) of the hypotheses; scores are relative to the best, and -inf where there is none.

    Relative scores keep their precision in float32 however long the recording is.
    """
    width = max(len(paths) for paths in beams)
    rows, scores = [], []
    for paths in beams:
        top = max(path.score for path in paths)
        empty = width - len(paths)
        rows.append([path.prefix.context_row for path in paths] + [FIRST_ROW] * empty)
        scores.append([path.score - top for path in paths] + [-math.inf] * empty)
    return torch.tensor(rows, device=device), torch.tensor(scores, dtype=torch.float32, device=device)


def _advance(
    paths: list[_Path],
    chosen: Iterable[tuple[int, int, float]],
    frame: int,
    silent: set[int | None],
    contexts: Contexts,
) -> list[_Path]:
    """The hypotheses after a frame, from the (path, label, log-probability) that were chosen, the best first."""
    merged: dict[LabelNode, _Path] = {}
    for slot, label, step in chosen:
        if slot >= len(paths):  # an empty place of the tensors: all real continuations have been taken
            continue
        prefix, log_prob, last = paths[slot]
        log_prob += step
        if label not in silent:
            row, prefix, last = prefix.context_row, prefix.extended(label), Emission(frame, step, last)
            if prefix.context_row is None:
                assert row is not None
                prefix.context_row = contexts.row_after(row, label)
        if prefix in merged:
            better = merged[prefix]
            merged[prefix] = better._replace(log_prob=log_add(better.log_prob, log_prob))
        else:
            merged[prefix] = _Path(prefix, log_prob, last)
    return list(merged.values())
