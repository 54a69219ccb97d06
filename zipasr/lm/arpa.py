"""N-gram files in ARPA format, plain or gzipped: `read_arpa` -> `NgramGraph`, a backoff automaton in flat arrays.

kaldilm converts the file to an automaton whose states are histories. It aborts its process on an invalid file and therefore
runs in a separate process; what it does not check (the counts of the header, words without a unigram) is checked here.
Scores are natural logarithms; an n-gram takes 16 bytes.
"""

import codecs
import gzip
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zipasr.errors import DataError
from zipasr.lfs import HEAD_BYTES, refuse_pointer
from zipasr.lines import bounded_lines, refuse_device

BEGIN, END = "<s>", "</s>"
"""Symbols of the start and the end of a sentence in an ARPA file."""
BACKOFF = "#0"
"""kaldilm's symbol of the backoff arc to a shorter history."""

_GZIP_MAGIC, _KENLM_MAGIC = b"\x1f\x8b", b"mmap lm http://kheafield.com/code format version"
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)$")
_SECTION = re.compile(rb"\\(\d+)-grams:$")
_BACKOFF_ID = 1  # in the table of symbols that kaldilm writes, after <eps>
_ROUNDING = 1e-4  # nats; rounding in files may make a log-probability exceed 0 by this

logger = logging.getLogger(__name__)


class NgramGraph(NamedTuple):
    """States are histories; arcs, sorted by key, are n-grams; each state but `bottom` backs off to a shorter history."""

    symbols: list[str]
    """The symbol of each id."""
    start: int
    """State after the start of a sentence."""
    bottom: int
    """State of the empty history."""
    arc_keys: NDArray[np.int64]
    """state * len(symbols) + symbol id of each arc."""
    arc_targets: NDArray[np.int32]
    """State after each arc."""
    arc_scores: NDArray[np.float32]
    """Log-probability of each arc, in nats."""
    backoff_targets: NDArray[np.int32]
    """State of the shorter history; the bottom backs off to itself."""
    backoff_scores: NDArray[np.float32]
    """Log-weight of backing off, in nats."""
    final_scores: NDArray[np.float32]
    """Log-probability of the end of the sentence, in nats; NaN if it requires backing off."""


def require_kaldilm() -> None:
    """Refuse early what will read an ARPA file.

    Raises:
        DataError: kaldilm is not installed.
    """
    if importlib.util.find_spec("kaldilm") is None:
        raise DataError('reading an ARPA file needs kaldilm, but it is not installed; pip install "zipasr[lm]"')


def read_arpa(path: str | os.PathLike[str]) -> NgramGraph:
    """Read an ARPA file.

    Raises:
        DataError: the file is missing, damaged, truncated or inconsistent, or kaldilm is not installed.
    """
    require_kaldilm()
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix="zipasr-arpa-") as folder:
        plain, automaton, table = (Path(folder) / name for name in ("plain.arpa", "automaton.txt", "symbols.txt"))
        _copy_checked(path, plain)
        _convert(plain, automaton, table, shown=path)
        text = table.read_text(encoding="utf-8", errors="replace").replace("\t", " ").rstrip("\n")
        # Not splitlines: words may contain characters that it treats as line ends.
        symbols = [line.rpartition(" ")[0].strip() for line in text.split("\n")]
        return _graph(automaton, symbols, path)


def _copy_checked(path: Path, copy: Path) -> None:
    """Copy a file, decompressed and with \\n line ends, and compare its header with its content."""
    expected: dict[int, int] = {}
    found: dict[int, int] = {}
    section, is_whole = 0, False
    try:
        with _open(path) as source, copy.open("wb") as target:
            for number, line in enumerate(bounded_lines(source)):
                if is_whole:
                    continue  # what follows \end\ is no part of the model; it is read, since gzip's checksum comes last
                line = line.removeprefix(codecs.BOM_UTF8 if number == 0 else b"").strip()
                target.write(line + b"\n")  # kaldilm treats \r as part of the last word
                if match := _SECTION.match(line):
                    section = int(match[1])
                    found[section] = 0
                elif line.startswith(b"\\"):
                    is_whole = line == b"\\end\\"
                elif line and section:
                    found[section] += 1
                elif count := _COUNT.match(line):
                    expected[int(count[1])] = int(count[2])
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"an ARPA file must be readable, but {path} cannot be read: {error}; check the path or copy it again"
        ) from error
    if not expected or list(expected) != list(range(1, len(expected) + 1)):
        raise DataError(
            f"an ARPA file must start with \\data\\ and a line 'ngram 1=...' for each order, but {path} has "
            f"{'none' if not expected else f'the orders {_listed(expected)}'}; is it another kind of file?"
        )
    if found != expected:
        raise DataError(
            f"{path} must hold the n-grams of its header, {_listed(expected)}, but holds {_listed(found)}; "
            "it is damaged or cut short, so copy it again or have it written anew"
        )
    if not is_whole:
        raise DataError(f"{path} must end with \\end\\, but does not; it was cut short, so copy it again")


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        refuse_device(file)
        head = file.peek(HEAD_BYTES)
    refuse_pointer(head, path, DataError)
    if head.startswith(_KENLM_MAGIC):
        raise DataError(
            f"{path} is a binary of KenLM, but must be an ARPA file; use the file that build_binary made it from, or have "
            "lmplz write it"
        )
    return gzip.open(path, "rb") if head.startswith(_GZIP_MAGIC) else path.open("rb")  # type: ignore[return-value]


