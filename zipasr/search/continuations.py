"""What the beam searches of the transducer continue with: the best labels and blanks of all live paths of an utterance.

Frames (N, T, J) are projected for the joiner and counted at 25 Hz. A frame has sub-steps, one for each label that it may
emit: paths that have taken a label in all of them so far are open, the others wait for the next frame. One call of the
joiner scores the open paths of all utterances.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zipasr.search.contexts import FIRST_ROW, Contexts
from zipasr.search.scorer import AdjustedScorer


class LivePath(Protocol):
    """A live hypothesis of an utterance."""

    @property
    def score(self) -> float:
        """Score for ranking, in nats."""

    @property
    def context_row(self) -> int:
        """Row of its label context."""


Path = TypeVar("Path", bound=LivePath)


@dataclass(frozen=True)
class Beam(Generic[Path]):
    """The live paths of an utterance within a frame, each list ordered from the best at the last choice."""

    open: list[Path]
    """Paths still in the frame: they have taken a label in every sub-step so far."""
    finished: list[Path]
    """Paths that wait for the next frame: they have taken a blank, or a label in the last sub-step."""


class Continuation(NamedTuple, Generic[Path]):
    """A path and its next label."""

    path: Path
    label: int
    log_prob: float
    """Of the label, in nats; 0 for the blank of a finished path that is kept."""


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Chooses the continuations of a sub-step."""

    adjusted: AdjustedScorer
    """The model."""
    beam: int
    """Number of continuations to keep for each utterance."""

    def choose(
        self, beams: Sequence[Beam[Path]], projected_AJ: Tensor, contexts: Contexts
    ) -> Iterator[Iterator[Continuation[Path]]]:
        """For each beam its continuations after a sub-step, the best first.

        Args:
            beams: one for each utterance, with an open path at least.
            projected_AJ: the current frame of each.
            contexts: label contexts of all paths.
        """
        rows_AK, open_AK, finished_AF = _to_tensors(beams, projected_AJ.device)
        log_probs_AKV = self.adjusted.transducer_log_probs(projected_AJ.unsqueeze(1), contexts.gather(rows_AK))
        vocab_size = log_probs_AKV.shape[-1]
        pool_AP, steps_AP = (log_probs_AKV + open_AK.unsqueeze(-1)).flatten(1), log_probs_AKV.flatten(1)
        num_open = pool_AP.shape[1]
        if finished_AF is not None:
            pool_AP = torch.cat([pool_AP, finished_AF], dim=1)
            steps_AP = functional.pad(steps_AP, (0, finished_AF.shape[1]))
        best_AB = pool_AP.topk(min(self.beam, pool_AP.shape[1])).indices
        steps_AB = steps_AP.gather(1, best_AB)

        def continuations(beam: Beam[Path], places: list[int], steps: list[float]) -> Iterator[Continuation[Path]]:
            for place, step in zip(places, steps, strict=True):
                slot, label = divmod(place, vocab_size)
                if slot < len(beam.open):
                    yield Continuation(beam.open[slot], label, step)
                elif num_open <= place < num_open + len(beam.finished):
                    yield Continuation(beam.finished[place - num_open], self.adjusted.scorer.blank_id, step)
                # else an empty slot of the tensors: all real paths have been taken

        return map(continuations, beams, best_AB.tolist(), steps_AB.tolist())


def _to_tensors(beams: Sequence[Beam[Path]], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Context rows and scores (A, K) of open paths, and scores (A, F) of finished ones if there are any.

    Scores are -inf where there is no path, and else relative to the best of the utterance: so they keep their precision in
    float32 however long the recording is.
    """
    num_slots = max([len(beam.open) for beam in beams])
    num_finished = max([len(beam.finished) for beam in beams])
    rows, open_scores, finished_scores = [], [], []
    for beam in beams:
        opened, finished = beam.open, beam.finished
        top = max([path.score for paths in (opened, finished) for path in paths])
        num_empty = num_slots - len(opened)
        rows.append([path.context_row for path in opened] + [FIRST_ROW] * num_empty)
        open_scores.append([path.score - top for path in opened] + [-math.inf] * num_empty)
        num_empty = num_finished - len(finished)
        finished_scores.append([path.score - top for path in finished] + [-math.inf] * num_empty)
    # By way of numpy, which takes nested lists faster.
    open_AK, finished_AF = (torch.from_numpy(np.array(x, np.float32)).to(device) for x in (open_scores, finished_scores))
    return torch.from_numpy(np.array(rows)).to(device), open_AK, finished_AF if num_finished else None
