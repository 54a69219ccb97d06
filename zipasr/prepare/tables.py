"""Files of rows: JSON lines, a JSON document, or a table -> dictionaries of strings or JSON values, with line numbers.

The kind is recognized by the content. A line that cannot be read becomes a `Rejected` and does not stop the others.
"""

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.lines import parse_json, read_lines
from zipasr.prepare.utterance import Rejected, bad_line

_SEPARATORS = {"\t": "TSV", ",": "CSV", ";": "CSV with semicolons", "|": "table with |"}
_HEAD_BYTES = 4096
_MAX_CELL = 1 << 22
"""Characters of a cell: more than any book has, so that a quotation mark that is never closed does not take in all rows."""
Numbered = tuple[int, dict[str, Any] | Rejected]
"""The number of a line, from 1, and its row."""


class RowFile(NamedTuple):
    """A file of rows whose format is known."""

    path: Path
    format: str
    """In words, such as JSON lines."""
    names: tuple[str, ...]
    """Names of the columns, or of the values of the first row."""
    separator: str | None = None
    """Between the columns of a table; None: JSON."""
    has_header: bool = True
    """Whether the first line of a table holds the names of its columns."""
    is_quoted: bool = False
    """Whether quotation marks around a cell of a table never belong to it: in CSV, and where the header has them, too."""

    def rows(self) -> Iterator[Numbered]:
        """Yield the rows with their line numbers."""
        if self.separator is not None:
            yield from _table_rows(self)
        elif self.format == "JSON":
            yield from ((number, row) for number, row in enumerate(_document_rows(self.path), start=1))
        else:
            yield from _json_lines(self.path)


def possible_formats(path: Path) -> Iterator[RowFile]:
    """Yield the formats that the start of a file allows: one for JSON, one per separator in the first line of a table.

    Raises:
        DataError: the file cannot be read.
    """
    if _is_binary(path):
        return
    first = next((line for _, line in read_lines(path) if line is None or line.strip()), "") or ""
    if first.lstrip()[:1] in ("{", "["):
        row = _parsed(first)
        if isinstance(row, dict) and not all(isinstance(value, dict) for value in row.values()):
            yield RowFile(path, "JSON lines", tuple(row))
        else:
            rows = _document_rows(path)
            yield from (RowFile(path, "JSON", tuple(row)) for row in rows[:1])
        return
    for separator, format in _SEPARATORS.items():
        if separator in first:
            with suppress(csv.Error):
                is_quoted = separator in ",;" or all(map(_is_in_marks, first.split(separator)))
                cells = _next_cells(_cells([first], separator, is_quoted=is_quoted)) or []
                yield RowFile(path, format, tuple(cell.strip() for cell in cells), separator, is_quoted=is_quoted)


def _is_binary(path: Path) -> bool:
    """Whether a file, unless it is compressed, starts with something other than text."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False  # `read_lines` says why it cannot be read
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return path.suffix != ".gz" and not is_utf16 and b"\0" in head


def _parsed(line: str) -> Any:
    """The value of a line of JSON; None if it is none."""
    try:
        return parse_json(line)
    except ValueError:
        return None


def _document_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one JSON document: a list of objects, or an object of objects by their ids; empty for any other."""
    lines = [line for _, line in read_lines(path)]
    document = None if None in lines else _parsed("\n".join(line or "" for line in lines))
    if isinstance(document, dict) and all(isinstance(row, dict) for row in document.values()):
        return [{"id": id, **row} for id, row in document.items()]
    is_list = isinstance(document, list) and all(isinstance(row, dict) for row in document)
    return document if is_list and document is not None else []


def _json_lines(path: Path) -> Iterator[Numbered]:
    """The rows of a file with one JSON object per line."""
    for number, line in read_lines(path):
        if line is None:
            yield number, bad_line(path, number)
        elif line.strip():
            try:
                row = parse_json(line)
                detail = f"expected a JSON object, got {type(row).__name__}"
            except ValueError as error:
                row, detail = None, f"expected one JSON object per line, got {error}"
            yield number, row if isinstance(row, dict) else bad_line(path, number, detail)


def _cells(lines: Iterable[str], separator: str, *, is_quoted: bool) -> Iterator[list[str]]:
    """The cells of the rows of a table; see `RowFile.is_quoted`."""
    if is_quoted:
        return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)


def _next_cells(reader: Iterator[list[str]]) -> list[str] | None:
    """The cells of the next row, each of at most `_MAX_CELL` characters; None after the last one."""
    limit = csv.field_size_limit(_MAX_CELL)  # for the whole process
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _is_in_marks(cell: str) -> bool:
    """Whether a cell starts and ends with a quotation mark, and those in it are doubled."""
    cell = cell.strip()
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _unquoted(file: RowFile, cells: Sequence[str]) -> Sequence[str]:
    """The cells of a row of a table with tabs or bars, without the quotation marks that pandas and Excel put around some.

    In such tables a quotation mark mostly belongs to the text. Marks around a cell do not if others in it are doubled, if
    the row has the right number of cells only without them, or, in tables with tabs, if the cell has a comma. Common Voice
    never quotes because of commas, and its sentences may be quotations.
    """
    if len(cells) != len(file.names) and file.separator is not None:
        with suppress(csv.Error):
            parsed = _next_cells(csv.reader([file.separator.join(cells)], delimiter=file.separator, strict=True)) or []
            return parsed if len(parsed) == len(file.names) else cells
    has_commas = file.separator == "\t" and "client_id" not in file.names
    is_marked = (_is_in_marks(cell) and ('""' in cell[1:-1] or (has_commas and "," in cell)) for cell in cells)
    return [cell.strip()[1:-1].replace('""', '"') if marked else cell for cell, marked in zip(cells, is_marked, strict=True)]


def _table_rows(file: RowFile) -> Iterator[Numbered]:
    """The rows of a table. A cell in quotation marks may hold line breaks."""
    undecodable: list[int] = []
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for number, line in read_lines(file.path):
            last = number
            if line is None:
                undecodable.append(number)
            elif line.strip():
                yield f"{line}\n"

    is_header, problem = file.has_header, ""
    assert file.separator is not None
    reader = _cells(lines(), file.separator, is_quoted=file.is_quoted)
    while True:
        start = last + 1
        cells: list[str] | None = None
        try:
            cells, problem = _next_cells(reader), ""
        except csv.Error as error:
            expected = (
                f"cells of at most {_MAX_CELL} characters" if "field limit" in str(error) else "quotation marks in pairs"
            )
            problem = f"expected {expected}, got {error} in lines {start} to {last}; none of them is used"
        yield from ((number, bad_line(file.path, number)) for number in undecodable)
        undecodable.clear()
        if problem:
            yield start, bad_line(file.path, start, problem)
        elif cells is None:
            return
        elif is_header:
            is_header = False
        else:
            yield last, _row(file, cells, start, last)


def _row(file: RowFile, cells: Sequence[str], start: int, last: int) -> dict[str, Any] | Rejected:
    """The row of the cells of a line, or of several if a cell holds line breaks."""
    cells = cells if file.is_quoted else _unquoted(file, cells)
    if len(cells) == len(file.names):
        return dict(zip(file.names, cells, strict=True))
    where = f" in lines {start} to {last}" if last > start and len(cells) > 1 else ""
    return bad_line(file.path, last, f"expected {len(file.names)} columns, got {len(cells)}{where}")
