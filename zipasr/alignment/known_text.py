"""The times of the tokens of a known text: features (T, F) at 100 Hz and the text -> ids with their spans.

The CTC head scores every frame at 25 Hz, the best path through the text is found, and the edges of the words are searched
for in the energy of the features (`word_times.py`). A recording longer than 30 s is encoded in windows. The path runs
through all of it, so a text may be as long as its recording.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zipasr.alignment.ctc import ctc_align
from zipasr.alignment.word_times import TokenSpan, energy_db, token_spans
from zipasr.encoder.rates import FEATURES_PER_FRAME_25HZ
from zipasr.errors import ConfigError, DataError
from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.scorer import Scorer
from zipasr.text import normalize
from zipasr.tokenizer import Tokenizer

_WINDOW_FRAMES_25HZ = 750
"""30 s, the longest utterances that models are usually trained on; the cost of attention grows with the square."""
_MARGIN_FRAMES_25HZ = 50
"""2 s at both ends of a window are taken from its neighbors, which see more context there."""


def align_features(
    features: Tensor,
    text: str,
    *,
    scorer: Scorer,
    tokenizer: Tokenizer,
    encode: Callable[[Tensor], Encoded],
    duration_s: float,
) -> tuple[Hypothesis, list[TokenSpan]]:
    """Find when the words of a text are said.

    Args:
        features: (T, F) at 100 Hz, of a recording of any length.
        text: every word of the recording in order; see `recognizer.align_text`.
        scorer: has a CTC head.
        tokenizer: the one of the scorer's model.
        encode: encodes a window (t, F) of features to frames (1, t', D) at 25 Hz, with the padding that the model needs.
        duration_s: length of the recording, for messages.
    Returns:
        The tokens of the text, and the span of each, from edge to edge of its word. The log-probability of a token is its
        mean over the frames it was aligned with, so a word that was not said has a low confidence; `score` is that of the
        whole path.
    Raises:
        DataError: the text is empty, has characters that the model does not know, or is too long for the recording.
        ConfigError: the model has no CTC head.
    """
    if not scorer.has_ctc:
        raise ConfigError("aligning needs a CTC head, but this model has none; use a model that was trained with one")
    ids = _encoded_text(tokenizer, text)
    try:
        log_probs_TV = _frame_log_probs(features, scorer, encode, vocab_size=tokenizer.vocab_size)
        alignment = ctc_align(log_probs_TV, ids, blank_id=tokenizer.blank_id)
    except ValueError as error:
        raise DataError(
            f"the text must be said in these {duration_s:.2f} s, but does not fit: {error}; "
            "is it the text of another recording?"
        ) from error
    hypothesis = Hypothesis(tuple(ids), alignment.first_frames, alignment.log_probs, alignment.score)
    return hypothesis, token_spans(ids, alignment, energy_db(features), tokenizer=tokenizer)


def _encoded_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of the text as it stands, or else in upper or lower case."""
    if not normalize(text).split():
        raise DataError("the text must be the words that are said, but is empty; give them")
    tokenizer.require_encoding("the text to align")
    spelling = tokenizer.spelling(text)
    unknown = tokenizer.unknown_characters(spelling)
    if unknown:
        raise DataError(
            f"the text must have characters that the model knows, but has {' '.join(sorted(unknown))}; "
            "leave them out or write them as they are spoken"
        )
    return tokenizer.encode(spelling)


def _frame_log_probs(
    features: Tensor, scorer: Scorer, encode: Callable[[Tensor], Encoded], *, vocab_size: int
) -> np.ndarray:
    """Log-probabilities (T', V) of the CTC head for features (T, F), computed in overlapping windows if they are many."""
    num_frames, hop_frames = len(features), _WINDOW_FRAMES_25HZ - 2 * _MARGIN_FRAMES_25HZ
    pieces = [np.zeros((0, vocab_size), np.float32)]
    first_frame, is_last = 0, False
    while not is_last:
        start = first_frame * FEATURES_PER_FRAME_25HZ
        window = features[start : start + _WINDOW_FRAMES_25HZ * FEATURES_PER_FRAME_25HZ]
        is_last = start + len(window) == num_frames
        if not scorer.output_length(len(window)):
            break
        encoded = encode(window)
        with torch.inference_mode():
            log_probs_TV = scorer.ctc_log_probs(encoded.frames[:, : int(encoded.lens[0])])[0].float().cpu().numpy()
        num_dropped = _MARGIN_FRAMES_25HZ if first_frame else 0
        pieces.append(
            log_probs_TV[num_dropped:] if is_last else log_probs_TV[num_dropped : hop_frames + _MARGIN_FRAMES_25HZ]
        )
        first_frame += hop_frames
    return np.concatenate(pieces)
