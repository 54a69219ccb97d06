"""Training language models. Run: perplexity falls to what the language allows; resume is bit-identical, after Ctrl-C too.
Law: the reported perplexity is the model's own. Contract: what a run refuses."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from tests.lm.language_text import sentences, tokenizer, write_text
from tests.lm.slow_ngram import parse, sentence_log_prob
from zipasr.errors import CheckpointError, ConfigError, DataError, ZipasrError
from zipasr.lm import LstmConfig, NeuralPrior, TokenNgram, TransformerConfig, WordNgram, load_language_model, training
from zipasr.lm.texts import HeldOutConfig, read_and_split
from zipasr.lm.training import LmTrainConfig, default_config, train_language_model, train_ngram
from zipasr.tokenizer import Tokenizer

NETWORKS = {
    "lstm": LstmConfig(dim=24, num_layers=2, dropout=0.1),
    "transformer": TransformerConfig(dim=24, num_layers=2, num_heads=2, feedforward=48, context_labels=8, dropout=0.1),
}


def small(kind: str = "lstm", **fields: object) -> LmTrainConfig:
    defaults = LmTrainConfig(
        network=NETWORKS[kind], batch_labels=300, lr=0.01, warmup_batches=5, num_epochs=3, patience_epochs=10, device="cpu"
    )
    return dataclasses.replace(defaults, **fields)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_learns_the_language(tmp_path: Path, kind: str) -> None:
    """Letters alternate with spaces and have one or two successors, so the perplexity is far below the 5 of chance."""
    text, dev = write_text(tmp_path / "text.txt", 300), write_text(tmp_path / "dev.txt", 100, seed=1)
    report = train_language_model(
        [text], tokenizer(), tmp_path / "run", small(kind, num_epochs=12), dev=[dev], is_quiet=True
    )
    lengths = [len(line.split()) for line in sentences(100, seed=1)]
    # Each word has an uncertain letter; each line also has an uncertain length, 1 of 7.
    truth = sum(n * math.log(2) * 0.8 + math.log(7) for n in lengths) / sum(2 * n + 1 for n in lengths)
    assert math.exp(truth) * 0.9 < report.perplexity < math.exp(truth) * 1.3
    assert report.num_held_out_lines == 100 and report.unit == "token" and report.model == tmp_path / "run" / "model"


def test_its_perplexity_is_that_of_the_saved_model(tmp_path: Path, text: Path) -> None:
    dev = write_text(tmp_path / "dev.txt", 30, seed=1)
    report = train_language_model([text], tokenizer(), tmp_path / "run", small(), dev=[dev], is_quiet=True)
    prior = load_language_model(tmp_path / "run", tokenizer())
    assert isinstance(prior, NeuralPrior)
    rows = [tokenizer().encode(line) for line in sentences(30, seed=1)]
    nll = -sum(prior.rescore(rows)) / sum(len(row) + 1 for row in rows)
    assert report.perplexity == pytest.approx(math.exp(nll), rel=1e-4)


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_resume_is_bit_identical(tmp_path: Path, text: Path, kind: str) -> None:
    for name, parts in (("whole", [4]), ("parts", [1, 3, 4])):
        for num_epochs in parts:
            torch.manual_seed(num_epochs)  # the random state of the process does not matter
            report = train_language_model(
                [text], tokenizer(), tmp_path / name, small(kind, num_epochs=num_epochs), is_quiet=True
            )
    assert report.description.endswith("4 epochs of 1504 labels")
    for part in ("model", "checkpoint"):
        assert contents(tmp_path / "whole" / part) == contents(tmp_path / "parts" / part)


@pytest.mark.parametrize("place", ["in an epoch", "between model and checkpoint"])
def test_interrupted_anywhere_it_resumes_to_the_same_end(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    train_language_model([text], tokenizer(), tmp_path / "whole", small(), is_quiet=True)
    calls = []

    def interrupt(self: object) -> None:
        calls.append(self)
        if len(calls) == (8 if place == "in an epoch" else 2):
            raise KeyboardInterrupt
        original(self)

    name = "_set_rate" if place == "in an epoch" else "_save"
    original = getattr(training._LmRun, name)
    monkeypatch.setattr(training._LmRun, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_language_model([text], tokenizer(), tmp_path / "parts", small(), is_quiet=True)
    monkeypatch.undo()
    assert json.loads((tmp_path / "parts" / "checkpoint" / "training.json").read_text())["epoch"] == 1
    train_language_model([text], tokenizer(), tmp_path / "parts", small(), is_quiet=True)
    for part in ("model", "checkpoint"):
        assert contents(tmp_path / "whole" / part) == contents(tmp_path / "parts" / part)


def test_a_finished_run_only_reports(tmp_path: Path, text: Path) -> None:
    first = train_language_model([text], tokenizer(), tmp_path / "run", small(), is_quiet=True)
    before = contents(tmp_path / "run")
    assert train_language_model([text], tokenizer(), tmp_path / "run", small(), is_quiet=True) == first
    assert contents(tmp_path / "run") == before


def test_the_best_model_is_kept_and_training_stops(tmp_path: Path, text: Path) -> None:
    """With a rate far too high after the first epochs, no better model comes: the rate falls and patience ends the run."""
    config = small(lr=0.5, num_epochs=50, patience_epochs=2, lr_factor=0.9)
    report = train_language_model([text], tokenizer(), tmp_path / "run", config, is_quiet=True)
    training = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())
    assert training["num_bad"] == 2 and training["epoch"] < 50 and training["best"] == report.perplexity
    prior = load_language_model(tmp_path / "run", tokenizer())
    held_out = read_and_split([text], [], tokenizer(), HeldOutConfig(), max_unknown_share=0.0).held_out
    rows = [tokenizer().encode(line) for line in held_out]
    assert isinstance(prior, NeuralPrior)
    nll = -sum(prior.rescore(rows)) / sum(len(row) + 1 for row in rows)
    assert report.perplexity == pytest.approx(math.exp(nll), rel=1e-4)


def test_losses_that_are_not_finite_are_reported(tmp_path: Path, text: Path) -> None:
    with pytest.raises(ZipasrError, match=r"must be finite, but is (nan|inf) in epoch 1; lower .*--set lr="):
        train_language_model([text], tokenizer(), tmp_path / "run", small(lr=1e30, max_grad_norm=1e9), is_quiet=True)


def test_losses_without_a_perplexity_are_reported(tmp_path: Path, text: Path) -> None:
    """Above 700 nats the perplexity overflows, though the loss is finite."""
    with pytest.raises(ZipasrError, match=r"must be at most 700 nats per label, but is \d\S+ in epoch 1; lower .*--set lr="):
        train_language_model([text], tokenizer(), tmp_path / "run", small(lr=3000.0), is_quiet=True)


def test_other_settings_texts_and_vocabularies_are_refused(tmp_path: Path, text: Path) -> None:
    out = tmp_path / "run"
    train_language_model([text], tokenizer(), out, small(num_epochs=1), is_quiet=True)
    with pytest.raises(ConfigError, match=r"other settings: lr \(was 0\.01, now 0\.02\)\. Use the same"):
        train_language_model([text], tokenizer(), out, small(lr=0.02), is_quiet=True)
    other = write_text(tmp_path / "other.txt", seed=5)
    with pytest.raises(ConfigError, match="other settings: the texts"):
        train_language_model([other], tokenizer(), out, small(), is_quiet=True)
    wider = Tokenizer.train([*sentences(20), "Z"], kind="char", vocab_size=None)
    with pytest.raises(ConfigError, match="the tokenizer"):
        train_language_model([text], wider, out, small(), is_quiet=True)


def test_other_folders_are_refused(tmp_path: Path, text: Path) -> None:
    """Above all the folder of a recognizer is refused, whose model/ would be overwritten."""
    (tmp_path / "asr" / "model").mkdir(parents=True)
    with pytest.raises(ConfigError, match="but holds model; choose another --out"):
        train_language_model([text], tokenizer(), tmp_path / "asr", small(), is_quiet=True)
    with pytest.raises(ConfigError, match="is a file; an n-gram needs --kind ngram"):
        train_language_model([text], tokenizer(), text, small(), is_quiet=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, text: Path) -> None:
    train_language_model([text], tokenizer(), tmp_path / "run", small(num_epochs=1), is_quiet=True)
    path = tmp_path / "run" / "checkpoint" / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="damaged"):
        train_language_model([text], tokenizer(), tmp_path / "run", small(), is_quiet=True)
    (tmp_path / "run" / "train_lm.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"train_lm\.json cannot be read: .*another --out"):
        train_language_model([text], tokenizer(), tmp_path / "run", small(), is_quiet=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0"),
        ({"lr_factor": 1.5}, "at most 1, but is 1.5"),
        ({"batch_labels": 0}, "batch_labels must be at least 1"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0"),
    ],
)
def test_settings_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**fields)


def test_default_networks() -> None:
    assert isinstance(default_config("lstm").network, LstmConfig)
    assert isinstance(default_config("transformer").network, TransformerConfig)


# n-grams


@pytest.mark.parametrize(("unit", "kind"), [("token", TokenNgram), ("word", WordNgram)])
def test_ngram_perplexity_is_that_of_the_file(tmp_path: Path, text: Path, unit: str, kind: type) -> None:
    dev = write_text(tmp_path / "dev.txt", 30, seed=1)
    report = train_ngram([text], tokenizer(), tmp_path / "a.arpa", order=3, unit=unit, dev=[dev])
    arpa, total, num = parse(tmp_path / "a.arpa"), 0.0, 0
    for line in sentences(30, seed=1):
        symbols = line.split() if unit == "word" else [tokenizer().pieces[i] for i in tokenizer().encode(line)]
        total, num = total + sentence_log_prob(arpa, symbols), num + len(symbols) + 1
    assert report.perplexity == pytest.approx(math.exp(-total / num), rel=1e-4)
    assert report.unit == unit and report.description.startswith(f"3-gram of {unit}s with ")
    assert isinstance(load_language_model(tmp_path / "a.arpa", tokenizer()), kind)


def test_ngram_counts_unknown_words(tmp_path: Path, text: Path) -> None:
    (tmp_path / "dev.txt").write_text("A B\nAD BC A\n")
    report = train_ngram([text], tokenizer(), tmp_path / "a.arpa.gz", order=2, unit="word", dev=[tmp_path / "dev.txt"])
    assert report.description.endswith("2 of the 7 held-out words unknown")


def test_ngram_refuses(tmp_path: Path, text: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.arpa, \.arpa\.gz or \.safetensors, but is .*run"):
        train_ngram([text], tokenizer(), tmp_path / "run", order=2, unit="token")
    with pytest.raises(ConfigError, match="token or word, but is 'letter'"):
        train_ngram([text], tokenizer(), tmp_path / "a.arpa", order=2, unit="letter")
    table = Tokenizer.train(["ABCD"], kind="spaceless", vocab_size=None)
    with pytest.raises(ConfigError, match="use --unit token"):
        train_ngram([text], table, tmp_path / "a.arpa", order=2, unit="word")
    with pytest.raises(DataError, match="cannot be read"):
        train_ngram([tmp_path / "nowhere.txt"], tokenizer(), tmp_path / "a.arpa", order=2, unit="token")
    assert not (tmp_path / "a.arpa").exists()


def test_says_what_to_install_before_it_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaldilm", None)
    (tmp_path / "text.txt").write_text("ONE TWO\n" * 50)
    with pytest.raises(DataError, match=r'pip install "zipasr\[lm\]"'):
        train_ngram([tmp_path / "text.txt"], tokenizer(), tmp_path / "a.arpa", order=2, unit="token")
    assert not (tmp_path / "a.arpa").exists()