def _listed(counts: dict[int, int]) -> str:
    return ", ".join(f"{number} of order {order}" for order, number in sorted(counts.items())) or "none"


def _convert(plain: Path, automaton: Path, table: Path, *, shown: Path) -> None:
    """Write the automaton and its symbol table with kaldilm."""
    options = [f"--disambig-symbol={BACKOFF}", f"--bos-symbol={BEGIN}", f"--eos-symbol={END}"]
    command = [sys.executable, "-P", "-m", "kaldilm", *options, "--write-symbol-table", str(table), str(plain)]
    with automaton.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=False)
    lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines()]
    if done.returncode != 0:
        reasons = [line.removeprefix("[E]").strip() for line in lines if line.startswith("[E]")] or lines[-1:]
        reason = "; ".join(reasons) or f"exit code {done.returncode}"
        raise DataError(f"{shown} must be an ARPA file that kaldilm can read, but is not: {reason}; have it written anew")
    for line in lines:
        if line.startswith("[W]"):
            logger.warning("%s: %s", shown, line.removeprefix("[W]").strip())


def _graph(automaton: Path, symbols: list[str], path: Path) -> NgramGraph:
    """Parse the lines of an automaton, `from to symbol symbol [cost]` or `state [cost]`, into arrays."""
    arcs = array("i"), array("i"), array("i"), array("f")  # state, symbol, target, cost
    final_states, final_costs = array("i"), array("f")
    start = -1
    for fields in _fields(automaton):
        if start < 0:
            start = int(fields[0])
        if len(fields) >= 4:
            for column, value in zip(arcs[:3], (fields[0], fields[2], fields[1]), strict=True):
                column.append(int(value))
            arcs[3].append(float(fields[4]) if len(fields) > 4 else 0.0)
        else:
            final_states.append(int(fields[0]))
            final_costs.append(float(fields[1]) if len(fields) > 1 else 0.0)
    if start < 0:
        raise DataError(f"{path} must hold n-grams, but holds none; have it written anew")
    states, labels, targets, ends = (np.asarray(column, np.int32) for column in (*arcs[:3], final_states))
    scores = -np.asarray(arcs[3], np.float32)
    num_states = 1 + max(start, *(int(ids.max()) for ids in (states, targets, ends) if ids.size))
    backoff_targets, backoff_scores = np.arange(num_states, dtype=np.int32), np.zeros(num_states, np.float32)
    is_backoff = labels == _BACKOFF_ID
    backoff_targets[states[is_backoff]] = targets[is_backoff]
    backoff_scores[states[is_backoff]] = scores[is_backoff]
    final_scores = np.full(num_states, np.nan, np.float32)
    final_scores[ends] = -np.asarray(final_costs, np.float32)
    states, labels, targets, scores = (column[~is_backoff] for column in (states, labels, targets, scores))
    keys = states.astype(np.int64) * len(symbols) + labels
    order = np.argsort(keys, kind="stable")
    bottom = start
    while backoff_targets[bottom] != bottom:
        bottom = int(backoff_targets[bottom])
    _check_arcs(symbols, labels, labels[states == bottom], scores, path)
    return NgramGraph(
        symbols,
        start,
        bottom,
        keys[order],
        targets[order],
        scores[order],
        backoff_targets,
        backoff_scores,
        final_scores,
    )


def _fields(automaton: Path) -> Iterator[list[str]]:
    with automaton.open(encoding="ascii") as file:
        for line in file:
            if fields := line.split():
                yield fields


def _check_arcs(
    symbols: list[str], labels: NDArray[np.int32], unigrams: NDArray[np.int32], scores: NDArray[np.float32], path: Path
) -> None:
    strays = [symbols[i] for i in np.setdiff1d(labels, unigrams)[:5]]
    if strays:
        raise DataError(
            f"{path} must hold a unigram of every word, but holds longer n-grams of {', '.join(strays)} without one; it is "
            "damaged, so copy it again or have it written anew"
        )
    if scores.size and not float(scores.max()) <= _ROUNDING:
        raise DataError(
            f"log-probabilities must be 0 or below, but {path} holds {float(scores.max()) / np.log(10):.4g}; it is "
            "damaged, so copy it again or have it written anew"
        )
