"""Contract: one `zipasr train-lm` command trains every kind of language model, and refuses flags without effect."""

from pathlib import Path

import pytest

from tests.tiny_model import save_tiny, tiny_tokenizer
from zipasr.cli import main
from zipasr.lm import NeuralPrior, TokenNgram, WordNgram, load_language_model, load_token_ngram

LINES = ["THE QUICK BROWN FOX", "JUMPS OVER THE LAZY DOG", "PACK MY BOX", "FIVE DOZEN JUGS", "ONE TWO THREE FOUR"] * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    save_tiny(folder / "asr")
    (folder / "text.txt").write_text("\n".join(LINES))
    (folder / "dev.txt").write_text("THE BROWN DOG\n")
    return folder


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return ["train-lm", str(folder / "text.txt"), "--model", str(folder / "asr"), "--out", str(out), *more]


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_neural(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str) -> None:
    small = ["--set", "network.dim=16", "--set", "num_epochs=2", "--set", "network.num_layers=1"]
    assert main(command(folder, tmp_path / "lm", "--kind", kind, *small)) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path / 'lm' / 'model'}: ") and captured.out.count("\n") == 1
    assert "2 epochs of " in captured.out and captured.out.endswith("per token on 1 held-out lines\n")
    assert "epoch 2: perplexity" in captured.err
    assert isinstance(load_language_model(tmp_path / "lm", tiny_tokenizer()), NeuralPrior)
    assert main(command(folder, tmp_path / "lm", "--kind", kind, *small, "--no-progress")) == 0
    again = capsys.readouterr()
    assert again.out == captured.out and again.err == ""


def test_ngrams(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    dev = ["--dev", str(folder / "dev.txt")]
    assert main(command(folder, tmp_path / "a.arpa", "--kind", "ngram", "--order", "2", *dev)) == 0
    assert ": 2-gram of tokens with " in capsys.readouterr().out
    assert isinstance(load_token_ngram(tmp_path / "a.arpa", tiny_tokenizer()), TokenNgram)
    assert main(command(folder, tmp_path / "b.arpa.gz", "--kind", "ngram", "--unit", "word", *dev)) == 0
    assert "3-gram of words with " in capsys.readouterr().out
    assert isinstance(load_language_model(tmp_path / "b.arpa.gz", tiny_tokenizer()), WordNgram)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--order", "2"], 2, "--order has no effect on a neural model"),
        (["--unit", "word"], 2, "--unit has no effect"),
        (["--kind", "ngram", "--set", "lr=1"], 2, "--set has no effect on an n-gram"),
        (["--kind", "ngram"], 2, "must end in .arpa"),
        (["--kind", "ngram", "--order", "0"], 2, "must end in .arpa"),
        (["--set", "learning_rate=1"], 2, "there is no setting learning_rate"),
        (["--set", "network.dim=x"], 2, "network.dim must be a whole number"),
        (["--kind", "other"], 2, "invalid choice"),
        (["--dev", "NOWHERE"], 1, "NOWHERE cannot be read"),
        (["--model", "NOWHERE"], 1, "NOWHERE must be a model folder"),
    ],
)
def test_refuses(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], code: int, message: str
) -> None:
    assert main(command(folder, tmp_path / "out", *more)) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_text_in_another_case(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "text.txt").write_text("\n".join(LINES).lower())
    arguments = ["train-lm", str(tmp_path / "text.txt"), "--model", str(folder / "asr"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "the recognizer writes in upper case" in capsys.readouterr().err
