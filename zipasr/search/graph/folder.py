"""Folders of graphs: `graph.fst` (OpenFst), `words.txt` (symbols of its outputs) and `graph.json` (what it was made of).

`HLG.fst`, if it was asked for, is the same graph for sherpa-onnx, with blanks and repeats of CTC and the same `words.txt`.
A graph belongs to a vocabulary; `graph.json` has its hash, so that a graph of another model is refused.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.checkpoint import write_text
from zipasr.errors import ConfigError, DataError
from zipasr.lines import parse_json, read_lines
from zipasr.search.graph.ctc_topology import add_ctc_topology
from zipasr.search.graph.openfst import read_graph, write_graph
from zipasr.search.graph.token_graph import TokenGraph
from zipasr.tokenizer import Tokenizer

GRAPH_FILE, WORDS_FILE, ABOUT_FILE = "graph.fst", "words.txt", "graph.json"
"""Names of the files of a folder."""
HLG_FILE = "HLG.fst"
"""The graph with the topology of CTC, for other programs."""
EPSILON = "<eps>"
"""The symbol of no output in words.txt."""

_FORMAT = 1
_FIELDS = {"format": object, "name": str, "vocabulary": str, "made_of": dict, "settings": dict, "files": dict}


class LoadedGraph(NamedTuple):
    """A graph with what its folder says about it."""

    graph: TokenGraph
    """The graph."""
    name: str
    """Its name, by which servers offer it."""
    settings: dict[str, Any]
    """How to decode under it, such as {"rejection": 0.7}."""
    made_of: dict[str, Any]
    """What it was made of, such as {"grammar": "orders.jsgf"}."""


def save_graph(
    folder: str | os.PathLike[str],
    graph: TokenGraph,
    tokenizer: Tokenizer,
    *,
    name: str | None = None,
    made_of: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    has_hlg: bool = False,
) -> TokenGraph | None:
    """Write a graph into a folder, created if missing; an earlier graph there is replaced.

    Args:
        folder: the folder.
        graph: the graph.
        tokenizer: that of the model for which the graph was compiled.
        name: name of the graph; None: that of the folder.
        made_of: what it was made of, for people.
        settings: how to decode under it.
        has_hlg: whether to write `HLG.fst` too.
    Returns:
        The graph of `HLG.fst`; None: it was not asked for.
    Raises:
        ConfigError: a symbol cannot stand in words.txt.
        DataError: the folder cannot be written.
        CheckpointError: the same, as for other files of models.
    """
    folder = Path(folder)
    for symbol in graph.symbols[1:]:
        if symbol.strip() != symbol or not symbol or len(symbol.splitlines()) > 1:
            raise ConfigError(f"an output must be text in one line without spaces around, but is {symbol!r}; change it")
    hlg = None
    if has_hlg:
        hlg = graph if graph.has_ctc_topology else add_ctc_topology(graph, tokenizer.blank_id)
    lines = (f"{symbol or EPSILON} {i}\n" for i, symbol in enumerate(graph.symbols))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT_FILE).unlink(missing_ok=True)  # written last: a folder without it is incomplete
        (folder / HLG_FILE).unlink(missing_ok=True)
        write_graph(graph, folder / GRAPH_FILE)
        if hlg is not None:
            write_graph(hlg, folder / HLG_FILE)
        (folder / WORDS_FILE).write_text("".join(lines), encoding="utf-8", newline="\n")
        about = {
            "format": _FORMAT,
            "name": folder.resolve().name if name is None else name,
            "vocabulary": vocabulary_hash(tokenizer),
            "made_of": dict(made_of or {}),
            "settings": dict(settings or {}),
            "files": {file: _hash_of((folder / file).read_bytes()) for file in (GRAPH_FILE, WORDS_FILE)},
        }
        write_text(folder / ABOUT_FILE, _to_text(about))
    except OSError as error:
        raise DataError(
            f"{folder} must be writable, but is not: {error.strerror}; check permissions and free space"
        ) from error
    return hlg


def load_graph(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> LoadedGraph:
    """Read a graph from a folder.

    Args:
        folder: a folder that `save_graph` wrote, such as `zipasr compile-graph` does.
        tokenizer: that of the model that decodes.
    Raises:
        ConfigError: the graph is one for another vocabulary.
        DataError: the folder is missing, incomplete or damaged.
    """
    folder = Path(folder)
    about = _read_about(folder)
    if about["vocabulary"] != vocabulary_hash(tokenizer):
        raise ConfigError(
            f"the graph in {folder} must be one for the vocabulary of this model ({tokenizer.vocab_size} tokens), but was "
            "compiled for another model's; compile it anew with: zipasr compile-graph MODEL ... --out DIR"
        )
    for file, expected in about["files"].items():
        _check_file(folder / file, expected)
    symbols = read_symbols(folder / WORDS_FILE)
    graph = read_graph(folder / GRAPH_FILE, num_tokens=tokenizer.vocab_size, blank_id=tokenizer.blank_id, symbols=symbols)
    return LoadedGraph(graph, about["name"], about["settings"], about["made_of"])


def write_settings(folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Change settings of the graph in a folder; those that are not named stay.

    Raises:
        ConfigError: a value is no finite number, text, truth value or None.
        DataError: the folder is missing, incomplete or damaged.
        CheckpointError: it cannot be written.
    """
    folder = Path(folder)
    for name, value in settings.items():
        if not (value is None or isinstance(value, str | int | float)) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise ConfigError(f"the setting {name} must be a finite number, text, true, false or none, but is {value!r}")
    about = _read_about(folder)
    about["settings"] |= dict(settings)
    write_text(folder / ABOUT_FILE, _to_text(about))


