"""Contract: the real sherpa-onnx loads exported folders and finds the tokens that our searches find.

Random weights suffice, since both sides compute the same features up to rounding; with these seeds no two tokens compete
closely. tests/test_trained.py makes the same comparison with the model of the quick start.
"""

from pathlib import Path

import pytest
import torch

from tests.export.models import random_model
from tests.export.sherpa import SEARCHES, sherpa_results, transcripts_without_padding
from tests.tiny_model import TEXTS, noise
from zipasr.export import ExportReport, export_model
from zipasr.tokenizer import Tokenizer


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


@pytest.mark.parametrize("kind", ["bpe", "char", "unigram"])
def test_hotwords_of_sherpa_work_with_the_files_and_flags_of_the_readme(kind: str, tmp_path: Path) -> None:
    """A boost that outweighs any model makes the phrase appear, written with the pieces that our tokenizer gives it."""
    tokenizer = Tokenizer.train(TEXTS, kind=kind, vocab_size=None if kind == "char" else 48)  # type: ignore[arg-type]
    model = random_model(vocab_size=tokenizer.vocab_size)
    assert model.transducer is not None
    with torch.no_grad():  # all tokens are as likely, so that only the hotwords decide
        model.transducer.joiner.output.weight.mul_(0.001)
    model.save(tmp_path / "model", tokenizer)
    folder = export_model(tmp_path / "model", tmp_path / "exported").folder
    (tmp_path / "hotwords.txt").write_text("BROWN FOX\n")
    (flags,) = [line.split() for line in (folder / "README.md").read_text().splitlines() if "--hotwords-file" in line]
    given = dict(flag.removeprefix("--").replace("-", "_").split("=") for flag in flags)
    assert given.keys() == {"hotwords_file", "hotwords_score", "modeling_unit", "bpe_vocab"}
    given |= {"hotwords_file": str(tmp_path / "hotwords.txt"), "bpe_vocab": str(folder / given["bpe_vocab"])}
    expected = [tokenizer.pieces[i].replace("\u2581", " ") for i in tokenizer.encode("BROWN FOX")]
    wide = {"max_active_paths": 100}  # a phrase must be in the beam before its boost counts
    (without,) = sherpa_results(folder, [noise(2.0)], "beam", **wide)
    (result,) = sherpa_results(folder, [noise(2.0)], "beam", **wide, **given | {"hotwords_score": 50.0})
    assert "BROWN FOX" not in without.text
    assert "BROWN FOX" in result.text
    assert any(result.tokens[i : i + len(expected)] == expected for i in range(len(result.tokens)))
