"""Contract: the real sherpa-onnx's keyword spotter, with an exported folder and its keywords.txt, reports the events that
ours reports, with the times of their tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.models import causal_model
from tests.export.sherpa import sherpa_events, sherpa_spotter
from tests.recognizer.causal_models import RECORDINGS
from tests.tiny_model import noise, tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.export import ExportReport, Measured, export_int8, export_model
from zipasr.onnx_runtime import load
from zipasr.recognizer import Recognizer, SpotterConfig
from zipasr.search.keywords import read_keywords

KEYWORDS = ("▁TH L L L @LONG", "▁TH L L @SHORT", "QUICK FOX")
"""Keywords, of which the model below emits the first two."""
PATHS = 2
"""With more of them, the paths of a random model are as good as each other, and sherpa-onnx judges the best alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streaming graphs with keywords whose thresholds some of the events exceed."""
    model = causal_model()
    assert model.transducer is not None
    with torch.no_grad():  # blanks follow some of its tokens, as they must follow keywords
        model.transducer.joiner.output.bias[model.blank_id] += 9.0
    model_dir = model.save(tmp_path_factory.mktemp("models") / "model", tiny_tokenizer())
    keywords = [f"{keyword} #0.3" for keyword in KEYWORDS]
    report: ExportReport = export_model(
        model_dir, model_dir.with_name("exported"), chunk_ms=320, left_context_ms=1280, keywords=keywords
    )
    return report.folder


def test_the_same_events_in_sherpa(folder: Path) -> None:
    config = SpotterConfig(beam=PATHS, refractory_s=0.0, max_symbols_per_frame=1)
    spotter = Recognizer.load(folder).spotter(read_keywords(folder / "keywords.txt"), config=config)
    theirs, num_events = sherpa_spotter(folder, max_active_paths=PATHS), 0
    for recording in RECORDINGS:
        samples = np.concatenate([recording, np.zeros(16_000, np.float32)])
        stream = spotter.stream()
        stream.accept_waveform(samples)
        stream.decode()
        ours = [(event.keyword, event.times_s) for event in stream.events()]
        # sherpa-onnx shows one event a chunk, the last; with these chunks there are never two
        assert sherpa_events(theirs, samples) == ours
        num_events += len(ours)
    assert num_events > 8


def test_the_folder_holds_keywords_and_says_how_to_use_them(folder: Path) -> None:
    tokens = [tiny_tokenizer().pieces[i] for i in tiny_tokenizer().encode("QUICK FOX")]
    lines = (folder / "keywords.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "▁TH L L L :1 #0.3 @LONG",
        "▁TH L L :1 #0.3 @SHORT",
        f"{' '.join(tokens)} :1 #0.3 @QUICK_FOX",
    ]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "--keywords-file=keywords.txt" in readme and "- `keywords.txt`" in readme
    assert load(folder).tokenizer.pieces == tiny_tokenizer().pieces  # the checksums cover the new file


def test_graphs_that_cannot_spot_are_refused(model_dir: Path, causal_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keywords need streaming graphs"):
        export_model(model_dir, tmp_path / "out", keywords=["QUICK FOX"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [(["DÉJÀ VU"], "must be writable in the model's vocabulary"), (["QUICK FOX", "QUICK FOX @FOX"], "must differ")],
)
def test_keywords_are_checked_before_the_work(
    keywords: list[str], message: str, causal_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zipasr.export.onnx.make_graphs", None)  # tracing takes minutes, and measuring longer
    monkeypatch.setattr("zipasr.export.quantize.make_graphs", None)
    chunks = {"chunk_ms": 320, "left_context_ms": 1280}
    with pytest.raises(ConfigError, match=message):
        export_model(causal_dir, tmp_path / "out", keywords=keywords, **chunks)
    with pytest.raises(ConfigError, match=message):
        export_int8(
            causal_dir,
            tmp_path / "out",
            recordings=[noise(1.0)],
            measure=lambda recognizer: Measured(0.0, 0.0),
            keywords=keywords,
            **chunks,
        )
    assert not (tmp_path / "out").exists()
