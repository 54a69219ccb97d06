"""A check that two lists of hypotheses agree."""

import pytest

from zipasr.search.hypothesis import Hypothesis


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    """Check that tokens and frames are equal, and scores equal up to rounding."""
    assert [(h.ids, h.frames) for h in found] == [(h.ids, h.frames) for h in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)
        assert a.score == pytest.approx(b.score, abs=1e-4)
