"""Contract: the real sherpa-onnx's keyword spotter, with an exported folder and its keywords.txt, reports the events that
ours reports, with the times of their tokens."""

from pathlib import Path

import numpy as np
import pytest
import sherpa_onnx
import torch

from tests.export.models import causal_model
from tests.export.sherpa import graph_files
from tests.recognizer.causal_models import RECORDINGS
from tests.tiny_model import tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.export import ExportReport, export_model
from zipasr.onnx_runtime import load
from zipasr.recognizer import Recognizer, SpotterConfig
from zipasr.search.keywords import read_keywords

KEYWORDS = ("▁DO @ONCE", "▁DO ▁DO ▁DO @THRICE", "▁TH ▁DO @OTHER", "QUICK FOX")
"""Keywords, of which the model below emits the first."""
Event = tuple[str, tuple[float, ...]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streaming graphs with keywords whose thresholds some of the events exceed."""
    model = causal_model()
    assert model.transducer is not None
    with torch.no_grad():  # sure of its tokens, so that there is one path; blanks follow some, as they must follow keywords
        model.transducer.joiner.output.weight.mul_(10.0)
        model.transducer.joiner.output.bias[model.blank_id] += 100.0
    model_dir = model.save(tmp_path_factory.mktemp("models") / "model", tiny_tokenizer())
    keywords = [f"{keyword} #0.4" for keyword in KEYWORDS]
    report: ExportReport = export_model(
        model_dir, model_dir.with_name("exported"), chunk_ms=320, left_context_ms=1280, keywords=keywords
    )
    return report.folder


def sherpa_events(folder: Path, samples: np.ndarray) -> list[Event]:
    """The events of sherpa-onnx, without a reset after each, which would clear the encoder's state too."""
    files = graph_files(folder)
    spotter = sherpa_onnx.KeywordSpotter(
        tokens=str(folder / "tokens.txt"),
        encoder=str(folder / str(files.encoder)),
        decoder=str(folder / str(files.decoder)),
        joiner=str(folder / str(files.joiner)),
        keywords_file=str(folder / "keywords.txt"),
        num_threads=1,
    )
    stream, found = spotter.create_stream(), []
    stream.accept_waveform(16_000, samples)
    stream.input_finished()
    while spotter.is_ready(stream):
        spotter.decode_stream(stream)
        result = spotter.keyword_spotter.get_result(stream)
        event = (result.keyword, tuple(round(time_s, 2) for time_s in result.timestamps))
        if result.keyword and found[-1:] != [event]:
            found.append(event)
    return found


def test_the_same_events_in_sherpa(folder: Path) -> None:
    config = SpotterConfig(refractory_s=0.0, max_symbols_per_frame=1)
    spotter = Recognizer.load(folder).spotter(read_keywords(folder / "keywords.txt"), config=config)
    num_events = 0
    for recording in RECORDINGS:
        samples = np.concatenate([recording, np.zeros(16_000, np.float32)])
        stream = spotter.stream()
        stream.accept_waveform(samples)
        stream.decode()
        ours = [(event.keyword, event.times_s) for event in stream.events()]
        # sherpa-onnx shows one event a chunk, the last; with these chunks there are never two
        assert sherpa_events(folder, samples) == ours
        num_events += len(ours)
    assert num_events >= 5


def test_the_folder_holds_keywords_and_says_how_to_use_them(folder: Path) -> None:
    tokens = [tiny_tokenizer().pieces[i] for i in tiny_tokenizer().encode("QUICK FOX")]
    lines = (folder / "keywords.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "▁DO :1 #0.4 @ONCE",
        "▁DO ▁DO ▁DO :1 #0.4 @THRICE",
        "▁TH ▁DO :1 #0.4 @OTHER",
        f"{' '.join(tokens)} :1 #0.4 @QUICK_FOX",
    ]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "--keywords-file=keywords.txt" in readme and "- `keywords.txt`" in readme
    assert load(folder).tokenizer.pieces == tiny_tokenizer().pieces  # the checksums cover the new file


def test_graphs_that_cannot_spot_are_refused(model_dir: Path, causal_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keywords need streaming graphs"):
        export_model(model_dir, tmp_path / "out", keywords=["QUICK FOX"])
    with pytest.raises(ConfigError, match="must be writable in the model's vocabulary"):
        export_model(causal_dir, tmp_path / "out", chunk_ms=320, left_context_ms=1280, keywords=["DÉJÀ VU"])
    assert not (tmp_path / "out").exists()
