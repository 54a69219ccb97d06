"""The search that a run chooses. Run: it is close to the best even for a model that emits bursts. Contract: what uses it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.train.tones import (
    RATE_HZ,
    cut_of,
    minute_config,
    say,
    with_attention,
    without_heads,
    write_cuts,
    write_tones,
)
from zipasr.config import set_fields
from zipasr.errors import ConfigError
from zipasr.evaluate import compare_searches, default_grid, evaluate, read_cuts
from zipasr.lm import NGRAM_FILE, TokenNgram
from zipasr.model import AsrModel
from zipasr.recognizer import Recognizer
from zipasr.search.default_search import SEARCH_FILE, read_default_search
from zipasr.search.rescoring import SCALES
from zipasr.search.strategy import SearchConfig
from zipasr.train.checkpoint_average import average_checkpoints, run_checkpoints
from zipasr.train.config import TrainConfig
from zipasr.train.loop import TrainReport, train
from zipasr.train.metrics import read_metrics

ORDERS = ("DOUBLE COFFEE PLEASE", "SMALL CARAMEL COFFEE", "CARAMEL COFFEE PLEASE", "SMALL DOUBLE COFFEE")
SOUNDS = {"CARAMEL": (300, 500), "COFFEE": (900, 700), "PLEASE": (2000, 2600), "DOUBLE": (400, 3000), "SMALL": (3000, 600)}


def write_orders(folder: Path) -> Path:
    """Four sentences, repeated: about 17 characters per second, for 25 frames."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for split, number in (("train", 60), ("dev", 24)):
        cuts = []
        for i in range(number):
            text = ORDERS[int(generator.integers(len(ORDERS)))]
            path = folder / f"{split}{i:03d}.flac"
            soundfile.write(path, say(text.split(), generator, SOUNDS), RATE_HZ)
            cuts.append(cut_of(path, text))
        write_cuts(folder / f"{split}_cuts.jsonl.gz", cuts)
    return folder


def bursty_config(data: Path) -> TrainConfig:
    config = minute_config(
        data, num_epochs=22, lr=0.06, ctc_loss_scale=0.2, save_interval=20, valid_interval=1000, average_share=0.15
    )
    batch = dataclasses.replace(config.batch, max_duration_s=6.0, spec_augment=None)
    assert config.model.transducer is not None
    transducer = dataclasses.replace(config.model.transducer, lattice="regular")
    return dataclasses.replace(config, batch=batch, model=dataclasses.replace(config.model, transducer=transducer))


@pytest.mark.slow(minutes=3)
def test_default_of_a_bursty_model_is_within_a_tenth_of_its_best_search(tmp_path: Path) -> None:
    data = write_orders(tmp_path / "data")
    report = train(bursty_config(data), tmp_path / "run", is_quiet=True)
    assert report.validation is not None
    assert report.validation.metrics["burst_share"] > 0.3
    recognizer = Recognizer.load(tmp_path / "run")
    by_search = {
        str(result.search): result.errors.words
        for result in compare_searches(recognizer, read_cuts(data / "dev_cuts.jsonl.gz"))
    }
    best = min(errors.total for errors in by_search.values())
    worst_transducer = by_search["greedy"].total
    assert worst_transducer > 1.1 * best + 5, "the model emits no bursts, so there is nothing to choose"
    assert evaluate(recognizer, read_cuts(data / "dev_cuts.jsonl.gz")).words.total <= 1.1 * best
    assert by_search[str(recognizer.search)].total <= 1.1 * best
    assert any("lattice=modified" in finding for finding in report.findings)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    folder = tmp_path_factory.mktemp("run")
    data = write_tones(folder / "data", num_train=24, num_dev=6)
    config = minute_config(data, num_epochs=6, save_interval=4, valid_interval=4, average_period=1)
    return train(dataclasses.replace(config, ngram_order=3), folder / "run", is_quiet=True)


def test_chosen_search_lies_beside_every_model(report: TrainReport) -> None:
    assert report.validation is not None
    best = report.validation.best
    found = read_default_search(report.folder / "model")
    assert found is not None
    assert (found.search, found.chosen_on) == (best.search, "dev (6 utterances)")
    assert {entry["wer"] for entry in found.compared} == {round(r.wer, 4) for r in report.validation.searches}
    assert min(entry["wer"] for entry in found.compared) == pytest.approx(best.wer, abs=1e-4)
    kept = list((report.folder / "best").iterdir())
    assert kept and all(read_default_search(folder) is not None for folder in kept)
    assert not list(report.folder.glob(f"checkpoints/*/{SEARCH_FILE}"))


