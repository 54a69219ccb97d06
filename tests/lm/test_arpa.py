"""ARPA files. Reference: a dictionary and a recursion. Contract: damaged files are refused with a cure."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.lm.random_sentences import zipf_sentences
from tests.lm.slow_ngram import parse, sentence_log_prob
from zipasr.errors import DataError
from zipasr.lm.arpa import read_arpa
from zipasr.lm.estimate import estimate_ngram
from zipasr.lm.ngram import NgramModel

BIGRAM = """
\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-0.5\ta\t-0.2
-0.6\tb\t-0.1
-2\t<unk>

\\2-grams:
-0.2\t<s> a
-0.3\ta b
-0.4\tb </s>

\\end\\
"""


def write(path: Path, text: str = BIGRAM) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_scores_are_those_of_the_file(tmp_path: Path, order: int) -> None:
    path = tmp_path / "a.arpa"
    estimate_ngram(zipf_sentences(0), path, order=order)
    model, arpa = NgramModel(read_arpa(path)), parse(path)
    for sentence in [*zipf_sentences(2, num=60), [], ["new"], ["w1", "new", "w1"]]:
        assert model.sentence_log_prob(sentence) == pytest.approx(sentence_log_prob(arpa, sentence), abs=1e-4)


def test_sentence_by_hand(tmp_path: Path) -> None:
    model = NgramModel(read_arpa(write(tmp_path / "a.arpa")))
    assert model.sentence_log_prob(["a", "b"]) / np.log(10) == pytest.approx(-0.2 - 0.3 - 0.4, abs=1e-5)
    assert model.sentence_log_prob(["b", "a"]) / np.log(10) == pytest.approx(-0.9 - 0.6 - 1.2, abs=1e-5)
    assert model.sentence_log_prob(["zz"]) / np.log(10) == pytest.approx(-0.3 - 2 - 1, abs=1e-5)
    assert len(model) == 5  # a, b, <unk>, <s> a, a b
    assert model.known_symbols == ["a", "b"]


def test_gzip_line_ends_and_names_change_nothing(tmp_path: Path) -> None:
    plain = NgramModel(read_arpa(write(tmp_path / "a.arpa"))).sentence_log_prob(["a", "a", "b"])
    (tmp_path / "named otherwise").write_bytes(gzip.compress(BIGRAM.encode()))
    (tmp_path / "-dos.arpa").write_bytes(BIGRAM.replace("\n", "\r\n").encode())
    for name in ("named otherwise", "-dos.arpa"):
        assert NgramModel(read_arpa(tmp_path / name)).sentence_log_prob(["a", "a", "b"]) == plain


@pytest.mark.parametrize("is_gzipped", [False, True])
def test_text_after_the_end_is_no_part_of_the_model(tmp_path: Path, is_gzipped: bool) -> None:
    content = f"{BIGRAM}\nWritten by hand.\n-0.1\tc\n\\3-grams:\n-0.1\ta b a\n".encode()
    path = tmp_path / "more.arpa"
    path.write_bytes(gzip.compress(content) if is_gzipped else content)
    plain, found = (NgramModel(read_arpa(p)) for p in (write(tmp_path / "plain.arpa"), path))
    assert found.known_symbols == plain.known_symbols == ["a", "b"]
    assert found.sentence_log_prob(["a", "a", "b"]) == plain.sentence_log_prob(["a", "a", "b"])


@pytest.mark.parametrize("is_gzipped", [False, True])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, is_gzipped: bool) -> None:
    """As editors on Windows write it."""
    content = BIGRAM.encode("utf-8-sig")
    path = tmp_path / "bom.arpa"
    path.write_bytes(gzip.compress(content) if is_gzipped else content)
    plain = read_arpa(write(tmp_path / "plain.arpa"))
    read = read_arpa(path)
    assert read.symbols == plain.symbols
    assert np.array_equal(read.arc_scores, plain.arc_scores)


def test_a_binary_of_kenlm_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lm.bin"
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\x00" + bytes(1000))
    with pytest.raises(DataError, match="is a binary of KenLM, but must be an ARPA file"):
        read_arpa(path)


def test_words_of_any_script(tmp_path: Path) -> None:
    word = "\u00e9t\u00e9\u2028x"
    text = BIGRAM.replace("\ta\t", f"\t{word}\t").replace("<s> a", f"<s> {word}").replace("\ta b", f"\t{word} b")
    model = NgramModel(read_arpa(write(tmp_path / "a.arpa", text)))
    assert model.known_symbols == [word, "b"]
    assert model.sentence_log_prob([word, "b"]) / np.log(10) == pytest.approx(-0.2 - 0.3 - 0.4, abs=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ngram 2=3", "ngram 2=7", "its header, 5 of order 1, 7 of order 2, but holds 5 of order 1, 3 of order 2"),
        ("ngram 2=3\n", "", "5 of order 1, but holds 5 of order 1, 3 of order 2"),
        ("-0.3\ta b\n", "", "holds 5 of order 1, 2 of order 2"),
        ("\\end\\", "", "it was cut short"),
        ("-0.3\ta b", "minus\ta b", "line 15 .*invalid n-gram logprob 'minus'"),
        ("-0.3\ta b", "-0.3\ta", "line 15"),
        ("-0.3\ta b", "-0.3\ta zz", "longer n-grams of zz without one"),
        ("-0.3\ta b", "0.3\ta b", "0 or below, but .* holds 0.3"),
        ("-0.3\ta b", "nan\ta b", "damaged|logprob"),
        ("ngram 1=5", "ngram 3=5", "has the orders"),
        ("-99\t<s>\t-0.3", "-99\tstart\t-0.3", "<s>"),
        ("\\data\\", "\\dada\\", "section missing"),
        (BIGRAM, "hello\n", "is it another kind of file"),
        (BIGRAM, "", "is it another kind of file"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in BIGRAM
    path = write(tmp_path / "bad.arpa", BIGRAM.replace(old, new))
    with pytest.raises(DataError, match=message) as raised:
        read_arpa(path)
    assert "bad.arpa" in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.arpa cannot be read.*check the path"):
        read_arpa(tmp_path / "nowhere.arpa")
    with pytest.raises(DataError, match="cannot be read"):
        read_arpa(tmp_path)
    (tmp_path / "cut.arpa.gz").write_bytes(gzip.compress(BIGRAM.encode())[:-20])
    with pytest.raises(DataError, match=r"cut\.arpa\.gz cannot be read"):
        read_arpa(tmp_path / "cut.arpa.gz")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """A file cut at any line is an error, never a crash or a model of the remaining lines."""
    lines = BIGRAM.splitlines(keepends=True)
    for kept in range(0, len(lines) - 1, 2):
        with pytest.raises(DataError):
            read_arpa(write(tmp_path / "cut.arpa", "".join(lines[:kept])))


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaldilm", None)
    with pytest.raises(DataError, match=r'pip install "zipasr\[lm\]"'):
        read_arpa(write(tmp_path / "a.arpa"))
