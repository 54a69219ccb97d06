"""`Scorer`: the interface of a model to the searches. `AsrModel` and `OnnxModel` implement it.

Frames are at 25 Hz; J is the width of the joiner, V of the vocabulary, M any number of rows, K label sequences.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zipasr.nn.encoded import Encoded


class Scorer(Protocol):
    """Scores of the next label."""

    @property
    def blank_id(self) -> int:
        """Id of the blank."""

    @property
    def context_size(self) -> int:
        """Labels that the predictor sees; 0 without a transducer head."""

    @property
    def has_transducer(self) -> bool:
        """Whether `project_frames`, `predict` and `join` work."""

    @property
    def has_ctc(self) -> bool:
        """Whether `ctc_log_probs` works."""

    @property
    def has_attention(self) -> bool:
        """Whether `attention_log_probs` works."""

    def output_length(self, num_frames: int) -> int:
        """Frames at 25 Hz that `encode` makes of `num_frames` features at 100 Hz; 0 if there are too few."""

    def encode(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
    ) -> Encoded:
        """Frames (N, T', D) at 25 Hz of features (N, T, F) at 100 Hz."""

    def project_frames(self, frames_NTD: Tensor) -> Tensor:
        """Frames projected for the joiner, (N, T, J)."""

    def predict(self, contexts_MC: Tensor) -> Tensor:
        """Projected contexts (M, J) of the last `context_size` ids (M, C); -1 stands for nothing."""

    def join(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        """Logits (..., V) of projected frames and contexts that broadcast against each other."""

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        """Log-probabilities (N, T, V) of the CTC head."""

    def attention_log_probs(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        """Log-probabilities (N, K, S + 1) of each label, then of the end, in K sequences an utterance; 0 for padding."""


@dataclass(frozen=True)
class AdjustedScorer:
    """The label probabilities of a model after a penalty for blank and a temperature; both methods raise ValueError if that
    is not positive."""

    scorer: Scorer
    blank_penalty: float = 0.0
    """Subtracted from the score of blank."""
    temperature: float = 1.0
    """Divides the scores."""

    def transducer_log_probs(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        """Log-probabilities (..., V), float32, of projected frames and contexts; see `Scorer.join`."""
        return self._normalized(self.scorer.join(frames_MJ, contexts_MJ))

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        """Log-probabilities (N, T, V) of the CTC head, normalized again."""
        log_probs_NTV = self.scorer.ctc_log_probs(frames_NTD)
        return self._normalized(log_probs_NTV) if self.blank_penalty or self.temperature != 1.0 else log_probs_NTV

    def _normalized(self, scores: Tensor) -> Tensor:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, but is {self.temperature}")
        scores = scores.float()
        if self.blank_penalty:
            penalty_V = torch.zeros(scores.shape[-1], device=scores.device)
            penalty_V[self.scorer.blank_id] = self.blank_penalty
            scores = scores - penalty_V
        return (scores if self.temperature == 1.0 else scores / self.temperature).log_softmax(-1)


def check_encoded(encoded: Encoded) -> list[int]:
    """The lengths of a batch as a list.

    Raises:
        ValueError: they do not fit the frames.
    """
    num_utterances, num_frames = encoded.frames.shape[:2]
    lens = [int(n) for n in encoded.lens.tolist()]
    if len(lens) != num_utterances or any(not 0 <= n <= num_frames for n in lens):
        raise ValueError(
            f"encoded.lens must be {num_utterances} lengths from 0 to {num_frames}, the frames' axes, but is {lens}"
        )
    return lens