def read_symbols(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read a words.txt: a symbol and its index in each line, from 0 on in any order; `<eps>` is 0.

    Indices that no line has, as in the tables of some recipes, get the number itself as their symbol.

    Raises:
        DataError: the file cannot be read, or a line has no symbol or index, or one that another line has.
    """
    path = Path(path)
    found: dict[int, str] = {}
    for number, line in read_lines(path):
        symbol, _, index = (line or "").replace("\t", " ").rstrip().rpartition(" ")
        if line is not None and not line.strip():
            continue
        if not symbol.strip() or not (index.isascii() and index.isdigit()) or int(index) in found:
            raise DataError(
                f"{path} must have a symbol and an index of its own in each line, but line {number} is "
                f"{'no UTF-8' if line is None else repr(line[:60])}; restore the file from its original"
            )
        found[int(index)] = symbol.strip()
    if not found:
        raise DataError(f"{path} must have symbols, but is empty; restore the file from its original")
    if max(found) > 10 * len(found) + 1000:
        raise DataError(
            f"{path} must have the indices 0, 1, 2, ..., but has {max(found)}; restore the file from its original"
        )
    return ("", *(found.get(i, str(i)) for i in range(1, max(found) + 1)))


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """Return a hash of the tokens of a model, in hexadecimal; a model and its exported graphs have the same."""
    return _hash_of("\n".join((str(tokenizer.blank_id), *tokenizer.pieces)).encode())


def _to_text(about: dict[str, Any]) -> str:
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace").decode()  # names of files may not be UTF-8


def _hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT_FILE
    cure = "write it with: zipasr compile-graph MODEL ... --out DIR"
    try:
        about = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{folder} must be the folder of a graph, but {path} cannot be read: {error.strerror}; {cure}"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} must describe a graph, but is damaged: {error}; {cure}") from error
    kinds = _FIELDS.items()
    if not (isinstance(about, dict) and all(name in about and isinstance(about[name], kind) for name, kind in kinds)):
        raise DataError(f"{path} must have the fields {', '.join(_FIELDS)}, but is damaged or something else; {cure}")
    if about["format"] != _FORMAT:
        raise DataError(f"{path} must have format {_FORMAT}, but has {about['format']!r}; update zipasr, or {cure}")
    if sorted(about["files"]) != sorted((GRAPH_FILE, WORDS_FILE)):
        raise DataError(f"{path} must list {GRAPH_FILE} and {WORDS_FILE}, but lists {', '.join(about['files'])}; {cure}")
    return about


def _check_file(path: Path, expected: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} must be a file of a graph, but cannot be read: {error.strerror}; compile it anew"
        ) from error
    if _hash_of(content) != expected:
        raise DataError(f"{path} must be as it was written, but has changed since; compile it anew, or copy it again")
