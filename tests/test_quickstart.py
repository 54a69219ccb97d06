"""Run: the quick start as in the README (`.ci/run` trains it half as long). This takes minutes; its output goes straight to
the log."""

import json
import re

import pytest

from tests.quickstart import DATA, RUN, run_quickstart


@pytest.mark.slow(minutes=0)  # `run_quickstart` says how many
@pytest.mark.network
def test_quickstart(request: pytest.FixtureRequest) -> None:
    lines = run_quickstart(request.config)
    result = re.fullmatch(r"test WER: (\d+\.\d) %", lines[-1])
    assert result is not None, lines[-1]
    assert float(result.group(1)) <= 50.0  # a lower bound; the README states the results

    import zipasr

    said = next(line for line in lines if line.startswith("understood: "))
    recording = DATA / "audio" / "cannot-complete-as-dialed.flac"
    assert said == f"understood: {zipasr.load(RUN).transcribe(recording).text}".rstrip()
    assert (RUN / "curves.png").read_bytes().startswith(b"\x89PNG")
    results = [json.loads(line) for line in (RUN / "test_results.jsonl").read_text().splitlines()]
    assert len(results) == 40