def test_ngram_of_the_texts_is_tried_and_kept(report: TrainReport, tmp_path: Path) -> None:
    assert report.validation is not None
    tried = {str(result.search) for result in report.validation.searches}
    assert {"beam, ngram_scale 0.5", "ctc_beam, ngram_scale 0.5", "joint, ngram_scale 0.5"} <= tried
    for folder in (report.folder / "model", *(report.folder / "best").iterdir()):
        assert (folder / NGRAM_FILE).is_file()
    recognizer = Recognizer.load(report.folder, search=SearchConfig(method="beam", ngram_scale=0.5))
    prior = recognizer.engine.language_models.own
    assert isinstance(prior, TokenNgram)
    compared = compare_searches(recognizer, read_cuts(report.folder.parent / "data" / "dev_cuts.jsonl.gz"))
    assert {str(result.search): result.errors for result in compared} == {
        str(result.search): result.errors for result in report.validation.searches
    }
    copied = tmp_path / "mean"
    average_checkpoints(list(run_checkpoints(report.folder).values())[-2:], copied)
    assert (copied / NGRAM_FILE).read_bytes() == (report.folder / "model" / NGRAM_FILE).read_bytes()


def test_without_its_file_the_default_search_goes_on(
    report: TrainReport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = AsrModel.load(report.folder / "model")
    folder = model.save(tmp_path / "model", tokenizer)
    (folder / SEARCH_FILE).write_text('{"search": {"method": "joint", "ngram_scale": 0.5}}')
    assert Recognizer.load(folder).search == SearchConfig(method="joint")
    assert "lacks ngram.safetensors, which its default search uses" in caplog.text
    (folder / NGRAM_FILE).write_bytes((report.folder / "model" / NGRAM_FILE).read_bytes())
    assert Recognizer.load(folder).search == SearchConfig(method="joint", ngram_scale=0.5)


def test_log_names_every_search_and_the_chosen_one(report: TrainReport) -> None:
    assert report.validation is not None
    line = [line for line in read_metrics(report.folder) if line["kind"] == "dev"][-1]
    assert line["search"] == str(report.validation.best.search)
    assert line["searches"] == {str(r.search): round(r.wer, 4) for r in report.validation.searches}
    assert line["wer"] == report.wer == min(r.wer for r in report.validation.searches)


def test_recognizer_uses_the_search_of_the_folder_by_default(report: TrainReport, tmp_path: Path) -> None:
    model, tokenizer = AsrModel.load(report.folder / "model")
    folder = model.save(tmp_path / "model", tokenizer)
    assert Recognizer.load(folder).search.method == "beam"
    search = SearchConfig(method="greedy", max_symbols_per_frame=5)
    (folder / SEARCH_FILE).write_text(json.dumps({"search": search.changes()}))
    assert Recognizer.load(folder).search == search
    assert Recognizer.load(folder, search=SearchConfig(method="ctc_greedy")).search.method == "ctc_greedy"
    with_hotwords = Recognizer.load(folder, hotwords=["HI"])
    assert with_hotwords.search == SearchConfig(method="beam", max_symbols_per_frame=5)


def test_run_with_a_search_of_its_own_evaluates_with_it(tmp_path: Path) -> None:
    data = write_tones(tmp_path / "data", num_train=12, num_dev=4)
    config = without_heads(with_attention(minute_config(data, num_epochs=2)), has_transducer=False, has_ctc=True)
    config = dataclasses.replace(
        config, ctc_loss_scale=0.1, attention_loss_scale=0.9, search=SearchConfig(method="attention_rescoring", beam=20)
    )
    out = tmp_path / "run"
    report = train(config, out, is_quiet=True)
    found = read_default_search(out / "model")
    assert found is not None and report.validation is not None
    assert (found.search.method, found.search.beam) == ("attention_rescoring", 20)
    assert found.search.attention_scale in SCALES
    assert Recognizer.load(out).search == found.search == report.validation.best.search
    assert report.wer == report.validation.best.wer
    assert default_grid(Recognizer.load(out))["attention_scale"] == SCALES
    resumed = dataclasses.replace(config, num_epochs=3, search=None)
    assert train(resumed, out, is_quiet=True).validation is not None  # the search changes no step
    chosen = read_default_search(out / "model")
    assert chosen is not None and chosen.search.beam != 20


def test_search_that_a_run_cannot_have_is_refused() -> None:
    both = with_attention(minute_config())
    for setting, message in (
        ('search={"beam": 3}', "search must name a method with one hypothesis"),
        ('search={"method": "ctc_graph"}', "search must name a method with one hypothesis and no graph"),
        ('search={"method": "beam", "num_best": 2}', "search must name a method with one hypothesis"),
    ):
        with pytest.raises(ConfigError, match=message):
            set_fields(both, [setting])
    for config, method, head in (
        (minute_config(), "attention_rescoring", "attention"),
        (without_heads(both, has_transducer=True, has_ctc=False), "ctc_beam", "ctc"),
        (without_heads(both, has_transducer=False, has_ctc=True), "beam", "transducer"),
        (without_heads(both, has_transducer=True, has_ctc=False), "joint", "ctc"),
        (without_heads(both, has_transducer=False, has_ctc=True), "joint", "transducer"),
    ):
        with pytest.raises(ConfigError, match=rf"the search {method} needs the head model\.{head}, but it is None"):
            set_fields(config, [f'search={{"method": "{method}"}}'])


def test_average_takes_the_search_of_its_run_along(report: TrainReport, tmp_path: Path) -> None:
    checkpoints = list(run_checkpoints(report.folder).values())
    average_checkpoints(checkpoints[-2:], tmp_path / "mean")
    assert read_default_search(tmp_path / "mean") == read_default_search(report.folder / "model")
