"""Contract: the real sherpa-onnx loads exported folders and finds the tokens that our searches find.

Random weights do, since both sides compute the same features to rounding; seeds are such that no two tokens compete closely.
`transcribe_with_sherpa` is also what the quick start's model is tested with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sherpa_onnx

from tests.tiny_model import noise
from zipasr.export import ExportReport
from zipasr.model import AsrModel, resolve_model_folder
from zipasr.onnx_runtime import load
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.transcript import Transcript

SEARCHES = {"greedy": "greedy_search", "beam": "modified_beam_search", "ctc_greedy": ""}


def sherpa_results(folder: Path, recordings: Sequence[np.ndarray], method: str) -> list[Any]:
    """sherpa-onnx's results for recordings at 16 kHz with an exported folder; `method` is one of `SEARCHES`."""
    files = load(folder).scorer.config.files
    tokens = str(folder / "tokens.txt")
    if method == "ctc_greedy":
        recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model=str(folder / str(files.ctc)), tokens=tokens)
    else:
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            encoder=str(folder / str(files.encoder)),
            decoder=str(folder / str(files.decoder)),
            joiner=str(folder / str(files.joiner)),
            tokens=tokens,
            decoding_method=SEARCHES[method],
        )
    results = []
    for samples in recordings:
        stream = recognizer.create_stream()
        stream.accept_waveform(16_000, samples)
        recognizer.decode_stream(stream)
        results.append(stream.result)
    return results


def transcribe_with_sherpa(folder: Path, recordings: Sequence[np.ndarray], method: str) -> list[str]:
    """The texts of `sherpa_results`."""
    return [result.text.strip() for result in sherpa_results(folder, recordings, method)]


def transcribe_as_sherpa(model_dir: Path, recordings: Sequence[np.ndarray], method: str) -> list[str]:
    """The texts that our search finds with PyTorch without padding after a recording, as in sherpa-onnx."""
    return [transcript.text for transcript in transcripts_without_padding(model_dir, recordings, method)]


def transcripts_without_padding(model_dir: Path, recordings: Sequence[np.ndarray], method: str) -> list[Transcript]:
    """The transcripts of `transcribe_as_sherpa`."""
    model, tokenizer = AsrModel.load(resolve_model_folder(model_dir))
    search = SearchConfig(method=method)  # type: ignore[arg-type]
    recognizer = Recognizer(model, tokenizer, search=search, tail_padding_frames=0, use_true_times=False)
    return [recognizer.transcribe(samples) for samples in recordings]


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
