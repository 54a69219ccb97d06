"""The rules an utterance must pass before it may train or test a model: pure functions, no audio is opened here.

`prepare` applies them with the number of words as a lower bound of the tokens, since no tokenizer exists yet; the
trainer applies `has_enough_frames` again with the real tokens. Samples are at 16 kHz, encoder frames at 25 Hz.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.utterance import Reason, Rejected, Utterance
from zipasr.encoder.rates import ENCODED_RATE_HZ, output_length
from zipasr.errors import ConfigError
from zipasr.features import Fbank

_SILENT_LEVEL = 5e-4
"""-66 dB of full scale, 16 steps of 16 bits: more than 50 dB below the peaks of usual speech."""
_LOUD_QUANTILE = 0.999
"""Share of the samples that must be below it. The rest, 30 ms of 30 s, may be clicks; a word is longer."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long an utterance may be."""

    min_duration_s: float = 0.1
    """Lower bound. The encoder needs 9 features for one frame (`encoder.rates.MIN_FEATURES`), which is 0.085 s of audio."""
    max_duration_s: float = 30.0
    """Longer ones exceed what one training batch on a small machine should hold."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing or everything would pass."""
        if not 0 <= self.min_duration_s < self.max_duration_s:
            raise ConfigError(
                "limits must be 0 <= min_duration_s < max_duration_s, "
                f"but are {self.min_duration_s} and {self.max_duration_s} instead"
            )


def num_encoder_frames(num_samples: int) -> int:
    """Give the frames at 25 Hz that fbank, Conv-Embed and the last halving make of `num_samples` at 16 kHz."""
    return output_length(Fbank().num_frames(num_samples))


def has_enough_frames(num_samples: int, num_tokens: int) -> bool:
    """Tell whether the encoder gives at least one frame at 25 Hz per token."""
    return num_encoder_frames(num_samples) >= num_tokens


def frames_needed(tokens: Sequence[int], *, has_ctc: bool) -> int:
    """Give the least encoder frames that can spell `tokens`: one each, and for CTC a blank between two that are the same."""
    return len(tokens) + (sum(a == b for a, b in pairwise(tokens)) if has_ctc else 0)


def reject(utterance: Utterance, reason: Reason, detail: str) -> Rejected:
    """Write down that `utterance` is dropped for `reason`."""
    return Rejected(id=utterance.id, audio=str(utterance.audio), reason=reason, detail=detail)


def check_text(utterance: Utterance) -> Rejected | None:
    """Reject an utterance in which nothing is said."""
    if utterance.text.strip():
        return None
    return reject(utterance, Reason.NO_TEXT, "expected a transcript, got an empty text")


def check_samples(
    utterance: Utterance,
    num_samples: int,
    *,
    num_tokens: int | None = None,
    limits: Limits | None = None,
) -> Rejected | None:
    """Apply every rule that needs the length of the sound.

    Args:
        num_samples: length of the utterance at 16 kHz.
        num_tokens: labels of the text; None takes the number of its words, which no tokenizer goes below.
        limits: None means the defaults.
    Returns:
        What to list, or None if the utterance is good.
    """
    limits = limits or Limits()
    duration_s = num_samples / SAMPLE_RATE_HZ
    if num_samples == 0:
        return reject(utterance, Reason.EMPTY, "expected sound, got a recording without samples")
    if duration_s < limits.min_duration_s:
        detail = f"expected at least {limits.min_duration_s:g} s, got {duration_s:.3f} s"
        return reject(utterance, Reason.TOO_SHORT, detail)
    if duration_s > limits.max_duration_s:
        detail = f"expected at most {limits.max_duration_s:g} s, got {duration_s:.2f} s"
        return reject(utterance, Reason.TOO_LONG, detail)
    unit = "words" if num_tokens is None else "tokens"
    num_tokens = len(utterance.text.split()) if num_tokens is None else num_tokens
    if not has_enough_frames(num_samples, num_tokens):
        num_frames = num_encoder_frames(num_samples)
        expected = f"at most {num_frames} tokens in {duration_s:.2f} s ({ENCODED_RATE_HZ} frames a second)"
        detail = f"expected {expected}, got {num_tokens} {unit}"
        return reject(utterance, Reason.TOO_MANY_TOKENS, detail)
    return None


def check_sound(utterance: Utterance, samples: np.ndarray) -> Rejected | None:
    """Reject digital silence and what is as good as that, such as its dither, clicks included.

    Args:
        samples: (samples,) of the utterance.
    """
    level = float(np.quantile(np.abs(samples - np.median(samples)), _LOUD_QUANTILE))
    if level >= _SILENT_LEVEL:
        return None
    shown = f"nothing above {20 * math.log10(level):.0f} dB of full scale" if level > 0 else "digital silence"
    return reject(utterance, Reason.SILENT, f"expected speech in {len(samples) / SAMPLE_RATE_HZ:.2f} s, got {shown}")


def check_id(utterance: Utterance, seen: set[str]) -> Rejected | None:
    """Reject an utterance whose id is among the `seen` ones."""
    if utterance.id not in seen:
        return None
    return reject(utterance, Reason.DUPLICATE_ID, f"expected every id once, got {utterance.id!r} again")
