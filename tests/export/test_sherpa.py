"""Contract: the real sherpa-onnx loads exported folders and finds the tokens that our searches find.

Random weights suffice, since both sides compute the same features up to rounding; with these seeds no two tokens compete
closely. tests/test_trained.py makes the same comparison with the model of the quick start.
"""

from pathlib import Path

import pytest

from tests.export.sherpa import SEARCHES, sherpa_results, transcripts_without_padding
from tests.tiny_model import noise
from zipasr.export import ExportReport


@pytest.mark.parametrize("method", SEARCHES)
def test_sherpa_finds_what_we_find(method: str, model_dir: Path, report: ExportReport) -> None:
    recordings = [noise(duration_s, seed) for seed, duration_s in enumerate((2.0, 1.1, 3.3))]
    transcripts = transcripts_without_padding(model_dir, recordings, method)
    num_tokens = 0
    for expected, result in zip(transcripts, sherpa_results(report.folder, recordings, method), strict=True):
        # our transcripts have no <sos/eos>; in sherpa-onnx only the CTC search emits <unk>
        found = [token for token in result.tokens if token not in ("<sos/eos>", "<unk>")]
        assert found == [token.text.replace("\u2581", " ") for token in expected.tokens if token.text != "<unk>"]
        num_tokens += len(expected.tokens)
    assert num_tokens > 5
