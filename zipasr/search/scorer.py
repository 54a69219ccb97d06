"""What a search needs of a model: `Scorer`. `AsrModel` is one; exported graphs will be another."""

from typing import Protocol

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
        """Frames as the joiner takes them, (N, T, J)."""

    def predict(self, contexts_MC: Tensor) -> Tensor:
        """Projected contexts (M, J) of the last `context_size` ids (M, C); -1 stands for nothing."""

    def join(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        """Logits (..., V) of projected frames and contexts that broadcast against each other."""

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        """Log-probabilities (N, T, V) of the CTC head."""
