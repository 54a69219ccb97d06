"""Whether an utterance is long enough for its text: audio samples at 16 kHz and tokens in, encoder frames at 25 Hz out."""

from collections.abc import Sequence
from itertools import pairwise

from zipasr.encoder.rates import output_length
from zipasr.features import Fbank


def num_encoder_frames(num_samples: int) -> int:
    """Number of frames at 25 Hz that fbank, Conv-Embed and the final halving make of `num_samples` at 16 kHz."""
    return output_length(Fbank().num_frames(num_samples))


def frames_needed(tokens: Sequence[int], *, has_ctc: bool) -> int:
    """Fewest encoder frames that can emit `tokens`: one per token, and for CTC a blank between repeated tokens."""
    return len(tokens) + (sum(a == b for a, b in pairwise(tokens)) if has_ctc else 0)
