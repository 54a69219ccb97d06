"""Texts of language models. Law: batches hold every line once, and equal lines stay together. Contract: files,
characters."""

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lm.language_text import tokenizer
from zipasr.errors import ConfigError, DataError
from zipasr.lm.texts import (
    HeldOutConfig,
    LabelLines,
    batches,
    check_characters,
    encode_lines,
    hold_out,
    read_texts,
)
from zipasr.tokenizer import Tokenizer


def test_every_kind_of_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone  two\r\n\n three\tfour \n\xff\xfe\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"five"))
    rows = [
        {"id": "x", "supervisions": [{"text": "six"}, {"text": None}, {"text": "seven"}]},
        {"audio": "x.wav", "text": "eight"},
        {"supervisions": []},
    ]
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    with caplog.at_level(logging.WARNING):
        found = read_texts([tmp_path / "a.txt", tmp_path / "b.txt.gz", str(tmp_path / "c.jsonl.gz")])
    assert found == ["one two", "three four", "five", "six", "seven", "eight"]
    assert "skipped 1 lines that are not UTF-8" in caplog.text
    (tmp_path / "d.txt").write_text("it’s\u200b cafe\u0301\n\u200b\n", encoding="utf-8")
    assert read_texts([tmp_path / "d.txt"]) == ["it's café"]


@pytest.mark.parametrize("row", ["{", '{"audio": "x"}', "[1]", '{"text": 5}', '{"supervisions": [5]}', '"text"'])
def test_damaged_manifests(tmp_path: Path, row: str) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "fine"}\n' + row + "\n")
    with pytest.raises(DataError, match=r"line 2 of .*c\.jsonl"):
        read_texts([tmp_path / "c.jsonl"])


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"a\.txt, but there is none; check the files"):
        read_texts([tmp_path / "a.txt"])
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read"):
        read_texts([tmp_path / "nowhere.txt"])


def test_held_out_lines_are_never_learned() -> None:
    lines = [f"line {i % 30}" for i in range(100)]
    train, held_out = hold_out(lines, HeldOutConfig(share=0.1))
    assert len(held_out) == 3 and not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(lines) and len(train) in (90, 91, 89)
    assert hold_out(lines, HeldOutConfig(share=0.1)) == (train, held_out)
    assert hold_out(lines, HeldOutConfig(share=0.1, seed=1)).held_out != held_out
    assert len(hold_out(lines, HeldOutConfig(share=0.5, max_lines=4)).held_out) == 4
    assert len(hold_out(["a", "b"], HeldOutConfig()).held_out) == 1
    with pytest.raises(DataError, match=r"there is only 1; give more text, .* --dev FILE"):
        hold_out(["a", "a"], HeldOutConfig())
    for fields in ({"share": 0.0}, {"share": 1.0}, {"max_lines": 0}):
        with pytest.raises(ConfigError, match="must be"):
            HeldOutConfig(**fields)


def test_characters(caplog: pytest.LogCaptureFixture) -> None:
    check_characters(["A B", "C D"], tokenizer(), max_share=0.0)
    with caplog.at_level(logging.WARNING):
        check_characters(["A B é"], tokenizer(), max_share=0.5)
    assert "1 of 3 characters are not in the vocabulary and count as <unk>: 'é' 1 times" in caplog.text
    with pytest.raises(ConfigError, match=r"but 2 of 5 characters \(40\.0%\) are not: 'é' 2 times; write the text as"):
        check_characters(["A é B", "C é"], tokenizer(), max_share=0.1)
    with pytest.raises(ConfigError, match=r"transcripts are written$"):  # an n-gram has no setting for it
        check_characters(["A é B", "C é"], tokenizer(), max_share=0.1)
    with pytest.raises(ConfigError, match=r"or accept more: --set max_unknown_share=0\.67$"):
        check_characters(["é é B"], tokenizer(), max_share=0.1, is_settable=True)
    check_characters(["é é B"], tokenizer(), max_share=0.67, is_settable=True)
    with pytest.raises(ConfigError, match="writes in upper case, so change the text to upper case"):
        check_characters(["a b c", "d"], tokenizer(), max_share=0.1)
    lower = Tokenizer.train(["a b c"], kind="char", vocab_size=None)
    with pytest.raises(ConfigError, match="writes in lower case"):
        check_characters(["A B C"], lower, max_share=0.1)


def test_lines_are_encoded_and_cut() -> None:
    lines = encode_lines(["A B", "C", "A B C D"], tokenizer(), max_labels=3)
    ids = [tokenizer().encode(text) for text in ("A B", "C", "A B C D")]
    expected = [ids[0][:3], ids[0][3:], ids[1], ids[2][:3], ids[2][3:6], ids[2][6:]]
    labels, lens = lines.batch(np.arange(len(expected)))
    assert [row[:length].tolist() for row, length in zip(labels, lens, strict=True)] == expected
    assert not any(row[length:].any() for row, length in zip(labels, lens, strict=True))
    assert lines.num_predicted == sum(map(len, expected)) + len(expected)


@given(
    lens=st.lists(st.integers(1, 20), min_size=1, max_size=60),
    batch_labels=st.integers(1, 60),
    seed=st.none() | st.integers(0, 2**60),
)
def test_batches_hold_every_line_once(lens: list[int], batch_labels: int, seed: int | None) -> None:
    lines = LabelLines(np.zeros(sum(lens), np.int32), np.cumsum(lens))
    parts = list(batches(lines, batch_labels=batch_labels, seed=seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lens)))
    for part in parts:
        assert len(part) == 1 or len(part) * (max(lens[i] for i in part) + 1) <= batch_labels
    again = batches(lines, batch_labels=batch_labels, seed=seed)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))


def test_seeds_shuffle_lines_and_batches() -> None:
    lines = LabelLines(np.zeros(400, np.int32), np.cumsum([4] * 50 + [2] * 100))
    orders = [np.concatenate(list(batches(lines, batch_labels=50, seed=seed))).tolist() for seed in (1, 2)]
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
