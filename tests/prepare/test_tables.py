"""Contract: the cells of tables, as programs write them with and without quotation marks, of any length."""

import csv
from pathlib import Path

import pytest

from zipasr.prepare import tables
from zipasr.prepare.sources import open_source
from zipasr.prepare.utterance import Rejected, Utterance


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(table: Path) -> tuple[list[Utterance], list[Rejected]]:
    entries = list(open_source(table).entries)
    good = [entry for entry in entries if isinstance(entry, Utterance)]
    return good, [entry for entry in entries if isinstance(entry, Rejected)]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"she said ""hi"" to me"', 'she said "hi" to me'),
        ('"""hi"" she said"', '"hi" she said'),
        ('"one\ttwo"', "one\ttwo"),
        ('"well, yes"', "well, yes"),
        ('"well" and "yes, so"', '"well" and "yes, so"'),
        ('"hello"', '"hello"'),
        ('"hello', '"hello'),
        ('"', '"'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_cells_that_pandas_and_excel_quote_in_tables_with_tabs(tmp_path: Path, cell: str, text: str, encoding: str) -> None:
    table = tmp_path / "m.tsv"
    table.write_bytes(f"audio\ttext\tspeaker\na.wav\t{cell}\ts1\nb.wav\tplain\ts2\n".encode(encoding))
    good, bad = read(table)
    assert [(u.text, u.speaker) for u in good] == [(text, "s1"), ("plain", "s2")] and not bad


def test_a_quoted_sentence_of_common_voice_keeps_its_marks(tmp_path: Path) -> None:
    table = put(
        tmp_path / "train.tsv", 'client_id\tpath\tsentence\ns1\ta.mp3\t"Yes, sir."\ns1\tb.mp3\t"""Yes,"" he said."\n'
    )
    assert [u.text for u in read(table)[0]] == ['"Yes, sir."', '"Yes," he said.']


@pytest.mark.parametrize(("separator", "ending"), [("\t", "tsv"), ("|", "csv")])
def test_marks_around_all_names_of_columns_are_around_all_cells(tmp_path: Path, separator: str, ending: str) -> None:
    rows = [("audio", "text"), ("a.wav", "hello"), ("b.wav", f"one{separator}two\nthree")]
    lines = (separator.join(f'"{cell}"' for cell in row) for row in rows)
    good, bad = read(put(tmp_path / f"m.{ending}", "\n".join(lines) + "\n"))
    assert [u.text for u in good] == ["hello", f"one{separator}two\nthree"] and not bad


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_cell_may_hold_the_text_of_a_book(tmp_path: Path, separator: str) -> None:
    limit = csv.field_size_limit()
    book = "many words " * 20_000
    table = put(tmp_path / "m.csv", f"audio{separator}text\na.wav{separator}{book}\nb.wav{separator}x\n")
    entries = iter(open_source(table).entries)
    texts = []
    for entry in entries:
        assert isinstance(entry, Utterance)
        assert csv.field_size_limit() == limit  # a setting of the whole process
        texts.append(entry.text)
    assert texts == [book, "x"]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_cell_longer_than_any_book_is_rejected_for_its_length(
    tmp_path: Path, separator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MAX_CELL", 20)
    table = put(tmp_path / "m.csv", f"audio{separator}text\na.wav{separator}{'x' * 21}\nb.wav{separator}{'x' * 20}\n")
    good, bad = read(table)
    assert [u.text for u in good] == ["x" * 20]
    assert [entry.id for entry in bad] == ["m.csv:2"]
    assert bad[0].detail.startswith("expected cells of at most 20 characters, got ")
