"""A transducer and CTC head small enough to enumerate: frames hold logits, and a table adds scores from the last labels."""

import torch
from torch import Tensor

from tests.golden_files import seeded
from zipasr.nn.encoded import Encoded


class ToyScorer:
    """Logits of a frame and a context are `frame + sum over the context of table[position, label]`, V = D = J."""

    blank_id = 0
    has_transducer = True
    has_ctc = True
    has_attention = False

    def __init__(self, vocab_size: int, context_size: int = 2, seed: int = 0) -> None:
        self.context_size = context_size
        self.table_CVV = seeded(context_size, vocab_size, vocab_size, seed=seed)
        self.num_joins = 0

    def output_length(self, num_frames: int) -> int:
        return num_frames // 4

    def encode(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
    ) -> Encoded:
        return Encoded(features[:, ::4], lens // 4)

    def project_frames(self, frames_NTD: Tensor) -> Tensor:
        return frames_NTD

    def predict(self, contexts_MC: Tensor) -> Tensor:
        known_MCV = self.table_CVV[torch.arange(self.context_size), contexts_MC.clamp(min=0)]
        return (known_MCV * (contexts_MC >= 0).unsqueeze(-1)).sum(1)

    def join(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        self.num_joins += 1
        return frames_MJ + contexts_MJ

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        return frames_NTD.log_softmax(-1)

    def attention_log_probs(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        raise ValueError("this scorer has no attention decoder")


def toy_encoded(lens: list[int], vocab_size: int, *, seed: int, blank_bonus: float = 0.0) -> Encoded:
    """Random frames; those beyond the lengths are random too, and nothing may depend on them."""
    frames = 2.0 * seeded(len(lens), max(lens, default=0), vocab_size, seed=seed)
    frames[..., 0] += blank_bonus
    return Encoded(frames, torch.tensor(lens, dtype=torch.int64))


def label_scores(
    scorer: ToyScorer, frame: Tensor, ids: tuple[int, ...], *, blank_penalty: float = 0.0, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities (V,) of the next label after `ids`, computed directly."""
    context = ([-1] * (scorer.context_size - 1) + [scorer.blank_id, *ids])[-scorer.context_size :]
    logits = frame + scorer.predict(torch.tensor([context]))[0]
    logits[scorer.blank_id] -= blank_penalty
    return (logits / temperature).log_softmax(-1)


class Heads(ToyScorer):
    """The toy scorer with the given heads."""

    def __init__(self, *, has_transducer: bool = True, has_ctc: bool = True, has_attention: bool = False) -> None:
        super().__init__(5)
        self.has_transducer, self.has_ctc, self.has_attention = has_transducer, has_ctc, has_attention  # type: ignore[misc]
