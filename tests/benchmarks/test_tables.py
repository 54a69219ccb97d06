"""benchmarks/tables.py and benchmarks/results. Contract: a table of the documentation is what its record gives; every record
says where it comes from, and is used."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
RECORDS = sorted((BENCHMARKS / "results").iterdir())
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tables

    return tables


def heads_of(path: Path) -> list[dict[str, Any]]:
    """The measurements in a record."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]


def test_pages_are_what_the_records_give() -> None:
    command = [sys.executable, str(BENCHMARKS / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_every_record_says_where_it_comes_from(path: Path) -> None:
    for head in heads_of(path):
        assert head["command"].strip()
        assert date.fromisoformat(head["date"]) >= date(2026, 11, 1)
        assert " of a" in head["machine"] or "GPU" in head["machine"], "name processor and number of cores"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_every_record_is_used(path: Path, tables: ModuleType) -> None:
    texts = [page.read_text(encoding="utf-8") for page in (*PAGES, BENCHMARKS / "LOG.md")]
    if any(path.name in text for text in texts):
        return
    original = path.read_text(encoding="utf-8")
    users = [name for name, content in (tables.TABLES | tables.FIGURES).items() if reads(content, path, tables)]
    marks = [mark for name in users for mark in (f"<!-- table {name} -->", f"<!-- figure {name} -->")]
    assert any(mark in text for mark in marks for text in texts), f"no page has a table of it, or names it: {users}"
    assert path.read_text(encoding="utf-8") == original


def reads(content: Any, path: Path, tables: ModuleType) -> bool:
    """Whether a table opens this record."""
    opened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        read_text = Path.read_text
        patch.setattr(Path, "read_text", lambda self, *a, **k: (opened.append(self.name), read_text(self, *a, **k))[1])
        content()
    return path.name in opened


def test_another_figure_on_a_page_is_noticed_and_corrected(tables: ModuleType) -> None:
    page = next(page for page in PAGES if "<!-- table scaled-adam -->" in page.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    start = text.index("<!-- table scaled-adam -->")
    row = text.index("| ScaledAdam |", start)
    wrong = text[:row] + "| ScaledAdam | 1 |" + text[row + len("| ScaledAdam |") :]
    assert tables.filled(wrong) == text


def test_a_table_without_content_gets_it(tables: ModuleType) -> None:
    text = tables.filled("Before.\n\n<!-- table hotwords -->\n<!-- end hotwords -->\n\nAfter.\n")
    assert text.startswith("Before.\n\n<!-- table hotwords -->\n\n| search |")
    assert text.endswith("\n\n<!-- end hotwords -->\n\nAfter.\n")
    assert tables.filled(text) == text


def test_a_figure_stands_in_a_sentence(tables: ModuleType) -> None:
    percent = json.loads((BENCHMARKS / "results" / "coverage.json").read_text())["percent"]
    text = tables.filled("They run <!-- figure coverage -->?<!-- end coverage --> of the lines.")
    assert text == f"They run <!-- figure coverage -->{percent:.0f} %<!-- end coverage --> of the lines."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<!-- table nothing -->\n<!-- end nothing -->\n", "the name must be one of "),
        ("<!-- table hotwords -->\n", "followed by <!-- end hotwords -->"),
        ("<!-- table hotwords -->\n<!-- table int8 -->\n<!-- end int8 -->\n<!-- end hotwords -->\n", "followed by"),
        ("<!-- end hotwords -->\n", "no beginning"),
        ("<!-- table hot words -->\n<!-- end hot words -->\n", "no beginning"),
    ],
)
def test_marks_that_are_wrong_are_errors(text: str, problem: str, tables: ModuleType) -> None:
    with pytest.raises(ValueError, match=problem):
        tables.filled(text)


def test_the_sentence_below_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tabulation import measured

    one = {"command": "a", "date": "2026-11-28", "machine": "two cores of an AMD EPYC"}
    assert measured(one, one) == "Measured on 28 November 2026 with `a`; two cores of an AMD EPYC."
    two = one | {"command": "a b --times 3 --fast"}, one | {"command": "a b --times 4 --fast"}, one | {"command": "a c"}
    assert "with `a b --times 3 --fast` and with `--times 4 --fast` and `a c`; two cores" in measured(*two)
    more = one | {"command": "a b --fast"}, one | {"command": "a b --fast --loud"}
    assert "with `a b --fast` and with `--loud`; two cores" in measured(*more)
    assert "with `a b --fast --loud` and `a b --fast`; two cores" in measured(*reversed(more))
    with pytest.raises(AssertionError, match="machine"):
        measured(one, one | {"machine": "one core of an AMD EPYC"})
