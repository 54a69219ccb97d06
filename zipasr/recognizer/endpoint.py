"""Endpoint detection: whether an utterance of a stream is over, from lengths in seconds. Names and defaults are those of the
ecosystem.

Source: sherpa-onnx, `endpoint.cc`, after Kaldi's `online-endpoint.h`.
"""

import math
from dataclasses import dataclass

from zipasr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EndpointRule:
    """Conditions that together end an utterance."""

    must_contain_nonsilence: bool
    """Whether a token must have been recognized."""
    min_trailing_silence_s: float
    """Silence at the end: time since the last token, or since the start if there is none."""
    min_utterance_length_s: float
    """Length of the utterance, silence included."""

    def __post_init__(self) -> None:
        for name in ("min_trailing_silence_s", "min_utterance_length_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more seconds and finite, but is {getattr(self, name)}")

    def holds(self, *, trailing_silence_s: float, utterance_length_s: float) -> bool:
        """Whether the rule ends an utterance of this length with this much silence at its end."""
        contains_nonsilence = utterance_length_s > trailing_silence_s
        return (
            (contains_nonsilence or not self.must_contain_nonsilence)
            and trailing_silence_s >= self.min_trailing_silence_s
            and utterance_length_s >= self.min_utterance_length_s
        )


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Three rules, each of which ends an utterance."""

    rule1: EndpointRule = EndpointRule(must_contain_nonsilence=False, min_trailing_silence_s=2.4, min_utterance_length_s=0.0)
    """Long silence, with or without speech before it."""
    rule2: EndpointRule = EndpointRule(must_contain_nonsilence=True, min_trailing_silence_s=1.2, min_utterance_length_s=0.0)
    """Shorter silence after speech."""
    rule3: EndpointRule = EndpointRule(
        must_contain_nonsilence=False, min_trailing_silence_s=0.0, min_utterance_length_s=20.0
    )
    """A long utterance, even in the middle of a word."""


def is_endpoint(config: EndpointConfig, *, trailing_silence_s: float, utterance_length_s: float) -> bool:
    """Whether an utterance is over.

    Args:
        trailing_silence_s: time since its last token, or its length if it has none.
        utterance_length_s: time since its start.
    Raises:
        ValueError: not 0 <= trailing_silence_s <= utterance_length_s.
    """
    if not 0 <= trailing_silence_s <= utterance_length_s:
        raise ValueError(
            f"trailing_silence_s must be from 0 to the length of the utterance, {utterance_length_s}, but is "
            f"{trailing_silence_s}"
        )
    return any(
        rule.holds(trailing_silence_s=trailing_silence_s, utterance_length_s=utterance_length_s)
        for rule in (config.rule1, config.rule2, config.rule3)
    )
