"""Endpoint rules. Reference: the published defaults, at and just below their limits. Contract: refusals."""

import dataclasses

import pytest

from zipasr.errors import ConfigError
from zipasr.recognizer.endpoint import EndpointConfig, EndpointRule, is_endpoint


@pytest.mark.parametrize(
    ("trailing_silence_s", "utterance_length_s", "expected"),
    [
        (0.0, 0.0, False),
        (2.36, 2.36, False),
        (2.4, 2.4, True),  # rule 1: nothing was said
        (1.2, 1.2, False),  # rule 2 needs speech before the silence
        (1.16, 5.0, False),
        (1.2, 1.24, True),  # rule 2
        (0.0, 19.96, False),
        (0.0, 20.0, True),  # rule 3: in the middle of a word
    ],
)
def test_published_rules(trailing_silence_s: float, utterance_length_s: float, expected: bool) -> None:
    config = EndpointConfig()
    found = is_endpoint(config, trailing_silence_s=trailing_silence_s, utterance_length_s=utterance_length_s)
    assert found is expected


def test_rules_of_ones_own() -> None:
    quick = EndpointRule(must_contain_nonsilence=True, min_trailing_silence_s=0.4, min_utterance_length_s=2.0)
    config = dataclasses.replace(EndpointConfig(), rule2=quick)
    assert is_endpoint(config, trailing_silence_s=0.4, utterance_length_s=2.0)
    assert not is_endpoint(config, trailing_silence_s=0.4, utterance_length_s=1.96)
    assert is_endpoint(config, trailing_silence_s=2.4, utterance_length_s=2.4)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_wrong_settings(value: float) -> None:
    with pytest.raises(ConfigError, match="min_trailing_silence_s must be 0 or more"):
        EndpointRule(must_contain_nonsilence=True, min_trailing_silence_s=value, min_utterance_length_s=0.0)
    with pytest.raises(ConfigError, match="min_utterance_length_s must be 0 or more"):
        EndpointRule(must_contain_nonsilence=True, min_trailing_silence_s=0.0, min_utterance_length_s=value)


@pytest.mark.parametrize(("trailing_silence_s", "utterance_length_s"), [(-0.04, 1.0), (1.04, 1.0), (float("nan"), 1.0)])
def test_silence_that_cannot_be(trailing_silence_s: float, utterance_length_s: float) -> None:
    with pytest.raises(ValueError, match="trailing_silence_s must be from 0"):
        is_endpoint(EndpointConfig(), trailing_silence_s=trailing_silence_s, utterance_length_s=utterance_length_s)
