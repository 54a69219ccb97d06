"""`Scorer`: the interface of a model to the searches. `AsrModel` and `OnnxModel` implement it.

Frames are at 25 Hz; J is the width of the joiner, V of the vocabulary, M any number of rows, K label sequences.
"""

from typing import Protocol

import torch
from torch import Tensor

from zipasr.nn.encoded import Encoded


class Scorer(Protocol):
    """Scores of the next label. J is the joiner width, V the vocabulary; frames are at 25 Hz."""

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


def label_log_probs(logits: Tensor, *, blank_id: int, blank_penalty: float = 0.0, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (..., V), float32, of logits (..., V) minus the penalty for blank, divided by the temperature.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but is {temperature}")
    logits = logits.float()
    if blank_penalty:
        penalty_V = torch.zeros(logits.shape[-1], device=logits.device)
        penalty_V[blank_id] = blank_penalty
        logits = logits - penalty_V
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def ctc_label_log_probs(
    scorer: Scorer, frames_NTD: Tensor, *, blank_penalty: float = 0.0, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities (N, T, V) of the CTC head, normalized again after the penalty for blank and the temperature.

    Raises:
        ValueError: the temperature is not positive, or there is no CTC head.
    """
    log_probs_NTV = scorer.ctc_log_probs(frames_NTD)
    if not blank_penalty and temperature == 1.0:
        return log_probs_NTV
    return label_log_probs(log_probs_NTV, blank_id=scorer.blank_id, blank_penalty=blank_penalty, temperature=temperature)


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
