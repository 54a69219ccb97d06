"""Law: every rule of `validate` at its limit."""

from pathlib import Path

import numpy as np
import pytest

from zipasr.errors import ConfigError
from zipasr.prepare.utterance import Reason, Utterance
from zipasr.prepare.validate import Limits, check_id, check_samples, check_silence, check_text


def utterance(text: str = "HELLO WORLD") -> Utterance:
    return Utterance(id="a", audio=Path("a.wav"), text=text)


@pytest.mark.parametrize(
    ("num_samples", "text", "reason"),
    [
        (16_000, "HELLO WORLD", None),
        (0, "HELLO", Reason.EMPTY),
        (1_599, "HELLO", Reason.TOO_SHORT),
        (1_600, "HELLO", None),
        (30 * 16_000, "HELLO", None),
        (30 * 16_000 + 1, "HELLO", Reason.TOO_LONG),
        (16_000, " ".join(["A"] * 23), None),
        (16_000, " ".join(["A"] * 24), Reason.TOO_MANY_TOKENS),
    ],
)
def test_each_rule_at_its_edge(num_samples: int, text: str, reason: Reason | None) -> None:
    rejected = check_samples(utterance(text), num_samples, Limits())
    assert (rejected and rejected.reason) == reason
    assert rejected is None or (rejected.id == "a" and rejected.detail.startswith("expected "))


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_silence_and_what_is_as_good_as_that(offset: float) -> None:
    silence = np.full(16_000, offset, np.float32)
    click, word = silence.copy(), silence.copy()
    click[5_000:5_015] += 0.5
    word[5_000:7_000] += 0.001 * np.sin(np.arange(2_000))
    for samples, found in ((silence, "digital silence"), (click, "digital silence"), (silence + 1e-4 * word, None)):
        rejected = check_silence(utterance(), samples)
        assert rejected is not None
        assert rejected.reason is Reason.SILENT
        assert rejected.detail.startswith("expected speech in 1.00 s, got ")
        assert found is None or found in rejected.detail
    assert check_silence(utterance(), word) is None
    assert check_silence(utterance(), word[4_900:7_100]) is None


def test_a_text_too_long_for_its_audio_is_counted() -> None:
    rejected = check_samples(utterance(" ".join(["A"] * 24)), 16_000, Limits())
    assert rejected is not None
    assert rejected.detail == "expected at most 23 tokens in 1.00 s (25 frames per second), got 24 words"


def test_limits_are_settings() -> None:
    limits = Limits(min_duration_s=1.0, max_duration_s=2.0)
    assert check_samples(utterance(), 15_999, limits).reason is Reason.TOO_SHORT
    assert check_samples(utterance(), 32_001, limits).reason is Reason.TOO_LONG
    assert check_samples(utterance(), 32_000, limits) is None


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (2.0, 2.0), (3.0, 2.0)])
def test_limits_that_nothing_passes_are_refused(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="must be 0 <= min_duration_s < max_duration_s, but are"):
        Limits(min_duration_s=low, max_duration_s=high)


def test_no_text_and_duplicate_id() -> None:
    assert check_text(utterance("  \n ")).reason is Reason.NO_TEXT
    assert check_text(utterance()) is None
    assert check_id(utterance(), {"b"}) is None
    assert check_id(utterance(), {"a"}).reason is Reason.DUPLICATE_ID


def test_a_rejected_utterance_is_plain_json() -> None:
    assert check_text(utterance("")).to_dict() == {
        "id": "a",
        "audio": "a.wav",
        "reason": "no text",
        "detail": "expected a transcript, got an empty text",
    }
