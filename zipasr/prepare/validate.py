"""Checks that an utterance must pass before it is used to train or test a model: pure functions that open no audio.

The number of words is a lower bound on the number of tokens, since no tokenizer exists yet; training checks the length
again with the real tokens. Samples are at 16 kHz, encoder frames at 25 Hz.
"""

import math
from dataclasses import dataclass

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.lengths import num_encoder_frames
from zipasr.encoder.rates import ENCODED_RATE_HZ
from zipasr.errors import ConfigError
from zipasr.prepare.tags import has_unwritten_words
from zipasr.prepare.utterance import Reason, Rejected, Utterance, reject

_SILENT_LEVEL = 5e-4
"""-66 dB of full scale, 16 steps of 16-bit audio: more than 50 dB below the peaks of typical speech."""
_LOUD_QUANTILE = 0.999
"""Share of the samples that must be below `_SILENT_LEVEL`. The rest, 30 ms of 30 s, may be clicks; a word is longer."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Allowed durations of an utterance."""

    min_duration_s: float = 0.1
    """Lower bound. The encoder needs 9 features for one frame (`encoder.rates.MIN_FEATURES`), which is 0.085 s of audio."""
    max_duration_s: float = 30.0
    """Upper bound, so that one training batch fits the memory of a small machine. Noise may be longer."""

    def __post_init__(self) -> None:
        """Refuse limits that no utterance could pass."""
        if not 0 <= self.min_duration_s < self.max_duration_s:
            raise ConfigError(
                "limits must be 0 <= min_duration_s < max_duration_s, "
                f"but are {self.min_duration_s} and {self.max_duration_s} instead"
            )


def check_text(utterance: Utterance) -> Rejected | None:
    """Reject an utterance with an empty text; None if the text is good."""
    if utterance.text.strip():
        return None
    return reject(utterance, Reason.NO_TEXT, "expected a transcript, got an empty text")


def check_unwritten_words(utterance: Utterance) -> Rejected | None:
    """Reject an utterance with a tag that stands for words; None if all words are written."""
    if not has_unwritten_words(utterance.text):
        return None
    detail = f"expected all words, got a tag for words that are not written: {utterance.text!r}"
    return reject(utterance, Reason.TEXT_MISMATCH, detail)


def check_samples(utterance: Utterance, num_samples: int, limits: Limits) -> Rejected | None:
    """Reject an utterance whose length, in samples at 16 kHz, is out of the limits or too short for its text."""
    duration_s = num_samples / SAMPLE_RATE_HZ
    if num_samples == 0:
        return reject(utterance, Reason.EMPTY, "expected audio, got a recording without samples")
    if duration_s < limits.min_duration_s:
        detail = f"expected at least {limits.min_duration_s:g} s, got {duration_s:.3f} s"
        return reject(utterance, Reason.TOO_SHORT, detail)
    if duration_s > limits.max_duration_s:
        cure = "put texts with times beside it (.srt, .vtt, .TextGrid)"
        if utterance.unused_times:
            timed, used = utterance.unused_times
            cure = f"{timed} has times but is not used, because {used} is there: remove {used}"
        detail = (
            f"expected at most {limits.max_duration_s:g} s, got {duration_s:.2f} s; {cure}, or cut it by its text with "
            "--align-with MODEL"
        )
        return reject(utterance, Reason.TOO_LONG, detail)
    num_words, num_frames = len(utterance.text.split()), num_encoder_frames(num_samples)
    if num_words > num_frames:
        detail = (
            f"expected at most {num_frames} tokens in {duration_s:.2f} s ({ENCODED_RATE_HZ} frames per second), "
            f"got {num_words} words"
        )
        return reject(utterance, Reason.TOO_MANY_TOKENS, detail)
    return None


def check_silence(utterance: Utterance, samples: np.ndarray) -> Rejected | None:
    """Reject an utterance (samples,) of silence, also with dither or clicks; None if it has other audio."""
    level = float(np.quantile(np.abs(samples - np.median(samples)), _LOUD_QUANTILE))
    if level >= _SILENT_LEVEL:
        return None
    shown = f"nothing above {20 * math.log10(level):.0f} dB of full scale" if level > 0 else "digital silence"
    return reject(utterance, Reason.SILENT, f"expected speech in {len(samples) / SAMPLE_RATE_HZ:.2f} s, got {shown}")


def check_id(utterance: Utterance, seen: set[str]) -> Rejected | None:
    """Reject an utterance whose id is in `seen`; None if it is new."""
    if utterance.id not in seen:
        return None
    detail = f"expected every id once, got {utterance.id!r} again; without ids, they are made of the names of the files"
    return reject(utterance, Reason.DUPLICATE_ID, detail)
