"""Contract: the real sherpa-onnx loads exported folders and finds the tokens that our searches find.

Random weights suffice, since both sides compute the same features up to rounding; with these seeds no two tokens compete
closely: frames with a random error of 2e-4 give the same ones. tests/test_trained.py makes the same comparison with the
model of the quick start.
"""

from pathlib import Path

import numpy as np
import pytest
import sherpa_onnx
import torch

from tests.export.models import random_model
from tests.export.sherpa import SEARCHES, constant_ctc_graph, sherpa_results, transcripts_without_padding
from tests.tiny_model import TEXTS, noise
from zipasr.export import ExportReport, export_model
from zipasr.export.readme import vocabulary_limits
from zipasr.onnx_runtime import load
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.search.hotwords import Hotword
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.model_file import table_model


@pytest.mark.parametrize("method", SEARCHES)
def test_sherpa_finds_what_we_find(method: str, model_dir: Path, report: ExportReport) -> None:
    recordings = [noise(2.0, seed=1), noise(1.1, seed=4), noise(3.3, seed=3)]
    transcripts = transcripts_without_padding(model_dir, recordings, method)
    num_tokens = 0
    for expected, result in zip(transcripts, sherpa_results(report.folder, recordings, method), strict=True):
        # our transcripts have no <sos/eos>; in sherpa-onnx only the CTC search emits <unk>
        found = [token for token in result.tokens if token not in ("<sos/eos>", "<unk>")]
        assert found == [token.text.replace("\u2581", " ") for token in expected.tokens if token.text != "<unk>"]
        num_tokens += len(expected.tokens)
    assert num_tokens > 5


BYTES = Tokenizer.train(["今天天气很好", "我们去北京 HELLO WORLD"] * 3, kind="bbpe", vocab_size=34)


def constant_graph(ids: list[int], vocab_size: int) -> bytes:
    """A CTC graph that finds these tokens in every recording."""
    emitted = [label for id in ids for label in (id, 0)]
    log_probs_TV = np.full((len(emitted), vocab_size), -20.0, np.float32)
    log_probs_TV[np.arange(len(emitted)), emitted] = 0.0
    return constant_ctc_graph(log_probs_TV)


def sherpa_text(tokenizer: Tokenizer, ids: list[int], folder: Path) -> str:
    tokenizer.save(folder)
    (folder / "model.onnx").write_bytes(constant_graph(ids, tokenizer.vocab_size))
    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt")
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(16_000, noise(1.0))
    recognizer.decode_stream(stream)
    text: str = stream.result.text
    return text


@pytest.mark.parametrize("text", ["今天天气很好", "我们去北京", "HELLO WORLD"])
def test_sherpa_decodes_byte_level_pieces(text: str, tmp_path: Path) -> None:
    ids = BYTES.encode(text)
    assert sherpa_text(BYTES, ids, tmp_path).strip() == BYTES.decode(ids) == text
    assert vocabulary_limits(BYTES) is None


def test_the_export_says_where_sherpa_does_not_notice_bytes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["café naïve"], kind="bbpe", vocab_size=13)
    assert sherpa_text(tokenizer, tokenizer.encode("café"), tmp_path).strip() == "cafũŏ"
    assert "shows letters such as é as two other letters" in str(vocabulary_limits(tokenizer))
    odd = Tokenizer.from_bytes(table_model(["a", "<unk>", "<blk>"]))
    assert "takes id 0 for the blank" in str(vocabulary_limits(odd))


def test_chinese_hotwords_of_byte_level_pieces_work_in_sherpa(tmp_path: Path) -> None:
    model = random_model(has_ctc=False, vocab_size=BYTES.vocab_size)
    assert model.transducer is not None
    with torch.no_grad():  # all tokens are as likely, so that only the hotwords decide
        model.transducer.joiner.output.weight.mul_(0.001)
    model.save(tmp_path / "model", BYTES)
    folder = export_model(tmp_path / "model", tmp_path / "exported").folder
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "--modeling-unit=bbpe --bpe-vocab=bpe.vocab" in readme and "in Chinese characters" in readme
    (tmp_path / "hotwords.txt").write_text("北京\n", encoding="utf-8")
    given = {"hotwords_file": str(tmp_path / "hotwords.txt"), "bpe_vocab": str(folder / "bpe.vocab")}
    (result,) = sherpa_results(
        folder, [noise(2.0)], "beam", max_active_paths=100, hotwords_score=50.0, modeling_unit="bbpe", **given
    )
    assert "北京" in result.text
    exported = load(folder)
    recognizer = Recognizer(exported.scorer, exported.tokenizer, search=SearchConfig(method="beam", beam=60))
    hotwords = [Hotword("北京", 50.0), Hotword("HELLO", 50.0)]
    text = recognizer.transcribe(noise(2.0), hotwords=hotwords).text
    assert "北京" in text or "HELLO" in text.split()


@pytest.mark.parametrize("kind", ["bpe", "char", "unigram"])
def test_hotwords_of_sherpa_work_with_the_files_and_flags_of_the_readme(kind: str, tmp_path: Path) -> None:
    """A boost that outweighs any model makes the phrase appear, written with the pieces that our tokenizer gives it."""
    tokenizer = Tokenizer.train(TEXTS, kind=kind, vocab_size=None if kind == "char" else 48)  # type: ignore[arg-type]
    model = random_model(has_ctc=False, vocab_size=tokenizer.vocab_size)
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
